"""Told by ids: stand-ins for vLLM, SGLang and TensorRT-LLM, around a real tiny model."""

import json
from collections.abc import AsyncIterator
from operator import attrgetter
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.backends.chat.backend import ChatCompletions
from service.backends.hints import salt, session
from service.conversation import Segment
from service.errors import ModelError, Unavailable
from service.rendering.renderer import Renderer
from tests.llama_servers import LlamaAddress
from tests.models import IM_END
from tests.service.backends.chat.conftest import Bytes, Pair, stand_in
from tests.service.backends.chat.conversing import converse, prompt
from tests.service.backends.llama_cpp.conversing import assistant, call_output, function, user
from tests.stand_ins.chat_server import (
    MODEL,
    SGLANG,
    TRTLLM,
    VLLM,
    VLLM_OLD,
    VLLM_TO_COME,
    Canned,
    Speech,
    chat_server,
    rendered,
)
from turnwire.v1 import items_pb2

RECORDED = Path(__file__).parents[3] / "recorded" / "vllm"
WEATHER = function("get_weather", city={"enum": ["Oslo", "Lima"]})

ALL = pytest.mark.parametrize(
    "speech", [VLLM, VLLM_TO_COME, SGLANG, TRTLLM], ids=attrgetter("name")
)
TELLING = pytest.mark.parametrize("speech", [VLLM, VLLM_TO_COME, SGLANG], ids=attrgetter("name"))


@pytest.fixture
async def pair(
    speech: Speech, llama_address: LlamaAddress, renderer: Renderer
) -> AsyncIterator[Pair]:
    async with stand_in(speech, llama_address, renderer) as pair:
        yield pair


def ids(body: dict[str, object]) -> list[int]:
    """The prompt that a request carried."""
    found = [speech.ids(body) for speech in (VLLM, VLLM_TO_COME, SGLANG)]
    (carried,) = [one for one in found if one is not None]
    return carried


@ALL
async def test_a_prompt_is_sent_as_ids_and_as_nothing_else(pair: Pair) -> None:
    turn = await converse(pair.backend, prompt(user("hello"), instructions="Be kind."))
    (body,) = pair.server.asked
    assert body["messages"] == [{"role": "user", "content": "-"}]
    told = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "hello"}]
    assert ids(body) == rendered({"messages": told})[: len(ids(body))]
    assert turn.finished.input_tokens == len(ids(body))
    assert pair.backend.capabilities.tokens_in == "chat"
    assert pair.backend.capabilities.hint == "salt"


@TELLING
async def test_sampled_ids_are_the_next_turns_history(pair: Pair, vocabulary: Bytes) -> None:
    history: list[Segment] = []
    before: list[int] = []
    for word in ("first " * 20, "second", "third"):
        vocabulary.characters = 0
        turn = await converse(pair.backend, prompt(user(word), history=history))
        assert vocabulary.characters < 2 * len(word) + 60
        body = pair.server.asked[-1]
        assert ids(body)[: len(before)] == before
        before = [*ids(body), *turn.text.encode(), IM_END]
        history.append(Segment(None, [user("unread")], turn.finished.rendered))
    assert turn.finished.cached_tokens > 150
    assert pair.backend.capabilities.tokens_out


@pytest.mark.parametrize("speech", [TRTLLM], ids=attrgetter("name"))
async def test_where_sampled_ids_are_not_told_answers_are_rendered(pair: Pair) -> None:
    turn = await converse(pair.backend, prompt(user("hello")))
    assert turn.finished.rendered == {}
    assert not pair.backend.capabilities.tokens_out
    again = await converse(pair.backend, prompt(user("more"), history=[turn.segment]))
    assert again.finished.output_tokens > 0
    said = [user("hello"), assistant(turn.text), user("more")]
    told = [
        {"role": item.message.role, "content": text}
        for item, text in zip(said, ["hello", turn.text, "more"], strict=True)
    ]
    assert ids(pair.server.asked[-1]) == rendered({"messages": told})


@ALL
async def test_the_server_parses_calls_and_an_agent_goes_on(pair: Pair) -> None:
    tools = {"tools": [WEATHER], "max_output_tokens": 400}
    first = await converse(pair.backend, prompt(user("?"), tool_choice_mode="required", **tools))
    ((name, arguments),) = first.calls
    assert name == "get_weather"
    assert json.loads(arguments)["city"] in {"Oslo", "Lima"}
    assert pair.server.asked[-1]["tools"][0]["function"]["name"] == "get_weather"
    second = await converse(
        pair.backend,
        prompt(call_output("sunny", call_id="call_0"), history=[first.segment], **tools),
    )
    assert second.text
    assert ids(pair.server.asked[1])[: len(ids(pair.server.asked[0]))] == ids(pair.server.asked[0])


@TELLING
async def test_tenants_and_conversations_are_told_apart_and_not_told(pair: Pair) -> None:
    for tenant, conversation in (("a", "1"), ("a", "2"), ("b", "1")):
        extra = json.dumps({"cache_salt": "stolen", "session_id": "stolen", "request_id": "x"})
        asked = prompt(user("same"), tenant=tenant, conversation=conversation, extra=extra)
        await converse(pair.backend, asked)
    bodies = pair.server.asked
    assert [body["cache_salt"] for body in bodies] == [salt("a"), salt("a"), salt("b")]
    assert not any("request_id" in body for body in bodies)
    if "session_id" in bodies[0]:
        hints = [session("1"), session("2"), session("1")]
        assert [body["session_id"] for body in bodies] == hints


@ALL
async def test_what_cannot_be_rendered_is_told_as_messages(pair: Pair) -> None:
    image = items_pb2.ContentPart(input_image=items_pb2.InputImage(image_url="data:,"))
    shown = items_pb2.Item(message=items_pb2.Message(role="user", content=[image]))
    turn = await converse(pair.backend, prompt(shown))
    (body,) = pair.server.asked
    (part,) = body["messages"][0]["content"]
    assert part == {"type": "image_url", "image_url": {"url": "data:,"}}
    assert turn.finished.rendered == {}


@pytest.mark.parametrize("speech", [VLLM_OLD], ids=attrgetter("name"))
async def test_a_server_that_ignores_ids_is_told_messages(pair: Pair) -> None:
    assert pair.backend.capabilities.tokens_in == "none"
    await converse(pair.backend, prompt(user("hello")))
    assert pair.server.asked[0]["messages"] == [{"role": "user", "content": "hello"}]


@pytest.mark.parametrize("speech", [VLLM], ids=attrgetter("name"))
async def test_ids_that_a_server_did_not_take_after_all_are_not_kept(pair: Pair) -> None:
    first = {"choices": [], "prompt_token_ids": [1, 2, 3]}
    said = {"index": 0, "delta": {"content": "x"}, "finish_reason": "stop", "token_ids": [9]}
    usage = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 1}}
    events = [json.dumps(chunk) for chunk in (first, {"choices": [said]}, usage)]
    content = "".join(f"data: {event}\n\n" for event in [*events, "[DONE]"]).encode()
    pair.server.canned.append(Canned(content))
    turn = await converse(pair.backend, prompt(user("hello")))
    assert turn.text == "x"
    assert turn.finished.rendered == {}


@TELLING
async def test_an_answer_leaves_room_in_the_context_and_too_much_is_refused(pair: Pair) -> None:
    asked = prompt(user("x" * 4040), max_output_tokens=10_000)
    turn = await converse(pair.backend, asked)
    assert turn.finished.input_tokens + turn.finished.output_tokens <= 4096
    assert pair.server.asked[0].keys() & {"max_tokens", "max_completion_tokens"}
    open_ended = prompt(user("x" * 4040), max_output_tokens=0)
    await converse(pair.backend, open_ended)
    assert not pair.server.asked[1].keys() & {"max_tokens", "max_completion_tokens"}
    with pytest.raises(ModelError) as caught:
        await converse(pair.backend, prompt(user("x" * 5000)))
    assert caught.value.code == "context_length_exceeded"


@TELLING
async def test_a_long_conversation_is_shortened_by_its_ids(pair: Pair) -> None:
    history = [Segment(None, [user("x" * 300), assistant("y" * 200)]) for _ in range(12)]
    turn = await converse(
        pair.backend, prompt(user("and now?"), history=history, truncation="auto")
    )
    assert len(pair.server.asked) == 1
    assert turn.finished.input_tokens < 4096


@TELLING
async def test_a_warm_up_has_the_server_read_the_prompt(pair: Pair) -> None:
    warm = prompt(user("warm " * 40))
    segment = Segment(None, list(warm.input), await pair.backend.prepare(warm))
    turn = await converse(pair.backend, prompt(user("now"), history=[segment]))
    assert turn.finished.cached_tokens > 150


@pytest.mark.parametrize("speech", [VLLM], ids=attrgetter("name"))
async def test_what_was_sampled_but_withheld_is_not_kept(pair: Pair) -> None:
    greedy = await converse(pair.backend, prompt(user("hello")))
    stopped = prompt(user("hello"), extra=json.dumps({"stop": [greedy.text[4]]}))
    pair.server.canned.append(Canned(_stopped_by_a_word()))
    assert (await converse(pair.backend, stopped)).finished.rendered == {}
    one_call = prompt(
        user("?"),
        tools=[WEATHER],
        tool_choice_mode="required",
        parallel_tool_calls=False,
        max_output_tokens=400,
    )
    turn = await converse(pair.backend, one_call)
    assert len(turn.calls) == 1
    assert turn.finished.rendered == {}


def _stopped_by_a_word() -> bytes:
    choice = {
        "index": 0,
        "delta": {"content": "x"},
        "finish_reason": "stop",
        "stop_reason": "y",
        "token_ids": [1, 2],
    }
    chunks = [{"choices": [choice]}, {"choices": [], "usage": {"completion_tokens": 2}}]
    return "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks).encode()


async def test_a_server_that_is_down_at_the_start_is_unavailable(
    llama_address: LlamaAddress, renderer: Renderer
) -> None:
    async with stand_in(VLLM, llama_address, renderer) as pair:
        pair.server.canned.append(Canned(b"{}", status=503))
        with pytest.raises(Unavailable):
            await pair.backend.start()


def shapes(events: list[Any]) -> list[Any]:
    """What members there are in a stream's events, of those that differ."""
    found: list[Any] = []
    for event in events:
        choice = (event["choices"] or [{}])[0]
        shape = [set(event), set(choice), set(event.get("usage") or ())]
        if shape not in found:
            found.append(shape)
    return found


async def test_the_stand_in_speaks_as_a_real_server_was_recorded(
    llama_address: LlamaAddress,
) -> None:
    recorded = json.loads((RECORDED / "chat_ids.json").read_text())
    async with (
        chat_server(VLLM, llama_address.url, llama_address.key) as server,
        httpx.AsyncClient(base_url=server.url) as client,
    ):
        body = {**recorded["request"]["body"], "model": MODEL}
        body["kv_transfer_params"] = {"prompt_token_ids": [1, 65, 66]}
        said = (await client.post(recorded["request"]["path"], json=body)).text
    events = [line[6:] for line in said.splitlines() if line]
    assert events.pop() == recorded["events"].pop() == "[DONE]"
    assert shapes([json.loads(event) for event in events]) == shapes(recorded["events"])


@pytest.mark.parametrize("speech", [VLLM, SGLANG], ids=["vllm", "sglang"])
async def test_a_server_with_another_vocabulary_is_told_messages(
    pair: Pair, speech: Speech
) -> None:
    assert pair.backend.capabilities.tokens_in == "chat", speech.name
    pair.server.reads_backwards = -1
    again = ChatCompletions(pair.wanted)
    await again.start()
    assert again.capabilities.tokens_in == "none"
    pair.server.asked.clear()
    await converse(again, prompt(user("hello")))
    assert pair.server.asked[0]["messages"] == [{"role": "user", "content": "hello"}]
    await again.stop()
