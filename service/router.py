"""Which backend answers for which model."""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from service.backends import Backend
from service.errors import Refusal

_NAMED = 20
"""Models that a refusal names: there may be hundreds."""


class Router:
    """Finds the backend of a model."""

    def __init__(
        self, backends: Iterable[Backend] = (), aliases: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        """`aliases` are other names of models, each with the name that it stands for."""
        self._backends: dict[str, Backend] = {}
        self._aliases = aliases
        for backend in backends:
            self.add(backend)

    @property
    def models(self) -> Sequence[tuple[str, str]]:
        """The names that clients may use, each with the kind of model server behind it."""
        names = [*self._backends, *(name for name in self._aliases if name not in self._backends)]
        found = ((name, self._find(name)) for name in names)
        return [(name, backend.kind) for name, backend in found if backend]

    def add(self, backend: Backend) -> None:
        """Have a backend answer for its models."""
        self._backends |= dict.fromkeys(backend.models, backend)

    def remove(self, backend: Backend) -> None:
        """Have a backend answer for nothing any more."""
        self._backends = {n: other for n, other in self._backends.items() if other is not backend}

    def backend(self, model: str) -> Backend:
        """Return the backend of a model. Raises `Refusal` with the names there are."""
        if backend := self._find(model):
            return backend
        if not model:
            message = f"Missing required parameter: 'model'. {self._names()}"
            raise Refusal("missing_required_parameter", message, "model")
        message = f"There is no model '{model[:64]}' here. {self._names()}"
        raise Refusal("model_not_found", message, "model")

    def _find(self, model: str) -> Backend | None:
        return self._backends.get(model) or self._backends.get(self._aliases.get(model, ""))

    def _names(self) -> str:
        names = [f"'{name}'" for name, _ in self.models]
        if len(names) > _NAMED:
            return f"There is {', '.join(names[:_NAMED])} and more: see /v1/models."
        return f"There is {', '.join(names)}." if names else "No model is being served right now."
