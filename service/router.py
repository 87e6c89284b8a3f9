"""Which model server answers for which model."""

from collections.abc import Sequence

from service.backends import Backend
from service.errors import Refusal


class Router:
    """Finds the backend of a model."""

    def __init__(self, backends: Sequence[Backend]) -> None:
        self._backends = {name: backend for backend in backends for name in backend.models}

    @property
    def models(self) -> Sequence[tuple[str, str]]:
        """The models there are, each with the kind of model server behind it."""
        return [(name, backend.kind) for name, backend in self._backends.items()]

    def backend(self, model: str) -> Backend:
        """Return the backend of a model. Raises `Refusal` with the names there are."""
        if backend := self._backends.get(model):
            return backend
        names = ", ".join(f"'{name}'" for name in self._backends)
        if not model:
            message = f"Missing required parameter: 'model'. There is {names}."
            raise Refusal("missing_required_parameter", message, "model")
        message = f"There is no model '{model[:64]}' here. There is {names}."
        raise Refusal("model_not_found", message, "model")
