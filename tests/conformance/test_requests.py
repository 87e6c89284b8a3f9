"""What a request may say and what follows from it (docs/protocol.md, "Requests")."""

import json
from pathlib import Path
from typing import Any

import pytest

from service.backends.simulator.backend import Simulator
from tests.conformance.clients import Connect
from tests.conformance.conftest import Talk
from tests.conformance.conversation import Conversation, Heard
from tests.conformance.gated import Gated
from tests.conformance.server import serving
from turnwire import json_codec

FUNCTION = {"type": "function", "name": "f", "parameters": {"type": "object"}}
SETTINGS: dict[str, Any] = {"instructions": "Be brief.", "tools": [FUNCTION], "store": True}


def response_json(heard: Heard) -> dict[str, Any]:
    response: dict[str, Any] = json.loads(json_codec.encode(heard.response))
    return response


@pytest.mark.rule("CR-1")
async def test_a_model_and_nothing_else_will_do(talk: Talk) -> None:
    async with talk() as chat:
        await chat.send()
        assert (await chat.hear()).kinds[-1] == "completed"


@pytest.mark.rule("CR-2")
@pytest.mark.parametrize(
    "spoken",
    [
        "hello",
        [{"role": "user", "content": "hello"}],
        [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hello"}]}],
    ],
)
async def test_input_may_be_said_in_each_of_its_forms(talk: Talk, spoken: Any) -> None:
    async with talk() as chat:
        assert (await chat.ask(input=spoken)).text == "hello"


@pytest.mark.rule("CR-4")
async def test_what_a_client_says_about_itself_is_not_echoed(talk: Talk) -> None:
    async with talk() as chat:
        heard = await chat.ask(client_metadata={"session": "s-1"}, stream_options={})
    assert b"s-1" not in b"".join(map(json_codec.encode, heard))


@pytest.mark.rule("CR-5")
async def test_instructions_and_tools_are_not_inherited(talk: Talk) -> None:
    async with talk() as chat:
        first = await chat.ask(**SETTINGS)
        second = await chat.ask(previous_response_id=first.id)
    assert response_json(first)["instructions"] == "Be brief."
    assert response_json(second)["instructions"] is None
    assert response_json(second)["tools"] == []


@pytest.mark.rule("CR-6", "CR-7")
@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("temperature", -0.1),
        ("temperature", 2.1),
        ("top_p", 1.1),
        ("top_logprobs", 21),
        ("presence_penalty", 2.1),
        ("frequency_penalty", -2.1),
        ("max_output_tokens", 0),
        ("max_tool_calls", 0),
        ("truncation", "maybe"),
        ("tool_choice", "perhaps"),
        ("metadata", {str(number): "" for number in range(17)}),
        ("metadata", {"k" * 65: "v"}),
        ("metadata", {"k": "v" * 513}),
    ],
)
async def test_what_is_out_of_range_is_refused_by_name(talk: Talk, member: str, value: Any) -> None:
    async with talk() as chat:
        heard = await chat.ask(**{member: value})
        assert (heard.error.error.code, heard.error.error.param) == ("invalid_value", member)


@pytest.mark.rule("CR-10")
async def test_a_previous_response_and_a_conversation_exclude_each_other(talk: Talk) -> None:
    async with talk() as chat:
        first = await chat.ask()
        heard = await chat.ask(previous_response_id=first.id, conversation="conv_1")
        assert heard.error.status == 400
        assert heard.error.error.param == "conversation"


@pytest.mark.rule("CR-12")
async def test_a_prewarm_is_a_warm_up(talk: Talk) -> None:
    async with talk() as chat:
        warm = await chat.ask("prefix " * 100, prompt_cache_options={"prewarm": True})
        assert warm.kinds == ["created", "completed"]
        heard = await chat.ask(previous_response_id=warm.id)
    assert heard.response.usage.input_tokens_details.cached_tokens > 100


@pytest.mark.rule("CR-15")
@pytest.mark.parametrize("kind", ["web_search", "mcp", "shell", "apply_patch"])
async def test_a_hosted_tool_that_is_demanded_fails_the_turn(talk: Talk, kind: str) -> None:
    async with talk() as chat:
        heard = await chat.ask(tools=[{"type": kind}], tool_choice={"type": kind})
    assert heard.kinds[-1] == "failed"
    assert heard.response.error.code == "invalid_prompt"


@pytest.mark.rule("CR-15")
async def test_a_named_tool_is_called(talk: Talk) -> None:
    tools = [FUNCTION, {"type": "custom", "name": "g"}]
    async with talk() as chat:
        for name, kind in (("f", "function"), ("g", "custom")):
            heard = await chat.ask(tools=tools, tool_choice={"type": kind, "name": name})
            [call] = response_json(heard)["output"]
            assert call["name"] == name


@pytest.mark.rule("CR-16")
async def test_one_call_is_all_where_calls_may_not_be_parallel(talk: Talk) -> None:
    async with talk() as chat:
        heard = await chat.sim("call f {} ; call f {}", parallel_tool_calls=False)
        assert [item.WhichOneof("kind") for item in heard.response.output] == ["function_call"]
        heard = await chat.sim("call f {} ; call f {}")
        assert len(heard.response.output) == 2


@pytest.mark.rule("CR-17")
async def test_a_call_into_a_namespace_names_both(talk: Talk) -> None:
    tools = [{"type": "namespace", "name": "files", "description": "", "tools": [FUNCTION]}]
    choice = {"type": "function", "name": "f", "namespace": "files"}
    async with talk() as chat:
        heard = await chat.ask(tools=tools, tool_choice=choice)
    [call] = response_json(heard)["output"]
    assert (call["namespace"], call["name"]) == ("files", "f")


@pytest.mark.rule("CR-18")
async def test_tools_that_an_item_added_can_be_called_from_then_on(talk: Talk) -> None:
    adding = {"type": "additional_tools", "role": "developer", "tools": [FUNCTION]}
    async with talk() as chat:
        first = await chat.ask(input=[adding, {"role": "user", "content": "hello"}])
        second = await chat.ask(previous_response_id=first.id, tool_choice="required")
    [call] = response_json(second)["output"]
    assert call["name"] == "f"
    assert response_json(second)["tools"] == []


@pytest.mark.rule("CR-19")
async def test_a_reference_stands_for_an_item_that_was_said(talk: Talk) -> None:
    async with talk() as chat:
        called = await chat.sim("call f {}")
        call = called.response.output[0].function_call
        output = {"type": "function_call_output", "call_id": call.call_id, "output": "42"}
        heard = await chat.ask(input=[{"type": "item_reference", "id": call.id}, output])
        assert heard.text == "42"
        again = [{"type": "item_reference", "id": call.id}, output]
        assert (await chat.ask(input=again, previous_response_id=called.id)).text == "42"


@pytest.mark.rule("CR-19")
@pytest.mark.parametrize("unknown", ["msg_1", "fc_" + "0" * 32 + "o0", "x" * 5000])
async def test_a_reference_to_nothing_is_not_found(talk: Talk, unknown: str) -> None:
    async with talk() as chat:
        heard = await chat.ask(input=[{"type": "item_reference", "id": unknown}])
        assert (heard.error.status, heard.error.error.code) == (404, "item_not_found")
        assert len(heard.error.error.message) < 300


@pytest.mark.rule("CR-20")
@pytest.mark.parametrize(
    "members", [{"include": ["message.output_text.logprobs"]}, {"top_logprobs": 2}]
)
async def test_text_comes_with_how_likely_it_was(talk: Talk, members: dict[str, Any]) -> None:
    async with talk() as chat:
        heard = await chat.sim("text 5", **members)
    deltas = [one for event in heard for one in event.output_text_delta.logprobs]
    [done] = [event.output_text_done for event in heard if event.HasField("output_text_done")]
    part = heard.response.output[0].message.content[0].output_text
    assert deltas == list(done.logprobs) == list(part.logprobs)
    assert "".join(one.token for one in part.logprobs) == heard.text
    assert all(one.logprob <= 0 for one in part.logprobs)
    assert {len(one.top_logprobs) for one in part.logprobs} == {members.get("top_logprobs", 0)}


@pytest.mark.rule("CR-20")
async def test_nothing_is_said_of_likelihood_unasked(talk: Talk) -> None:
    async with talk() as chat:
        heard = await chat.sim("text 5")
    assert not heard.response.output[0].message.content[0].output_text.logprobs


@pytest.mark.rule("CR-21")
async def test_sealed_reasoning_can_be_sent_again(talk: Talk) -> None:
    async with talk() as chat:
        asked = {"store": False, "include": ["reasoning.encrypted_content"]}
        heard = await chat.sim("reasoning 3 ; text 1", **asked)
        items = response_json(heard)["output"]
        assert items[0]["encrypted_content"]
        assert "every" not in items[0]["encrypted_content"]
        del items[0]["content"]
        again = [{"role": "user", "content": "hello"}, *items, {"role": "user", "content": "on"}]
        assert (await chat.ask(input=again, store=False)).text == "on"


@pytest.mark.rule("CR-21")
async def test_reasoning_is_not_sealed_unasked(talk: Talk) -> None:
    async with talk() as chat:
        heard = await chat.sim("reasoning 3 ; text 1")
    assert not heard.response.output[0].reasoning.HasField("encrypted_content")


@pytest.mark.rule("CR-22")
async def test_a_prompt_that_is_too_long_is_shortened_where_that_is_allowed(
    connect: Connect, tmp_path: Path
) -> None:
    small = Simulator(context_tokens=300)
    async with serving(small, tmp_path) as server, connect(server, server.alice) as client:
        chat = Conversation(client)
        first = await chat.ask("a " * 200)
        second = await chat.ask("b " * 80, previous_response_id=first.id, truncation="auto")
        assert second.kinds[-1] == "completed"
        assert second.response.usage.input_tokens < 300
        third = await chat.ask("c " * 200, previous_response_id=second.id)
    assert third.kinds[-1] == "failed"
    assert third.response.error.code == "context_length_exceeded"


@pytest.mark.rule("RO-3")
async def test_an_echoed_function_has_all_its_members(talk: Talk) -> None:
    async with talk() as chat:
        heard = await chat.ask(tools=[{"type": "function", "name": "f"}])
    [tool] = response_json(heard)["tools"]
    assert tool == {
        "type": "function",
        "name": "f",
        "description": None,
        "parameters": None,
        "strict": None,
    }


@pytest.mark.rule("RO-5")
async def test_it_is_told_when_a_response_was_completed(talk: Talk) -> None:
    async with talk() as chat:
        completed = response_json(await chat.ask())
        cut = response_json(await chat.sim("text 9", max_output_tokens=1))
        failed = response_json(await chat.sim("fail server_error"))
    assert completed["completed_at"] >= completed["created_at"]
    assert cut["completed_at"] is failed["completed_at"] is None


@pytest.mark.rule("EV-8", "EV-9")
async def test_an_item_begins_empty_and_keeps_its_identity(talk: Talk) -> None:
    async with talk() as chat:
        heard = await chat.sim("reasoning 2 ; text 2 ; call f {} ; custom g x")
    added = [e.output_item_added for e in heard if e.HasField("output_item_added")]
    done = [e.output_item_done for e in heard if e.HasField("output_item_done")]
    bodies = {"reasoning": "summary", "function_call": "arguments", "custom_tool_call": "input"}
    for first, last in zip(added, done, strict=True):
        begun, ended = json.loads(json_codec.encode(first)), json.loads(json_codec.encode(last))
        body = bodies.get(begun["item"]["type"], "content")
        assert not begun["item"][body]
        for member in ("id", "type", "call_id", "name"):
            assert begun["item"].get(member) == ended["item"].get(member)
        assert begun["output_index"] == ended["output_index"]
    assert [last.output_index for last in done] == [0, 1, 2, 3]


@pytest.mark.rule("EV-3", "EV-10")
@pytest.mark.parametrize(
    ("directives", "ending"),
    [
        ("text 2", "completed"),
        ("call f {} ; call g {}", "completed"),
        ("text 3 ; length", "incomplete"),
        ("fail server_error after 2 words", "failed"),
    ],
)
async def test_a_response_ends_once(talk: Talk, directives: str, ending: str) -> None:
    async with talk() as chat:
        heard = await chat.sim(directives)
        after = await chat.ask("next")
    assert heard.kinds[0] == "created"
    endings = [kind for kind in heard.kinds if kind in {"completed", "incomplete", "failed"}]
    assert endings == [ending]
    assert after.kinds[0] == "created"


@pytest.mark.connection
@pytest.mark.rule("EV-13")
async def test_a_parent_that_a_turn_holds_is_not_taken_from_it(
    connect: Connect, tmp_path: Path
) -> None:
    model = Gated()
    model.gate.set()
    async with serving(model, tmp_path) as server, connect(server, server.alice) as client:
        chat = Conversation(client)
        root = await chat.ask("a " * 400, stream_id="a", store=False)
        model.gate.clear()
        continued = {"previous_response_id": root.id, "store": False}
        await chat.send(input="#sim text 1 ; stall 0 ; text 1", stream_id="b", **continued)
        await chat.hear_until("in_progress")
        await chat.send(input="#sim fail server_error", stream_id="a", **continued)
        while (event := await chat.receive()).stream_id != "a" or not event.HasField("failed"):
            assert not event.HasField("error")
        model.gate.set()
        assert (await chat.hear()).response.usage.input_tokens > 100


@pytest.mark.connection
@pytest.mark.rule("LN-9")
async def test_a_lane_is_no_conversation(talk: Talk) -> None:
    async with talk() as chat:
        first = await chat.ask("a " * 200, stream_id="a")
        second = await chat.ask("b", stream_id="a")
    assert not second.response.settings.HasField("previous_response_id")
    assert second.response.usage.input_tokens < first.response.usage.input_tokens


@pytest.mark.connection
@pytest.mark.rule("CX-1")
async def test_a_prewarm_with_the_tools_in_an_item_is_continued(talk: Talk) -> None:
    adding = {"type": "additional_tools", "role": "developer", "tools": [FUNCTION]}
    told = {"type": "message", "role": "developer", "content": "Be brief."}
    async with talk() as chat:
        warm = await chat.ask(input=[adding, told], generate=False, store=False)
        question = [{"role": "user", "content": "#sim call f {}"}]
        heard = await chat.ask(input=question, previous_response_id=warm.id, store=False)
    [call] = response_json(heard)["output"]
    assert call["name"] == "f"


@pytest.mark.connection
@pytest.mark.rule("CX-2")
async def test_output_sent_again_in_full_is_as_much_cached_as_a_continuation(talk: Talk) -> None:
    question = {"role": "user", "content": "#sim reasoning 3 ; text 40"}
    more = {"role": "user", "content": "more"}
    async with talk() as chat:
        first = await chat.ask(input=[question], store=False)
        chained = await chat.ask(input=[more], previous_response_id=first.id, store=False)
        output = response_json(first)["output"]
        replayed = await chat.ask(input=[question, *output, more], store=False)
    assert replayed.response.usage.input_tokens == chained.response.usage.input_tokens
    assert replayed.text == chained.text


@pytest.mark.rule("CR-2")
async def test_a_type_that_is_null_is_as_good_as_none(talk: Talk) -> None:
    async with talk() as chat:
        heard = await chat.ask(input=[{"type": None, "role": "user", "content": "hello there"}])
    assert heard.text == "hello there"
