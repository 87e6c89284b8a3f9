"""Conversations made short, compared and screened (docs/protocol.md, "Compaction, caches …")."""

import json
from typing import Any

import pytest

from tests.conformance.conftest import Talk
from tests.conformance.conversation import Heard
from tests.conformance.server import Server
from turnwire import json_codec
from turnwire.v1 import responses_pb2

MANAGED: dict[str, Any] = {
    "context_management": [{"type": "compaction", "compact_threshold": 1000}]
}
LONG = "a " * 2000
FUNCTION = {"type": "function", "name": "f", "parameters": {"type": "object"}}


def kinds(heard: Heard) -> list[str]:
    return [item.WhichOneof("kind") or "" for item in heard.response.output]


def output(heard: Heard) -> list[dict[str, Any]]:
    return [json.loads(json_codec.encode(item)) for item in heard.response.output]


@pytest.mark.rule("CP-1")
async def test_a_conversation_at_its_threshold_is_compacted_first(talk: Talk) -> None:
    async with talk() as chat:
        first = await chat.ask(LONG)
        second = await chat.ask("hello", previous_response_id=first.id, **MANAGED)
        third = await chat.ask("on", previous_response_id=second.id, **MANAGED)
    assert kinds(second) == ["compaction", "message"]
    begun = second.kinds.index("output_item_added")
    assert second.kinds[begun : begun + 3] == [
        "output_item_added",
        "compaction_compacting",
        "output_item_done",
    ]
    assert second.text == "hello"
    assert kinds(third) == ["message"]
    assert third.response.usage.input_tokens < first.response.usage.input_tokens


@pytest.mark.rule("CP-1")
async def test_a_conversation_below_its_threshold_is_left_alone(talk: Talk) -> None:
    async with talk() as chat:
        first = await chat.ask("short")
        second = await chat.ask("hello", previous_response_id=first.id, **MANAGED)
    assert kinds(second) == ["message"]


@pytest.mark.rule("CP-1")
@pytest.mark.parametrize(
    "entry",
    [{"type": "compaction", "compact_threshold": 999}, {"type": "martian"}],
)
async def test_management_that_cannot_be_done_is_refused(talk: Talk, entry: dict[str, Any]) -> None:
    async with talk() as chat:
        heard = await chat.ask(context_management=[entry])
        assert heard.error.status == 400
        assert heard.error.error.param == "context_management"


@pytest.mark.rule("CP-2", "CP-4")
async def test_a_compacted_conversation_begins_a_new_one(talk: Talk, server: Server) -> None:
    async with talk() as chat:
        first = await chat.ask(LONG)
        create = responses_pb2.CreateResponse(
            settings=responses_pb2.Settings(model="simulator", previous_response_id=first.id)
        )
        compacted = await server.engine.responses.compact("alice", create)
        assert compacted.object == "response.compaction"
        assert "compaction" in {item.WhichOneof("kind") for item in compacted.output}
        items = [json.loads(json_codec.encode(item)) for item in compacted.output]
        heard = await chat.ask(input=[*items, {"role": "user", "content": "hello"}])
    assert heard.text == "hello"


@pytest.mark.rule("CP-3")
async def test_a_client_may_ask_for_a_compaction_in_the_middle(talk: Talk) -> None:
    async with talk() as chat:
        first = await chat.ask(LONG)
        trigger = [{"type": "compaction_trigger"}]
        second = await chat.ask(input=trigger, previous_response_id=first.id)
        third = await chat.ask("on", previous_response_id=second.id)
    assert kinds(second)[0] == "compaction"
    assert third.text == "on"


@pytest.mark.rule("CP-4")
async def test_a_compaction_stands_for_all_before_it(talk: Talk) -> None:
    async with talk() as chat:
        first = await chat.ask(LONG)
        trigger = [{"type": "compaction_trigger"}]
        compacted = await chat.ask(input=trigger, previous_response_id=first.id)
        [item] = [one for one in output(compacted) if one["type"] == "compaction"]
        before = {"role": "user", "content": LONG}
        question = {"role": "user", "content": "hello"}
        alone = await chat.ask(input=[item, question])
        heard = await chat.ask(input=[before, item, question])
        twice = await chat.ask(input=[before, item, before, item, question])
    tokens = alone.response.usage.input_tokens
    assert heard.response.usage.input_tokens == twice.response.usage.input_tokens == tokens


@pytest.mark.rule("CP-5")
async def test_a_compaction_of_another_tenant_cannot_be_read(talk: Talk, server: Server) -> None:
    async with talk() as chat:
        first = await chat.ask(LONG)
        trigger = [{"type": "compaction_trigger"}]
        compacted = await chat.ask(input=trigger, previous_response_id=first.id)
        [item] = [one for one in output(compacted) if one["type"] == "compaction"]
        made_up = {"type": "compaction", "encrypted_content": "made up"}
        changed = {**item, "encrypted_content": item["encrypted_content"][:-4] + "AAAA"}
        assert "a a" not in item["encrypted_content"]
        for bad in (made_up, changed):
            heard = await chat.ask(input=[bad])
            assert (heard.error.status, heard.error.error.code) == (400, "invalid_value")
    async with talk(server.bob) as chat:
        heard = await chat.ask(input=[item])
        assert (heard.error.status, heard.error.error.code) == (400, "invalid_value")


@pytest.mark.rule("CP-6")
async def test_calls_and_added_tools_survive_a_compaction(talk: Talk) -> None:
    adding = {"type": "additional_tools", "role": "developer", "tools": [FUNCTION]}
    asked = {"role": "user", "content": "#sim call f {}"}
    async with talk() as chat:
        called = await chat.ask(input=[adding, {"role": "user", "content": LONG}, asked])
        call_id = called.response.output[0].function_call.call_id
        answer = {"type": "function_call_output", "call_id": call_id, "output": "42"}
        compacted = await chat.ask(input=[answer], previous_response_id=called.id, **MANAGED)
        assert kinds(compacted) == ["compaction", "message"]
        assert compacted.text == "42"
        again = await chat.ask(previous_response_id=compacted.id, tool_choice="required")
    [call] = [item.function_call for item in again.response.output]
    assert call.name == "f"


@pytest.mark.rule("PC-1")
async def test_a_comparison_tells_what_of_a_prompt_could_be_used_again(talk: Talk) -> None:
    async with talk() as chat:
        first = await chat.ask(LONG, instructions="Be brief.")
        compared = {"prompt_cache_options": {"comparison_response_id": first.id}}
        same = {"instructions": "Be brief.", "previous_response_id": first.id}
        hit = await chat.ask("on", **same, **compared)
        miss = await chat.ask("on", **{**same, "tools": [FUNCTION]}, **compared)
        absent = await chat.ask("on", prompt_cache_options={"comparison_response_id": "resp_1"})
    told = [json.loads(one.response.prompt_cache_diagnostics_json) for one in (hit, miss, absent)]
    assert [one["type"] for one in told] == [
        "cache_hit",
        "cache_miss",
        "comparison_response_not_found",
    ]
    assert told[1]["reason"] == "tools_changed"


@pytest.mark.rule("MO-1")
async def test_without_a_classifier_moderation_is_refused(talk: Talk) -> None:
    async with talk() as chat:
        heard = await chat.ask(moderation={"model": "any"})
        assert (heard.error.status, heard.error.error.code) == (400, "unsupported_parameter")
