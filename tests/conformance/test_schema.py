"""Events as the published schema and the `openai` package know them (docs/protocol.md, "Events")."""

import json
import tomllib
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conformance.conftest import Talk
from tests.conformance.conversation import Heard
from tests.conformance.schema import sdk
from tests.conformance.schema.derive import Specification, toml
from tests.conformance.schema.fields import PROTOCOL, FieldList
from turnwire import json_codec
from turnwire.v1 import events_pb2

FUNCTION = {"type": "function", "name": "f"}
NAMESPACE = {"type": "namespace", "name": "n", "description": "", "tools": [FUNCTION]}
OUTPUT_SCHEMA = {"type": "object", "properties": {}, "additionalProperties": False}
NOT_SPOKEN = {"response.reasoning.delta", "response.reasoning.done"}
"""Published, but what servers send and clients read is `response.reasoning_text`."""

TURNS: dict[str, dict[str, Any]] = {
    "text": {"input": "#sim text 3"},
    "refusal": {"input": "#sim refuse I would rather not"},
    "reasoning": {"input": "#sim reasoning 3 ; text 2"},
    "function": {"input": '#sim call f {"a": 1}', "tools": [FUNCTION], "tool_choice": FUNCTION},
    "custom": {"input": "#sim custom g x", "tools": [{"type": "custom", "name": "g"}]},
    "warm-up": {"generate": False},
    "failed": {"input": "#sim fail server_error after 2 words"},
    "incomplete": {"input": "#sim text 9", "max_output_tokens": 3},
    "refused": {"model": "gpt-0"},
    "on a lane": {"stream_id": "main"},
    "scored text": {"input": "#sim text 3", "top_logprobs": 2},
    "a summary": {"input": "#sim summary 3 ; reasoning 2 ; text 1"},
    "sealed reasoning": {
        "input": "#sim reasoning 3 ; text 1",
        "include": ["reasoning.encrypted_content"],
    },
    "a call into a namespace": {"input": '#sim call n.f {"a": 1}', "tools": [NAMESPACE]},
    "a compaction": {
        "input": [{"role": "user", "content": "hello"}, {"type": "compaction_trigger"}],
    },
    "a comparison": {"prompt_cache_options": {"comparison_response_id": "resp_1"}},
    "every setting": {
        "instructions": "Be brief.",
        "tools": [FUNCTION, NAMESPACE],
        "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [FUNCTION]},
        "text": {"format": {"type": "json_object"}, "verbosity": "low"},
        "reasoning": {"effort": "low", "summary": "auto"},
        "truncation": "auto",
        "metadata": {"a": "b"},
        "service_tier": "auto",
        "safety_identifier": "s",
        "prompt_cache_key": "k",
        "temperature": 0,
        "top_p": 1,
        "max_tool_calls": 3,
    },
    "a schema": {
        "text": {"format": {"type": "json_schema", "name": "n", "schema": OUTPUT_SCHEMA}},
    },
}


def told(heard: Heard) -> Iterator[dict[str, Any]]:
    return (json.loads(json_codec.encode(event)) for event in heard)


@pytest.mark.rule("EV-15", "RO-1")
@pytest.mark.parametrize("turn", TURNS)
async def test_every_event_is_what_the_openai_package_says_it_is(talk: Talk, turn: str) -> None:
    async with talk() as chat:
        await chat.send(**{"input": "hello", **TURNS[turn]})
        heard = await chat.hear()
    for event in told(heard):
        sdk.check_event(event)
        if "response" in event:
            sdk.check_response(event["response"])


async def test_the_check_of_the_openai_package_is_strict(talk: Talk) -> None:
    async with talk() as chat:
        [*_, last] = told(await chat.ask())
    for member in ("id", "output", "parallel_tool_calls", "tool_choice", "tools"):
        with pytest.raises(ValueError, match=member):
            sdk.check_response({**last["response"], member: None})


async def test_a_member_that_is_missing_null_or_of_another_kind_is_named(talk: Talk) -> None:
    async with talk() as chat:
        [*_, last] = told(await chat.sim("text 1 ; call f {}"))
    assert PROTOCOL.event_faults(last) == []
    message, call = last["response"]["output"]
    del call["call_id"]
    message["status"] = "done"
    message["content"][0]["logprobs"] = {}
    last["response"]["temperature"] = None
    place = "response.completed.response"
    statuses = ("in_progress", "completed", "incomplete")
    assert set(PROTOCOL.event_faults(last)) == {
        f"{place}.output[1].call_id: missing",
        *(f"{place}.output[0].status: not '{word}'" for word in statuses),
        f"{place}.output[0].content[0].logprobs: not a list",
        f"{place}.temperature: not number",
    }


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("string", "", None),
        ("integer", 1, True),
        ("number", 0.5, "0.5"),
        ("boolean", False, 0),
        ("null", None, 0),
        ("object", {}, []),
        ("any", True, ...),
        ("'word'", "word", "words"),
        (["string", "null"], None, 1),
        ({"list": "integer"}, [1, 2], [1, "2"]),
        ({"a": "string", "b?": "string"}, {"a": "", "c": 1}, {"b": ""}),
        ("Pair", {"type": "pair", "left": 1}, {"type": "pair"}),
        (["Pair", "object"], {"type": "other"}, {"type": "pair"}),
    ],
)
def test_each_kind_of_a_list_takes_its_own(kind: Any, good: Any, bad: Any) -> None:
    fields = FieldList({"Pair": {"type": "'pair'", "left": "integer"}})
    assert [*fields.faults(kind, good, "at")] == []
    assert bad is ... or [*fields.faults(kind, bad, "at")]


def test_an_event_that_no_list_has_is_a_fault() -> None:
    assert PROTOCOL.event_faults({"type": "response.dance"}) == ["response.dance: not known"]


def test_every_event_of_the_lists_is_one_of_the_contract() -> None:
    for name in PROTOCOL.events - NOT_SPOKEN:
        event = json_codec.decode(events_pb2.ServerEvent, json.dumps(_least(name)))
        assert event.WhichOneof("kind") != "other_json", name


def _least(name: str) -> dict[str, Any]:
    """An event with no more than the codec insists on."""
    return {"type": name, "response": {}, "item": {"type": "x"}, "part": {"type": "x"}}


ROOTS = ("ResponseResource", "CompactResource", "ErrorStreamingEvent")


def test_a_specification_becomes_a_field_list() -> None:
    schemas = {
        "HelloStreamingEvent": {
            "properties": {
                "type": {"type": "string", "enum": ["hello"]},
                "who": {"anyOf": [{"$ref": "#/components/schemas/Name"}, {"type": "null"}]},
                "words": {"type": "array", "items": {"oneOf": [{"type": "string"}]}},
                "tone": {"enum": ["low", "high"]},
            },
            "required": ["type", "who"],
        },
        "Name": {"properties": {"first": {"allOf": [{"type": "string"}, {"description": "x"}]}}},
        "Unused": {"type": "string"},
        **{name: {} for name in ROOTS},
    }
    document = {"info": {"version": "1"}, "components": {"schemas": schemas}}
    written = tomllib.loads("\n".join(toml(Specification(document).fields())))
    assert written == {
        "hello": {
            "type": "'hello'",
            "who": ["Name", "null"],
            "words?": {"list": "string"},
            "tone?": ["'low'", "'high'"],
        },
        "Name": {"first?": "string"},
        **dict.fromkeys(ROOTS, "any"),
    }
