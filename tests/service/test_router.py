"""Which backend answers for which name."""

import pytest

from service.backends.simulator.backend import Simulator
from service.errors import Refusal
from service.router import Router


def refusal(router: Router, model: str) -> Refusal:
    with pytest.raises(Refusal) as refused:
        router.backend(model)
    return refused.value


def test_a_model_is_found_by_its_name_and_by_its_aliases() -> None:
    one, two = Simulator(["one"]), Simulator(["two"])
    router = Router([one, two], {"default": "two"})
    assert router.backend("one") is one
    assert router.backend("two") is two
    assert router.backend("default") is two


def test_aliases_are_listed_like_models() -> None:
    router = Router([Simulator(["one"])], {"default": "one", "lost": "gone"})
    assert router.models == [("one", "simulator"), ("default", "simulator")]


def test_a_model_that_is_not_there_is_refused_with_the_names_there_are() -> None:
    router = Router([Simulator(["one", "two"])])
    unknown, missing = refusal(router, "three"), refusal(router, "")
    assert (unknown.code, unknown.param) == ("model_not_found", "model")
    assert (missing.code, missing.param) == ("missing_required_parameter", "model")
    assert all("'one', 'two'" in error.message for error in (unknown, missing))


def test_a_refusal_names_some_of_many_models_and_says_where_the_others_are() -> None:
    names = [f"model-{number}" for number in range(400)]
    message = refusal(Router([Simulator(names)]), "other").message
    assert len(message) < 500
    assert "/v1/models" in message


def test_models_come_and_go() -> None:
    router, backend = Router(), Simulator(["one"])
    assert "No model" in refusal(router, "one").message
    router.add(backend)
    assert router.backend("one") is backend
    router.remove(backend)
    assert router.models == []
    assert refusal(router, "one").code == "model_not_found"
