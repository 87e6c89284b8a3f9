from pathlib import Path

import pytest

from service.backends.llama_cpp.embedded import Embedded, EmbeddedModel
from service.errors import ModelError
from tests.service.backends.llama_cpp.conversing import converse, prompt, user


async def test_a_model_runs_in_this_process_until_it_is_stopped(
    tiny_weights: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    backend = Embedded(EmbeddedModel(weights=tiny_weights, name="tiny", context=4096, slots=1))
    await backend.start()
    try:
        assert backend.models == ["tiny"]
        turn = await converse(backend, prompt(user("hello")))
        assert turn.finished.output_tokens > 0
    finally:
        await backend.stop()
    assert capfd.readouterr() == ("", "")


async def test_weights_that_cannot_be_loaded_are_a_model_error(tmp_path: Path) -> None:
    weights = tmp_path / "broken.gguf"
    weights.write_bytes(b"no model")
    backend = Embedded(EmbeddedModel(weights=weights, name="broken"))
    with pytest.raises(ModelError, match=r"broken\.gguf cannot be loaded"):
        await backend.start()
    await backend.stop()


async def test_stopping_what_never_started_is_nothing(tiny_weights: Path) -> None:
    await Embedded(EmbeddedModel(weights=tiny_weights, name="tiny")).stop()


async def test_conversations_are_saved_in_a_directory_that_goes_with_the_model(
    tiny_weights: Path, tmp_path: Path
) -> None:
    model = EmbeddedModel(
        weights=tiny_weights,
        name="tiny",
        context=4096,
        slots=1,
        spilled=2,
        spill_directory=tmp_path,
    )
    backend = Embedded(model)
    await backend.start()
    first = await converse(backend, prompt(user("ann " * 50), conversation="ann", store=True))
    await converse(backend, prompt(user("bob " * 50), conversation="bob", store=True))
    assert files(tmp_path)
    again = prompt(user("more"), history=[first.segment], conversation="ann")
    assert (await converse(backend, again)).finished.cached_tokens > 100
    await backend.stop()
    assert not files(tmp_path)


async def test_a_place_where_nothing_can_be_saved_is_a_model_error(
    tiny_weights: Path, tmp_path: Path
) -> None:
    place = tmp_path / "nowhere"
    model = EmbeddedModel(weights=tiny_weights, name="tiny", spilled=1, spill_directory=place)
    with pytest.raises(ModelError, match="Nothing can be saved"):
        await Embedded(model).start()


def files(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file()]
