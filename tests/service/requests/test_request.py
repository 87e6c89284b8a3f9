"""What a create comes down to: defaults, inheritance, refusals."""

import dataclasses
import json

import pytest

from service.closed import MOST_OPENED
from service.conversation import DurableNode, Node, Segment
from service.errors import Refusal
from service.requests import request
from service.requests.request import Request, check_size, check_supported, new_items, pending_calls
from service.sealing import Seal
from turnwire import json_codec
from turnwire.v1 import items_pb2, responses_pb2


def create(text: str = "{}") -> responses_pb2.CreateResponse:
    return json_codec.decode(responses_pb2.CreateResponse, text)


def understand(create: responses_pb2.CreateResponse, parent: Node | None) -> Request:
    check_supported(create.settings)
    items = new_items(create)
    return request.understand(create, items, items, parent)


def unstored(pending: frozenset[str] = frozenset()) -> Node:
    return Node(
        tenant="t",
        id="resp_p",
        parent_id=None,
        segment=Segment(None, []),
        inputs=0,
        pending_calls=pending,
    )


def node(segment: Segment) -> Node:
    return dataclasses.replace(unstored(), segment=segment)


def adding(*names: str) -> dict[str, object]:
    tools = [{"type": "function", "name": name} for name in names]
    return {"type": "additional_tools", "role": "developer", "tools": tools}


def stored() -> DurableNode:
    return DurableNode(
        tenant="t",
        id="resp_p",
        parent_id=None,
        segment=Segment(None, []),
        inputs=0,
        pending_calls=frozenset(),
        response_data=b"",
        trace_data=b"",
    )


def call(call_id: str) -> items_pb2.Item:
    return items_pb2.Item(function_call=items_pb2.FunctionCall(call_id=call_id))


def output(call_id: str) -> items_pb2.Item:
    return items_pb2.Item(function_call_output=items_pb2.FunctionCallOutput(call_id=call_id))


def test_a_string_is_one_user_message() -> None:
    [item] = understand(create('{"input":"hi"}'), None).input
    assert item.message.role == "user"
    assert item.message.content[0].input_text.text == "hi"


def test_responses_are_stored_unless_the_client_says_otherwise() -> None:
    assert understand(create(), None).store
    assert understand(create(), stored()).store
    assert not understand(create('{"store":false}'), stored()).store


def test_what_was_said_unstored_stays_unstored() -> None:
    assert not understand(create(), unstored()).store
    assert not understand(create('{"store":null}'), unstored()).store
    with pytest.raises(Refusal) as refused:
        understand(create('{"store":true}'), unstored())
    assert refused.value.param == "store"


def test_the_echo_fills_in_the_protocols_defaults() -> None:
    settings = understand(create('{"model":"m"}'), None).echo()
    assert settings.temperature == 1.0
    assert settings.parallel_tool_calls
    assert settings.tool_choice_mode == "auto"
    assert settings.truncation == "disabled"
    assert settings.text.verbosity == "medium"
    assert settings.text.format.HasField("text")
    assert settings.store


def test_the_echo_keeps_what_the_client_said() -> None:
    request = understand(
        create(
            '{"temperature":0,"tool_choice":{"type":"function","name":"f"},"metadata":{"a":"b"},'
            '"text":{"format":{"type":"json_object"}},"parallel_tool_calls":false}'
        ),
        None,
    )
    settings = request.echo()
    assert settings.HasField("temperature")
    assert settings.temperature == 0
    assert settings.tool_choice.function.name == "f"
    assert not settings.HasField("tool_choice_mode")
    assert settings.text.format.HasField("json_object")
    assert settings.text.verbosity == "medium"
    assert not settings.parallel_tool_calls
    assert settings.metadata == {"a": "b"}


def test_what_the_client_left_open_stays_open_for_the_model_server() -> None:
    assert not understand(create(), None).settings.HasField("temperature")


def test_calls_wait_for_their_outputs() -> None:
    assert pending_calls(frozenset(), [call("a"), call("b"), output("a")]) == {"b"}
    assert pending_calls(frozenset({"a"}), [output("a")]) == frozenset()


def test_what_does_not_change_is_not_copied() -> None:
    before = frozenset({"a", "b"})
    assert pending_calls(before, [items_pb2.Item(message=items_pb2.Message())]) is before


def test_only_so_many_calls_may_be_open() -> None:
    with pytest.raises(Refusal):
        pending_calls(frozenset(), [call(str(number)) for number in range(1025)])


@pytest.mark.rule("CR-25")
def test_a_conversation_has_a_largest_size() -> None:
    small = create('{"input":"hello"}')
    check_size(small, None, 1000)
    with pytest.raises(Refusal) as refused:
        check_size(small, None, 5)
    assert refused.value.code == "context_length_exceeded"
    text = items_pb2.Item(message=items_pb2.Message(role="user", content_text="x" * 990))
    parent = Node(
        tenant="t",
        id="resp_p",
        parent_id=None,
        segment=Segment(Segment(None, [text]), []),
        inputs=0,
        pending_calls=frozenset(),
    )
    with pytest.raises(Refusal):
        check_size(small, parent, 1000)


@pytest.mark.rule("CR-25")
def test_a_request_has_a_most_of_items() -> None:
    many = responses_pb2.CreateResponse(input=[call("a")] * 65_537)
    with pytest.raises(Refusal) as refused:
        check_size(many, None, 1 << 30)
    assert refused.value.param == "input"


@pytest.mark.rule("CR-25")
def test_a_conversation_has_a_most_of_items() -> None:
    parent = node(Segment(Segment(None, [call("a")] * 65_000), [call("a")] * 530))
    check_size(responses_pb2.CreateResponse(input=[call("a")] * 6), parent, 1 << 30)
    with pytest.raises(Refusal) as refused:
        check_size(responses_pb2.CreateResponse(input=[call("a")] * 7), parent, 1 << 30)
    assert refused.value.code == "context_length_exceeded"


@pytest.mark.rule("CR-25")
def test_what_is_sealed_in_a_conversation_may_open_to_so_much() -> None:
    sealed = Seal.ephemeral().seal("t", "reasoning", bytes(MOST_OPENED // 2))
    item = items_pb2.Item(reasoning=items_pb2.Reasoning(encrypted_content=sealed))
    parent, more = node(Segment(None, [item])), responses_pb2.CreateResponse(input=[item])
    check_size(more, parent, 1 << 30)
    parent = node(Segment(parent.segment, [item]))
    with pytest.raises(Refusal) as refused:
        check_size(more, parent, 1 << 30)
    assert refused.value.code == "context_length_exceeded"


@pytest.mark.rule("CR-25")
def test_what_a_compaction_supersedes_does_not_count() -> None:
    compaction = items_pb2.Item(compaction=items_pb2.Compaction(encrypted_content="sealed"))
    parent = node(Segment(None, [call("a")] * 65_536))
    check_size(responses_pb2.CreateResponse(input=[compaction]), parent, 1000)


def test_tools_that_items_added_are_kept_once_and_come_after_the_requests_own() -> None:
    first = understand(create('{"tools":[{"type":"function","name":"own"}]}'), None)
    assert first.added_tools is None
    assert first.tools is first.settings.tools
    second = understand(create(json.dumps({"input": [adding("a", "b")]})), None)
    parent = dataclasses.replace(node(Segment(None, [])), tools=second.added_tools)
    third = understand(create('{"input":"hi"}'), parent)
    assert third.added_tools is second.added_tools
    last = understand(
        create(
            json.dumps({"tools": [{"type": "function", "name": "own"}], "input": [adding("c")]})
        ),
        parent,
    )
    assert [tool.function.name for tool in last.tools] == ["own", "a", "b", "c"]


def test_a_conversation_has_a_most_of_added_tools() -> None:
    names = [str(number) for number in range(1024)]
    full = understand(create(json.dumps({"input": [adding(*names)]})), None)
    parent = dataclasses.replace(node(Segment(None, [])), tools=full.added_tools)
    with pytest.raises(Refusal) as refused:
        understand(create(json.dumps({"input": [adding("one more")]})), parent)
    assert (refused.value.code, refused.value.param) == ("invalid_value", "input")


def test_outputs_of_types_that_nobody_has_defined_are_never_refused() -> None:
    stray = items_pb2.Item(other_json='{"type":"new_call_output","call_id":"x"}')
    asked = items_pb2.Item(other_json='{"type":"new_call","call_id":"y"}')
    assert pending_calls(frozenset(), [stray, asked]) == {"y"}


def test_a_conversation_may_be_replayed_with_calls_and_outputs_twice() -> None:
    replay = [call("a"), output("a"), call("a"), output("a")]
    assert pending_calls(frozenset(), replay) == frozenset()


def test_an_output_without_a_call_is_refused() -> None:
    with pytest.raises(Refusal) as refused:
        understand(
            create('{"input":[{"type":"function_call_output","call_id":"x","output":""}]}'),
            unstored(frozenset({"a"})),
        )
    assert "x" in refused.value.message


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ('{"temperature":2.1}', "temperature"),
        ('{"temperature":-1}', "temperature"),
        ('{"top_p":7}', "top_p"),
        ('{"top_logprobs":21}', "top_logprobs"),
        ('{"frequency_penalty":-3}', "frequency_penalty"),
        ('{"max_output_tokens":0}', "max_output_tokens"),
        ('{"max_output_tokens":-1}', "max_output_tokens"),
        ('{"truncation":"banana"}', "truncation"),
        ('{"tool_choice":"banana"}', "tool_choice"),
        ('{"prompt":{"id":"pmpt_1"}}', "prompt"),
        ('{"conversation":"conv_1","previous_response_id":"resp_1"}', "conversation"),
        ('{"conversation":{"id":"conv_1"},"store":false}', "store"),
        (json.dumps({"metadata": {str(number): "" for number in range(17)}}), "metadata"),
        (json.dumps({"metadata": {"k" * 65: ""}}), "metadata"),
        (json.dumps({"metadata": {"k": "v" * 513}}), "metadata"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(body: str, param: str) -> None:
    with pytest.raises(Refusal) as refused:
        understand(create(body), None)
    assert refused.value.param == param


@pytest.mark.parametrize(
    "body",
    ['{"background":false}', '{"background":null}', '{"conversation":null}', '{"stream":true}'],
)
def test_what_says_nothing_is_accepted(body: str) -> None:
    understand(create(body), None)


def test_unknown_members_are_kept_for_the_model_server() -> None:
    assert "top_k" in understand(create('{"top_k":5}'), None).extra_json


def test_a_warm_up_generates_nothing() -> None:
    assert not understand(create('{"generate":false}'), None).generate
    assert understand(create('{"generate":true}'), None).generate
    assert understand(create(), None).generate
