"""Told messages: llama.cpp's own chat completions, a real server with a tiny model."""

import asyncio
import json
from collections.abc import Sequence

import httpx
import pytest

from service.backends import ScoredText, Text
from service.backends.chat.backend import ChatCompletions
from service.backends.chat.server import ChatServer
from service.conversation import Segment
from service.errors import ModelError, Unavailable
from tests.llama_servers import LlamaAddress
from tests.service.backends.chat.conftest import DEADLINES
from tests.service.backends.chat.conversing import converse, prompt
from tests.service.backends.llama_cpp.conversing import assistant, user
from turnwire.v1 import items_pb2, responses_pb2

GREEDY = json.dumps({"top_k": 1})


async def test_text_is_streamed_and_counted(messages: ChatCompletions) -> None:
    turn = await converse(messages, prompt(user("hello"), max_output_tokens=12))
    assert len([part for part in turn.produced if isinstance(part, Text)]) > 1
    assert turn.finished.reason in {"length", "stop"}
    assert 0 < turn.finished.output_tokens <= 12
    assert turn.finished.input_tokens > 5


async def test_history_is_serialised_once_and_spliced(messages: ChatCompletions) -> None:
    opened: list[int] = []

    def legible(items: Sequence[items_pb2.Item]) -> Sequence[items_pb2.Item]:
        opened.append(len(items))
        return items

    history: list[Segment] = []
    for word in ("first " * 20, "second", "third", "fourth"):
        turn = await converse(messages, prompt(user(word), history=history, legible=legible))
        history.append(Segment(None, [user(word), assistant(turn.text)]))
    assert opened == [2, 2, 2]
    assert turn.finished.cached_tokens > 100


async def test_instructions_come_first(messages: ChatCompletions) -> None:
    plain = await converse(messages, prompt(user("hello")))
    told = await converse(messages, prompt(user("hello"), instructions="Be kind."))
    system = (
        len("<|im_start|>system\nBe kind.<|im_end|>\n") - len("<|im_start|>") - len("<|im_end|>")
    )
    assert told.finished.input_tokens >= plain.finished.input_tokens + system


async def test_a_schema_is_kept_to(messages: ChatCompletions) -> None:
    schema = {
        "type": "object",
        "properties": {"yes": {"type": "boolean"}},
        "required": ["yes"],
        "additionalProperties": False,
    }
    form = responses_pb2.JsonSchemaFormat(name="answer", schema_json=json.dumps(schema))
    text = responses_pb2.TextSettings(format=responses_pb2.TextFormat(json_schema=form))
    turn = await converse(messages, prompt(user("?"), text=text, max_output_tokens=200))
    assert json.loads(turn.text) in ({"yes": True}, {"yes": False})


async def test_members_that_the_contract_does_not_know_are_passed_on(
    messages: ChatCompletions,
) -> None:
    first = await converse(messages, prompt(user("hello"), extra=GREEDY))
    stop = json.dumps({"top_k": 1, "stop": first.text[3], "messages": [], "n": 7})
    again = await converse(messages, prompt(user("hello"), extra=stop))
    assert again.text == first.text[: first.text.index(first.text[3])]


async def test_text_comes_with_how_likely_its_tokens_were(messages: ChatCompletions) -> None:
    turn = await converse(messages, prompt(user("hello"), top_logprobs=2, extra=GREEDY))
    texts = [part for part in turn.produced if isinstance(part, ScoredText)]
    scores = [score for text in texts for score in text.logprobs]
    assert b"".join(bytes(score.bytes) for score in scores).decode() == turn.text
    assert all(len(score.top_logprobs) == 2 for score in scores)


async def test_a_conversation_that_does_not_fit_is_refused(messages: ChatCompletions) -> None:
    with pytest.raises(ModelError) as caught:
        await converse(messages, prompt(user("x" * 5000)))
    assert caught.value.code == "context_length_exceeded"


async def test_a_long_conversation_is_shortened_where_that_is_allowed(
    messages: ChatCompletions,
) -> None:
    history = [Segment(None, [user("x" * 300), assistant("y" * 200)]) for _ in range(20)]
    asked = prompt(user("and now?"), history=history, truncation="auto", instructions="Be kind.")
    turn = await converse(messages, asked)
    assert turn.finished.input_tokens < 4096
    with pytest.raises(ModelError) as caught:
        await converse(messages, prompt(user("x" * 5000), history=history, truncation="auto"))
    assert caught.value.code == "context_length_exceeded"


async def test_wrong_parameters_are_named_but_not_repeated(messages: ChatCompletions) -> None:
    with pytest.raises(ModelError) as caught:
        await converse(messages, prompt(user("hello"), extra='{"seed": "secret words"}'))
    assert caught.value.code == "invalid_prompt"
    assert "secret" not in caught.value.message


async def test_closing_stops_the_servers_work(
    messages: ChatCompletions, llama_address: LlamaAddress
) -> None:
    endless = json.dumps({"ignore_eos": True})
    batches = messages.generate(prompt(user("go on"), max_output_tokens=3500, extra=endless))
    await anext(batches)
    assert await busy_slots(llama_address) == 1
    await batches.aclose()
    async with asyncio.timeout(5):
        while await busy_slots(llama_address):
            pass


async def busy_slots(address: LlamaAddress) -> int:
    headers = {"Authorization": f"Bearer {address.key}"}
    async with httpx.AsyncClient(base_url=address.url, headers=headers) as client:
        return sum(slot["is_processing"] for slot in (await client.get("/slots")).json())


async def test_the_servers_models_are_asked_for(
    messages: ChatCompletions, llama_address: LlamaAddress
) -> None:
    assert len(messages.models) == 1
    await messages.check()
    named = ChatCompletions(
        ChatServer(url=f"{llama_address.url}/v1", api_key=llama_address.key, models=["mine"])
    )
    await named.start()
    assert named.models == ["mine"]
    await named.stop()


async def test_a_wrong_key_is_said_at_the_start(llama_address: LlamaAddress) -> None:
    backend = ChatCompletions(ChatServer(url=llama_address.url, api_key="wrong"))
    with pytest.raises(ModelError, match="API key"):
        await backend.start()
    await backend.stop()


async def test_a_server_that_is_not_there_is_unavailable() -> None:
    backend = ChatCompletions(ChatServer(url="http://127.0.0.1:9", deadlines=DEADLINES))
    with pytest.raises(Unavailable):
        await backend.start()


async def test_a_warm_up_serialises_and_asks_nobody(messages: ChatCompletions) -> None:
    warm = prompt(user("hello"))
    rendered = await messages.prepare(warm)
    segment = Segment(None, list(warm.input), rendered)
    turn = await converse(messages, prompt(history=[segment]))
    assert turn.finished.output_tokens > 0


def test_a_kind_that_there_is_not_is_said() -> None:
    with pytest.raises(ModelError, match="none of"):
        ChatCompletions(ChatServer(url="http://localhost", kind="vlllm"))
