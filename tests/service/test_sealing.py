"""Sealed texts open for whom they were sealed, unchanged, and for nobody else."""

import base64
import secrets
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.sealing import MARK, Seal, Unsealed, plain_length

KEY, OTHER_KEY = bytes(range(32)), bytes(range(32, 64))
SEAL = Seal([KEY])
BASE64URL = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def cannot_open(seal: Seal, text: str, tenant: str = "alice", purpose: str = "notes") -> str:
    with pytest.raises(Unsealed) as refused:
        seal.open(tenant, purpose, text)
    return str(refused.value)


def key_file(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "sealing_keys"
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def encoded(key: bytes) -> str:
    return base64.b64encode(key).decode()


@given(st.text(), st.text(), st.binary())
def test_what_was_sealed_opens_for_the_same_tenant_and_purpose(
    tenant: str, purpose: str, plaintext: bytes
) -> None:
    assert SEAL.open(tenant, purpose, SEAL.seal(tenant, purpose, plaintext)) == plaintext


@given(st.data())
def test_no_character_of_a_sealed_text_can_be_changed(data: st.DataObject) -> None:
    text = SEAL.seal("alice", "notes", b"what was said" * data.draw(st.integers(0, 3)))
    place = data.draw(st.integers(0, len(text) - 1))
    character = data.draw(st.sampled_from(BASE64URL + "=.+/ \né"))
    changed = text[:place] + character + text[place + 1 :]
    if changed != text:
        cannot_open(SEAL, changed)


@given(st.data())
def test_a_sealed_text_can_be_neither_cut_nor_extended(data: st.DataObject) -> None:
    text = SEAL.seal("alice", "notes", b"what was said")
    cannot_open(SEAL, text[: data.draw(st.integers(0, len(text) - 1))])
    cannot_open(SEAL, text + data.draw(st.text(BASE64URL + "=", min_size=1)))


@given(st.text())
def test_any_other_text_is_refused(text: str) -> None:
    cannot_open(SEAL, text)
    cannot_open(SEAL, MARK + text)


def test_a_sealed_text_is_worthless_to_another_tenant_and_for_another_purpose() -> None:
    text = SEAL.seal("alice", "notes", b"what was said")
    cannot_open(SEAL, text, tenant="bob")
    cannot_open(SEAL, text, purpose="reasoning")
    cannot_open(SEAL, SEAL.seal("b", "a", b""), tenant="", purpose="a\0b")


def test_every_failure_is_told_alike_and_tells_nothing() -> None:
    text = SEAL.seal("alice", "notes", b"what was said")
    messages = {
        cannot_open(SEAL, text[:-1]),
        cannot_open(SEAL, "v2" + text[2:]),
        cannot_open(SEAL, ""),
        cannot_open(SEAL, text, tenant="bob"),
        cannot_open(Seal([OTHER_KEY]), text),
    }
    assert len(messages) == 1
    assert not {"alice", "bob", text} & set(messages.pop().split())


def test_the_same_plaintext_never_looks_the_same_twice() -> None:
    texts = {SEAL.seal("alice", "notes", b"what was said") for _ in range(8)}
    assert len(texts) == 8
    assert all(text.startswith(MARK) and text.isascii() for text in texts)


def test_repetitive_plaintexts_are_compressed() -> None:
    assert len(SEAL.seal("alice", "notes", b"again and again " * 1000)) < 1000


def test_what_unpacks_to_more_than_is_allowed_is_refused() -> None:
    bomb = Seal([KEY], most_bytes=1_000_000).seal("alice", "notes", bytes(1_000_000))
    assert len(bomb) < 10_000
    cannot_open(Seal([KEY], most_bytes=999_999), bomb)
    assert Seal([KEY], most_bytes=1_000_000).open("alice", "notes", bomb) == bytes(1_000_000)


@given(st.binary())
def test_how_long_a_text_is_shows_before_it_is_opened(plaintext: bytes) -> None:
    assert plain_length(SEAL.seal("alice", "notes", plaintext)) == len(plaintext)


@pytest.mark.parametrize("length", [0, 12, 14, 2**32 - 1])
def test_a_text_that_lies_about_its_length_does_not_open(length: int) -> None:
    text = SEAL.seal("alice", "notes", b"what was said")
    data = bytearray(base64.urlsafe_b64decode(text[len(MARK) :] + "=="))
    data[20:24] = length.to_bytes(4)
    lying = MARK + base64.urlsafe_b64encode(data).rstrip(b"=").decode()
    assert plain_length(lying) == length
    cannot_open(SEAL, lying)


@given(st.text())
def test_any_other_text_has_no_length_worth_an_error(text: str) -> None:
    assert plain_length(text) == 0
    assert plain_length(MARK + text) >= 0


def test_what_could_not_be_opened_again_is_not_sealed() -> None:
    with pytest.raises(ValueError, match="at most 10 bytes"):
        Seal([KEY], most_bytes=10).seal("alice", "notes", bytes(11))


def test_a_new_key_takes_over_and_the_old_one_still_opens() -> None:
    old, rotated = Seal([KEY]), Seal([OTHER_KEY, KEY])
    assert rotated.open("alice", "notes", old.seal("alice", "notes", b"before")) == b"before"
    after = rotated.seal("alice", "notes", b"after")
    assert Seal([OTHER_KEY]).open("alice", "notes", after) == b"after"
    cannot_open(old, after)


def test_an_ephemeral_seal_opens_only_its_own() -> None:
    seal = Seal.ephemeral()
    text = seal.seal("alice", "notes", b"what was said")
    assert seal.open("alice", "notes", text) == b"what was said"
    cannot_open(Seal.ephemeral(), text)


@pytest.mark.parametrize("keys", [[], [b""], [bytes(31)], [KEY, bytes(16)]])
def test_keys_have_32_bytes_and_there_is_at_least_one(keys: list[bytes]) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        Seal(keys)


def test_a_file_of_keys_has_the_newest_first(tmp_path: Path) -> None:
    new = secrets.token_bytes(32)
    path = key_file(tmp_path, "# newest first", "", f"{encoded(new)}  # May", encoded(KEY))
    seal = Seal.read(path)
    assert seal.open("alice", "notes", SEAL.seal("alice", "notes", b"before")) == b"before"
    assert Seal([new]).open("alice", "notes", seal.seal("alice", "notes", b"after")) == b"after"


@pytest.mark.parametrize("line", ["secretstuff", encoded(bytes(31)), encoded(KEY) * 2, "ünïcode"])
def test_a_line_that_is_no_key_is_named_by_its_number_only(tmp_path: Path, line: str) -> None:
    with pytest.raises(ValueError, match="line 2 is no key") as refused:
        Seal.read(key_file(tmp_path, encoded(KEY), line))
    assert line not in str(refused.value)


def test_a_file_without_keys_and_one_that_is_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no key"):
        Seal.read(key_file(tmp_path, "# none yet"))
    with pytest.raises(FileNotFoundError):
        Seal.read(tmp_path / "missing")
