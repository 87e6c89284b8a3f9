"""Sealed blobs open where they belong, unchanged, and nowhere else."""

import dataclasses
import secrets

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from service import ids
from service.metrics import Metrics
from service.sealing import Unsealed
from service.store.envelopes import Envelopes, Unreadable
from service.store.records import VERSION, Base, whole
from service.store.sealed import Place, Sealer
from service.store.vault import Record, Step
from tests.service.store.conftest import KEY
from tests.service.store.nodes import node, said

OTHER_KEY = bytes(range(32, 64))
SEALER = Sealer([KEY])
PLACE = Place("alice", "path", "tree", "resp_1", "resp_0")
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))


def opens(place: Place, sealed: bytes, sealer: Sealer = SEALER) -> bool:
    try:
        sealer.open(place, sealed)
    except Unsealed:
        return False
    return True


@given(TEXTS, st.sampled_from(["path", "response"]), TEXTS, TEXTS, st.binary())
def test_what_was_sealed_opens_where_it_was_sealed(
    tenant: str, purpose: str, tree: str, name: str, plaintext: bytes
) -> None:
    place = Place(tenant, purpose, tree, name, "")  # type: ignore[arg-type]  # either is one
    assert SEALER.open(place, SEALER.seal(place, plaintext)) == plaintext


def test_no_bit_of_a_blob_can_be_changed() -> None:
    sealed = SEALER.seal(PLACE, b"what was said")
    for place in range(len(sealed)):
        for bit in range(8):
            flipped = bytearray(sealed)
            flipped[place] ^= 1 << bit
            assert not opens(PLACE, bytes(flipped))


def test_a_blob_can_be_neither_cut_nor_extended() -> None:
    sealed = SEALER.seal(PLACE, b"what was said")
    for length in range(len(sealed)):
        assert not opens(PLACE, sealed[:length])
    assert not opens(PLACE, sealed + b"\0")


@pytest.mark.parametrize("field", Place._fields)
def test_a_blob_opens_in_no_other_place(field: str) -> None:
    sealed = SEALER.seal(PLACE, b"what was said")
    assert opens(PLACE, sealed)
    other = PLACE._asdict() | {field: "response" if field == "purpose" else "another"}
    assert not opens(Place(**other), sealed)


@given(TEXTS, TEXTS, TEXTS, TEXTS)
def test_no_two_places_are_taken_for_each_other(a: str, b: str, c: str, d: str) -> None:
    sealed = SEALER.seal(PLACE._replace(id=a, before=b), b"")
    assert opens(PLACE._replace(id=c, before=d), sealed) == ((a, b) == (c, d))


def test_the_newest_key_seals_and_the_old_ones_still_open() -> None:
    old = SEALER.seal(PLACE, b"old")
    both = Sealer([OTHER_KEY, KEY])
    assert both.open(PLACE, old) == b"old"
    new = both.seal(PLACE, b"new")
    assert not opens(PLACE, new)
    assert Sealer([OTHER_KEY]).open(PLACE, new) == b"new"
    assert not opens(PLACE, old, Sealer([OTHER_KEY]))


def test_a_tenant_has_a_key_of_its_own() -> None:
    ciphers = {SEALER._cipher(SEALER._first, tenant) for tenant in ("alice", "bob", "alice")}
    assert len(ciphers) == 2


def test_what_would_unpack_to_more_than_is_allowed_does_not_open() -> None:
    small = Sealer([KEY], most_bytes=1000)
    assert small.open(PLACE, SEALER.seal(PLACE, bytes(1000))) == bytes(1000)
    assert not opens(PLACE, SEALER.seal(PLACE, bytes(100_000)), small)
    with pytest.raises(ValueError, match="at most 1000 bytes"):
        small.seal(PLACE, bytes(1001))


def test_what_was_said_cannot_be_seen_in_a_blob() -> None:
    canary = secrets.token_hex(16).encode()
    assert canary not in SEALER.seal(PLACE, canary)


def test_keys_of_another_length_are_refused() -> None:
    for keys in ([], [b"short"]):
        with pytest.raises(ValueError, match="32 bytes"):
            Sealer(keys)


class Sealing:
    """Envelopes, and how often they were found tampered with."""

    def __init__(self) -> None:
        self.metrics = Metrics(CollectorRegistry())
        self.envelopes = Envelopes(SEALER, self.metrics.store_tampered)

    @property
    def tampered(self) -> float:
        return self.metrics.registry.get_sample_value("turnwire_store_tampered_total") or 0.0

    async def record(self, text: str, tenant: str = "alice", name: str | None = None) -> Record:
        one = node(text, tenant=tenant, name=name)
        return await self.envelopes.closed(one, whole(one), "")

    async def reads(self, tenant: str, record: Record) -> bool:
        step = Step(record.id, record.parent, record.path)
        try:
            await self.envelopes.continuing(tenant, [step], Base())
            await self.envelopes.record(tenant, record)
        except Unreadable:
            return False
        return True


async def test_blobs_that_were_swapped_are_counted_and_not_read() -> None:
    sealing = Sealing()
    name = ids.response_id(None)
    one, same_tree = await sealing.record("1", name=name), ids.response_id(name)
    others = [
        await sealing.record("of the same tree", name=same_tree),
        await sealing.record("of another tree"),
        await sealing.record("of another tenant", "bob", name),
    ]
    assert await sealing.reads("alice", one)
    for number, other in enumerate(others):
        assert not await sealing.reads("alice", one._replace(path=other.path))
        assert not await sealing.reads("alice", one._replace(response=other.response))
        assert sealing.tampered == 2 * (number + 1)
    assert not await sealing.reads("alice", one._replace(path=one.response))
    assert not await sealing.reads("alice", one._replace(parent=same_tree))
    assert not await sealing.reads("bob", one)


async def test_a_record_of_a_later_version_counts_as_absent() -> None:
    sealing = Sealing()
    one = node()
    path = whole(one)
    path.version = VERSION + 1
    assert not await sealing.reads("alice", await sealing.envelopes.closed(one, path, ""))
    assert not sealing.tampered


async def test_large_records_are_sealed_beside_the_event_loop() -> None:
    sealing = Sealing()
    large = "".join(f"{number}, " for number in range(50_000))
    one = dataclasses.replace(node(large), response_data=large.encode())
    record = await sealing.envelopes.closed(one, whole(one), "")
    step = Step(record.id, "", record.path)
    read = await sealing.envelopes.continuing("alice", [step], Base())
    assert said(read.node) == [large]
