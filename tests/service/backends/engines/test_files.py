import hashlib
from pathlib import Path

import pytest

from service.backends.engines.files import MOST_BYTES, ends_of, read_from, unpacked
from service.errors import ModelError
from tests.stand_ins.engine_server import zipped

FILES = {"tokenizer.json": b"{}", "chat_template.jinja": b"hello"}


def test_an_archive_is_unpacked() -> None:
    archive = zipped(FILES)
    assert unpacked(archive, hashlib.sha256(archive).hexdigest()) == FILES


@pytest.mark.parametrize("archive", [b"", b"no zip", zipped(FILES)[:-30]])
def test_what_is_no_archive_is_a_model_error(archive: bytes) -> None:
    with pytest.raises(ModelError, match="no zip archive"):
        unpacked(archive, "")


def test_an_archive_that_was_damaged_is_noticed() -> None:
    with pytest.raises(ModelError, match="damaged"):
        unpacked(zipped(FILES), "0" * 64)


def test_an_archive_that_would_fill_the_memory_is_not_unpacked() -> None:
    bomb = bytearray(zipped(FILES))
    size = bomb.index(b"PK\x01\x02") + 24  # what its directory says of its first file
    bomb[size : size + 4] = (MOST_BYTES + 1).to_bytes(4, "little")
    with pytest.raises(ModelError, match="too large"):
        unpacked(bytes(bomb), "")


def test_a_directory_is_read_without_its_weights(tmp_path: Path) -> None:
    for name, data in {**FILES, "model.safetensors": b"weights"}.items():
        (tmp_path / name).write_bytes(data)
    assert read_from(tmp_path) == FILES
    with pytest.raises(ModelError, match="cannot be read"):
        read_from(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("found", "ends"),
    [
        ({}, set()),
        ({"config.json": b'{"eos_token_id": 2}'}, {2}),
        ({"generation_config.json": b'{"eos_token_id": [3, 4]}', "config.json": b"{}"}, {3, 4}),
        ({"config.json": b'{"eos_token_id": null}'}, set()),
    ],
)
def test_a_model_s_files_say_which_tokens_end_an_answer(
    found: dict[str, bytes], ends: set[int]
) -> None:
    assert ends_of(found) == ends
