import asyncio
import dataclasses
from contextlib import AsyncExitStack

import pytest

from service.backends.llama_cpp.slots import Lease, Nowhere, Owner, Slots
from service.errors import ModelError

ANN, BOB = Owner("ann", "1"), Owner("bob", "1")


async def used(slots: Slots, owner: Owner) -> Lease:
    async with slots.lease(owner) as lease:
        before = dataclasses.replace(lease)
        lease.filled = True
        return before


async def told(slots: Slots, owner: Owner, prompt: bytes) -> int:
    async with slots.lease(owner, prompt) as lease:
        lease.filled = True
        return lease.slot


async def test_a_conversation_goes_back_to_its_slot() -> None:
    slots = Slots(3, deadline=1)
    first = await used(slots, ANN)
    await used(slots, BOB)
    assert await used(slots, ANN) == Lease(first.slot, reuse=True)


async def test_a_new_conversation_takes_the_slot_that_was_used_longest_ago() -> None:
    slots = Slots(2, deadline=1)
    ann, bob = await used(slots, ANN), await used(slots, BOB)
    await used(slots, ANN)
    assert (await used(slots, Owner("cleo", "1"))).slot == bob.slot
    assert (await used(slots, Owner("dan", "1"))).slot == ann.slot


async def test_a_fork_runs_beside_its_origin() -> None:
    slots = Slots(2, deadline=1)
    async with slots.lease(ANN) as one, slots.lease(ANN) as other:
        assert one.slot != other.slot


async def test_conversations_of_one_tenant_share_what_they_have_in_common() -> None:
    slots = Slots(1, deadline=1)
    await used(slots, ANN)
    assert (await used(slots, Owner("ann", "2"))).reuse


async def test_who_sends_a_conversation_anew_finds_the_slot_that_it_was_in() -> None:
    slots = Slots(3, deadline=1)
    first = await told(slots, Owner("ann", "1"), b"1,2,3")
    for number in range(2):
        await told(slots, Owner("ann", f"other {number}"), b"1,2,9")
    assert await told(slots, Owner("ann", "2"), b"1,2,3,4,5") == first
    assert await told(slots, Owner("ann", "3"), b"1,2,3,4,56") != first
    assert await told(slots, Owner("bob", "1"), b"1,2,3,4,5,6") != first


async def test_what_another_tenant_left_is_not_reused() -> None:
    slots = Slots(1, deadline=1)
    assert not (await used(slots, ANN)).reuse
    assert not (await used(slots, BOB)).reuse


async def test_a_turn_that_came_to_nothing_does_not_make_a_slot_its_tenants() -> None:
    slots = Slots(1, deadline=1)
    await used(slots, ANN)
    async with slots.lease(BOB) as lease:
        assert not lease.reuse
    assert not (await used(slots, BOB)).reuse
    async with slots.lease(ANN):
        pass
    assert not (await used(slots, ANN)).reuse


async def test_who_waits_too_long_is_told_so() -> None:
    slots = Slots(1, deadline=0.01)
    async with slots.lease(ANN):
        with pytest.raises(ModelError) as caught:
            await used(slots, BOB)
    assert caught.value.code == "rate_limit_exceeded"
    assert await used(slots, BOB)


async def test_a_slot_is_handed_to_who_waits() -> None:
    slots = Slots(1, deadline=5)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(slots.lease(ANN))
        waiting = asyncio.create_task(used(slots, BOB))
        gone = asyncio.create_task(used(slots, ANN))
        await asyncio.wait([waiting, gone], timeout=0)
        gone.cancel()
    assert (await waiting).slot == 0
    assert gone.cancelled() or await asyncio.wait([gone])


async def test_what_its_client_does_not_want_stored_is_not_saved_either() -> None:
    saved: list[Owner] = []

    class Files(Nowhere):
        async def save(self, slot: int, owner: Owner) -> None:
            saved.append(owner)

    slots = Slots(1, deadline=1, saved=Files())
    for owner, savable in ((ANN, False), (BOB, True), (ANN, True)):
        async with slots.lease(owner) as lease:
            lease.filled, lease.savable = True, savable
    assert saved == [BOB]
