"""Every kind of server has its adapter, and the adapters of one model stand side by side."""

from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any, get_args

import pytest

from service.backends import Backend, Finished, Text
from service.backends.chat.backend import ChatCompletions
from service.backends.chat.kinds import KINDS
from service.backends.engines.backend import TokenEngine
from service.backends.llama_cpp.backend import LlamaCpp
from service.backends.responses.backend import Responses
from service.backends.simulator.backend import Simulator
from service.conversation import Segment
from service.errors import ModelError
from service.rendering.proof import Proof
from service.servers import Kind, Server
from service.servers.adapters import Adapters
from service.servers.detection import identified
from tests.service.backends.llama_cpp.conversing import assistant, prompt, user
from tests.service.servers.llamas import Llama, fleet_of, until
from tests.stand_ins.chat_server import VLLM, chat_server
from tests.stand_ins.tiny_tokenizer import tiny_files

ADAPTERS: dict[str, type] = {
    **dict.fromkeys(KINDS, ChatCompletions),
    **dict.fromkeys(("vllm-generate", "vllm-grpc", "sglang-grpc", "trtllm-grpc"), TokenEngine),
    **dict.fromkeys(("responses", "responses-websocket"), Responses),
    "llama.cpp": LlamaCpp,
}


def server(kind: Any, **fields: Any) -> Server:
    scheme = "grpc" if kind.endswith("-grpc") else "http"
    return Server(name="one", kind=kind, url=f"{scheme}://127.0.0.1:9", **fields)


@pytest.fixture
def adapters() -> Adapters:
    return Adapters(Proof.never())


def test_every_kind_is_one_that_can_be_asked_for() -> None:
    assert set(get_args(Kind)) == ADAPTERS.keys()


@pytest.mark.parametrize("kind", get_args(Kind))
def test_every_kind_has_its_adapter(adapters: Adapters, kind: str, tmp_path: Path) -> None:
    tokenizer = tmp_path if kind == "vllm-generate" else None
    made = adapters.of(server(kind, tokenizer=tokenizer))
    assert isinstance(made, ADAPTERS[kind])


def test_a_backend_of_this_process_is_its_own_adapter(adapters: Adapters) -> None:
    simulator = Simulator()
    assert adapters.of(Server(name="s", kind="embedded", here=lambda _: simulator)) is simulator


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "auto"},
        {"kind": "vllm-generate"},
        {"kind": "vllm-grpc", "template": "none"},
        {"kind": "llama.cpp", "headers": {"X-A": "a"}},
    ],
)
def test_what_a_server_cannot_be_is_said(adapters: Adapters, fields: dict[str, Any]) -> None:
    with pytest.raises(ModelError):
        adapters.of(server(**fields))


@pytest.mark.parametrize("kind", ["auto", "llama.cpp", "llama.cpp-chat", "chat"])
async def test_an_address_may_end_with_the_path_of_the_api(
    adapters: Adapters, llamas: list[Llama], kind: Any
) -> None:
    named = Server(name="one", kind=kind, url=f"{llamas[0].url}/v1/")
    backend = adapters.of(await identified(named))
    await backend.start()
    assert list(backend.models) == ["tiny"]
    await backend.stop()


async def test_a_conversation_goes_on_at_a_server_of_another_kind(llamas: list[Llama]) -> None:
    one, two = llamas
    by_messages = Server(name="two", kind="llama.cpp-chat", url=two.url)
    async with fleet_of(one.server("one"), by_messages) as place:
        assert place.router.models == [("tiny", "pool")]
        backend = place.router.backend("tiny")
        history = [await spoken(backend, "first", [])]
        for gone, name in ((one, "one"), (two, "two")):
            gone.kill()
            await until(lambda name=name: not place.up(name))  # type: ignore[misc]
            history.append(await spoken(backend, "more", history))
            gone.start()
            await until(lambda name=name: place.up(name))  # type: ignore[misc]
    assert len(history[0].rendered) > 1


async def spoken(backend: Backend, text: str, history: Sequence[Segment]) -> Segment:
    """Have a turn; return it as the next one's history."""
    said, asked = "", prompt(user(text), history=list(history))
    async with aclosing(backend.generate(asked)) as batches:
        async for batch in batches:
            said += "".join(part.text for part in batch if isinstance(part, Text))
    assert isinstance(batch[-1], Finished)
    assert said
    return Segment(None, [user(text), assistant(said)], batch[-1].rendered)


async def test_models_that_nobody_named_are_told_in_ids_too(
    adapters: Adapters, llamas: list[Llama], tmp_path: Path
) -> None:
    for name, data in tiny_files().items():
        (tmp_path / name).write_bytes(data)
    async with chat_server(VLLM, llamas[0].url, "-") as stand_in:
        named = Server(name="one", kind="vllm", url=stand_in.url, tokenizer=tmp_path)
        backend = adapters.of(named)
        await backend.start()
        assert (list(backend.models), backend.capabilities.tokens_in) == (["tiny"], "chat")
        await backend.stop()
