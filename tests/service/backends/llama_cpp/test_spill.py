"""Slots that are saved and restored, against a real server."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from service.backends.llama_cpp.backend import LlamaCpp
from service.backends.llama_cpp.slots import Owner, Slots
from service.errors import ModelError
from tests.llama_servers import LlamaAddress, LlamaServer
from tests.service.backends.llama_cpp.conversing import converse, prompt, user


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("slots")


@pytest.fixture(scope="module")
def one_slot(tiny_weights: Path, saved: Path) -> Iterator[str]:
    with LlamaServer(weights=tiny_weights, saves=saved).running() as url:
        yield url


@pytest.fixture
async def llama(one_slot: str) -> AsyncIterator[LlamaCpp]:
    backend = LlamaCpp(one_slot, defaults={"temperature": 0}, spilled=2)
    await backend.start()
    yield backend
    await backend.stop()


async def test_a_conversation_that_lost_its_slot_finds_its_tokens_again(llama: LlamaCpp) -> None:
    asked = prompt(user("ann " * 100), conversation="ann", tenant="ann", store=True)
    first = await converse(llama, asked)
    await converse(llama, prompt(user("bob " * 100), conversation="bob", tenant="bob"))
    again = await converse(
        llama, prompt(user("go on"), history=[first.segment], conversation="ann", tenant="ann")
    )
    assert again.finished.cached_tokens >= first.finished.input_tokens


async def test_no_more_is_saved_than_there_are_files_for(llama: LlamaCpp, saved: Path) -> None:
    before = files(saved)
    for number in range(6):
        await converse(llama, prompt(user(f"{number} " * 50), conversation=f"{number}", store=True))
    assert len(files(saved) - before) == 2
    lost = await converse(llama, prompt(user("0 " * 50), conversation="0", tenant="other"))
    assert lost.finished.cached_tokens == 0


async def test_a_server_that_saves_nothing_is_only_slower(llama_address: LlamaAddress) -> None:
    backend = LlamaCpp(llama_address.url, llama_address.key, spilled=2)
    await backend.start()
    for number in range(4):
        turn = await converse(
            backend, prompt(user("hello"), conversation=f"spill {number}", store=True)
        )
        assert turn.finished.output_tokens
    await backend.stop()


def files(directory: Path) -> set[Path]:
    return set(directory.iterdir())


class Stuck:
    """Saves and restores, when it is allowed to."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    async def save(self, slot: int, owner: Owner) -> None:
        del slot, owner
        self.asked.set()
        await asyncio.Event().wait()

    async def restore(self, slot: int, owner: Owner) -> bool:
        del slot, owner
        return True


async def test_who_leaves_while_a_slot_is_saved_leaves_nobody_elses_tokens_behind() -> None:
    stuck = Stuck()
    slots = Slots(1, 5, stuck)
    ann, bob = Owner("ann", "1"), Owner("bob", "1")
    stuck_at_bob = asyncio.create_task(lease(slots, ann))
    await stuck_at_bob
    waiting = asyncio.create_task(lease(slots, bob))
    await asyncio.wait_for(stuck.asked.wait(), 5)
    waiting.cancel()
    await asyncio.wait([waiting], timeout=5)
    async with slots.lease(bob) as after:
        assert after.reuse  # restored: nothing had to be saved before
    with pytest.raises(ModelError):
        async with Slots(0, 0.01).lease(ann):
            pass


async def lease(slots: Slots, owner: Owner) -> None:
    async with slots.lease(owner) as leased:
        leased.filled = leased.savable = True
