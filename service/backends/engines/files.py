"""The files that come with a model: from an engine's archive, or from a directory."""

import hashlib
import io
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import orjson

from service.errors import ModelError
from service.rendering import Files

MOST_BYTES = 256 * 1024 * 1024
"""Of a model's files, packed or not."""

_SUFFIXES = {".json", ".jinja", ".model", ".tiktoken", ".txt"}
_NAME_ENDS = ("generation_config.json", "config.json")
"""Where a model's files say which tokens end an answer."""


def unpacked(archive: bytes, digest: str) -> Files:
    """Return what is in a zip archive with this SHA-256. Raises `ModelError`."""
    if digest and hashlib.sha256(archive).hexdigest() != digest:
        raise ModelError("server_error", "The engine's tokenizer arrived damaged.")
    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as packed:
            _check_budget(member.file_size for member in packed.infolist())
            return {name: packed.read(name) for name in packed.namelist()}
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise ModelError("server_error", "The engine's tokenizer is no zip archive.") from error


def read_from(directory: Path) -> Files:
    """Return a model's files, without its weights. Raises `ModelError`."""
    try:
        found = [path for path in directory.iterdir() if path.suffix in _SUFFIXES]
        _check_budget(path.stat().st_size for path in found)
        return {path.name: path.read_bytes() for path in found}
    except OSError as error:
        raise ModelError("server_error", "The tokenizer's directory cannot be read.") from error


def ends_of(files: Files) -> frozenset[int]:
    """Return the tokens that end an answer, as far as the model's files say."""
    return frozenset(end for name in _NAME_ENDS for end in _ends(files.get(name, b"{}")))


def _ends(config: bytes) -> Iterator[int]:
    try:
        said = orjson.loads(config)
    except orjson.JSONDecodeError as error:
        raise ModelError("server_error", "The model's configuration is no JSON.") from error
    ends = said.get("eos_token_id") if isinstance(said, dict) else None
    yield from (end for end in (ends if isinstance(ends, list) else [ends]) if isinstance(end, int))


def _check_budget(sizes: Iterable[int]) -> None:
    if sum(sizes) > MOST_BYTES:
        raise ModelError("server_error", "The model's tokenizer files are too large.")
