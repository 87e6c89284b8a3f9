import contextlib
import json
from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import given
from hypothesis import strategies as st
from openai.types import responses as sdk

from tests.turnwire.samples import Json, members_of, samples
from turnwire.json_codec import InvalidJson, canonical, decode, encode
from turnwire.v1 import events_pb2, items_pb2, json_form_pb2, responses_pb2, session_service_pb2

CREATE = {"type": "response.create"}
FILES = [items_pb2, responses_pb2, events_pb2]
MESSAGES = [m for file in FILES for m in file.DESCRIPTOR.message_types_by_name.values()]
WITHOUT_OBJECT = {
    "ItemList",
    "Items",
    "Settings",
}  # they stand inline where there is one, or are never JSON
ROOTS = [
    events_pb2.ClientEvent,
    events_pb2.ServerEvent,
    items_pb2.Item,
    items_pb2.Tool,
    responses_pb2.CreateResponse,
    responses_pb2.Response,
]


def form(field: FieldDescriptor) -> json_form_pb2.JsonForm:
    return field.GetOptions().Extensions[json_form_pb2.json]


def keys_written_when_unset(messages: list[Descriptor]) -> set[str]:
    fields = [field for message in messages for field in message.fields]
    return {form(field).key or field.name for field in fields if form(field).presence}


ADDED = keys_written_when_unset(MESSAGES)
LEFT_OUT_OF_CREATE = keys_written_when_unset([responses_pb2.Settings.DESCRIPTOR])


def is_empty(value: Json) -> bool:
    if isinstance(value, dict):
        return all(key in ADDED and is_empty(member) for key, member in value.items())
    return value in (None, [], "", 0)


def keeps(got: Json, sent: Json) -> bool:
    """Tell whether nothing was lost, and nothing was added but what the protocol always writes."""
    if isinstance(sent, list):
        return type(got) is list and len(got) == len(sent) and all(map(keeps, got, sent))
    if not isinstance(sent, dict):
        return got == sent and isinstance(got, bool) == isinstance(sent, bool)
    if sent.get("type", "") is None:  # as good as none, which is filled in where it is known
        sent = {key: value for key, value in sent.items() if key != "type"}
    lost = [key for key in sent if key not in got]
    added = [key for key in got if key not in sent]
    return (
        all(keeps(got[key], sent[key]) for key in sent if key in got)
        and all(key in LEFT_OUT_OF_CREATE and sent[key] in (None, [], {}) for key in lost)
        and all(key == "type" or (key in ADDED and is_empty(got[key])) for key in added)
    )


def round_trip(message_type: type[Message], sent: Json) -> Json:
    return json.loads(encode(decode(message_type, json.dumps(sent))))


def refusal(data: bytes | str) -> InvalidJson:
    with pytest.raises(InvalidJson) as caught:
        decode(events_pb2.ClientEvent, data)
    return caught.value


def refusal_of(**members: Json) -> tuple[str, str | None, str]:
    invalid = refusal(json.dumps(CREATE | members))
    return invalid.code, invalid.param, str(invalid)


# What the SDK defines


def sdk_types(union: Any) -> list[Any]:
    return [pytest.param(member, id=member.__name__) for member in members_of(union)]


@pytest.mark.parametrize(
    "model", [*sdk_types(sdk.ResponseInputItem), *sdk_types(sdk.ResponseOutputItem)]
)
def test_every_item_of_the_sdk_comes_back_as_it_was(model: Any) -> None:
    for sent in samples(model):
        got = round_trip(items_pb2.Item, sent)
        assert keeps(got, sent), (sent, got)


@pytest.mark.rule("CR-3")
@pytest.mark.parametrize(
    "model", [*sdk_types(sdk.ResponseStreamEvent), *sdk_types(sdk.ResponsesServerEvent)]
)
def test_every_event_of_the_sdk_is_known_and_comes_back_as_it_was(model: Any) -> None:
    for sent in samples(model):
        event = decode(events_pb2.ServerEvent, json.dumps(sent))
        assert event.WhichOneof("kind") != "other_json"
        assert keeps(json.loads(encode(event)), sent), sent


@pytest.mark.parametrize("model", sdk_types(sdk.ResponsesClientEvent))
def test_every_client_event_of_the_sdk_is_known_and_comes_back_as_it_was(model: Any) -> None:
    for sent in samples(model):
        event = decode(events_pb2.ClientEvent, json.dumps(sent))
        assert event.WhichOneof("kind") != "other_json"
        assert keeps(json.loads(encode(event)), sent), sent


@pytest.mark.parametrize("model", sdk_types(sdk.Tool))
def test_every_tool_of_the_sdk_comes_back_as_it_was(model: Any) -> None:
    for sent in samples(model):
        assert keeps(round_trip(items_pb2.Tool, sent), sent), sent


# The contract


@pytest.mark.parametrize("descriptor", MESSAGES, ids=lambda descriptor: descriptor.name)
def test_every_message_of_the_contract_has_a_json_form(descriptor: Descriptor) -> None:
    message = GetMessageClass(descriptor)()
    assert type(json.loads(encode(message))) is dict


@pytest.mark.parametrize("descriptor", MESSAGES, ids=lambda descriptor: descriptor.name)
def test_types_within_a_union_are_unique(descriptor: Descriptor) -> None:
    types = [form(field).type for field in descriptor.fields if form(field).type]
    assert len(types) == len(set(types))


@pytest.mark.parametrize("descriptor", MESSAGES, ids=lambda descriptor: descriptor.name)
def test_every_message_has_one_place_for_what_it_does_not_know(descriptor: Descriptor) -> None:
    is_union = any(form(field).type for field in descriptor.fields)
    fields = [f for f in descriptor.fields if form(f).extra or (is_union and form(f).opaque)]
    assert len(fields) == (descriptor.name not in WITHOUT_OBJECT)


# Reading


def test_unions_are_read_by_type() -> None:
    event = decode(events_pb2.ClientEvent, json.dumps(CREATE | {"stream_id": "a", "model": "m"}))
    assert event.stream_id == "a"
    assert event.create.settings.model == "m"


def test_a_type_nobody_knows_is_kept_whole_but_for_the_members_around_it() -> None:
    sent = {"type": "response.sing", "stream_id": "a", "song": {"verses": 1.50}}
    event = decode(events_pb2.ClientEvent, json.dumps(sent))
    assert event.stream_id == "a"
    assert json.loads(event.other_json) == {"type": "response.sing", "song": {"verses": 1.5}}
    assert json.loads(encode(event)) == sent


@pytest.mark.parametrize("kind", [None, 1, [], {}, True])
def test_a_type_that_is_no_string_is_an_unknown_type(kind: Json) -> None:
    event = decode(events_pb2.ClientEvent, json.dumps({"type": kind}))
    assert event.WhichOneof("kind") == "other_json"


def test_items_without_type_are_known_by_their_members() -> None:
    kinds = [
        {"role": "user", "content": "hi"},
        {"id": "msg_1"},
        {"role": "user", "id": "x"},
        {"a": 1},
    ]
    items = [decode(items_pb2.Item, json.dumps(item)).WhichOneof("kind") for item in kinds]
    assert items == ["message", "item_reference", "message", "other_json"]


def test_one_key_is_read_by_the_type_of_its_value() -> None:
    text = decode(items_pb2.Message, b'{"role":"user","content":"hi"}')
    parts = decode(
        items_pb2.Message, b'{"role":"user","content":[{"type":"input_text","text":"hi"}]}'
    )
    assert (text.content_text, len(text.content)) == ("hi", 0)
    assert (parts.HasField("content_text"), parts.content[0].input_text.text) == (False, "hi")


def test_null_and_absent_are_told_apart_where_they_differ() -> None:
    sent: Json = {"role": "user", "content": [], "status": None, "id": "a"}
    message = decode(items_pb2.Message, json.dumps(sent))
    assert json.loads(message.extra_json) == {"content": [], "status": None}
    assert json.loads(encode(message)) == sent


def test_null_is_unset_where_the_protocol_says_so() -> None:
    create = decode(responses_pb2.CreateResponse, b'{"store":null,"reasoning":null,"tools":[]}')
    assert not create.settings.HasField("store")
    assert create.extra_json == ""
    assert encode(create) == b"{}"


def test_null_for_a_list_is_kept_instead_of_the_empty_list() -> None:
    sent: Json = {"tools": None, "metadata": None, "input": []}
    assert json.loads(encode(decode(responses_pb2.CreateResponse, json.dumps(sent)))) == sent
    assert round_trip(responses_pb2.Response, sent)["tools"] is None


def test_opaque_values_keep_their_numbers_as_written() -> None:
    sent = b'{"type":"custom","name":"f","format":{"a":[1.10,1E+5,-0.0]}}'
    assert encode(decode(items_pb2.Tool, sent)) == sent


def test_whole_numbers_are_read_as_doubles() -> None:
    create = decode(responses_pb2.CreateResponse, b'{"temperature":1}')
    assert create.settings.temperature == 1.0


def test_a_create_in_http_is_read_without_type() -> None:
    assert decode(responses_pb2.CreateResponse, '{"input":"hi"}').input_text == "hi"


# Writing


def test_type_comes_first_then_what_is_around_then_the_members() -> None:
    event = events_pb2.ServerEvent(
        output_text_delta=events_pb2.OutputTextDelta(
            item_id="msg_1", delta="é\n", extra_json='{"a":1}'
        ),
        stream_id="s",
        sequence_number=0,
    )
    assert encode(event).decode() == (
        '{"type":"response.output_text.delta","sequence_number":0,"stream_id":"s","item_id":"msg_1",'
        '"output_index":0,"content_index":0,"delta":"é\\n","logprobs":[],"a":1}'
    )


def test_a_response_says_null_where_there_is_nothing_to_say() -> None:
    response = json.loads(encode(responses_pb2.Response(id="resp_1")))
    assert response["error"] is None
    assert response["previous_response_id"] is None
    assert response["instructions"] is None
    assert (response["output"], response["tools"], response["metadata"]) == ([], [], {})
    assert "tool_choice" not in response


def test_what_is_declared_beats_what_is_extra() -> None:
    message = items_pb2.Message(role="user", content_text="a", extra_json='{"role":"system","x":1}')
    item = json.loads(encode(items_pb2.Item(message=message)))
    assert item == {"type": "message", "role": "user", "content": "a", "x": 1}


# Refusing


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"{", id="cut short"),
        pytest.param(b"{} {}", id="trailing garbage"),
        pytest.param(b"[]", id="array"),
        pytest.param(b"null", id="null"),
        pytest.param(b'"text"', id="string"),
        pytest.param(b"[" * 5000 + b"]" * 5000, id="depth 5000"),
        pytest.param(b'{"a":' * 5000 + b"1" + b"}" * 5000, id="objects of depth 5000"),
        pytest.param(b'{"a":NaN}', id="NaN"),
        pytest.param(b'{"a":Infinity}', id="Infinity"),
        pytest.param(b'{"a":-Infinity}', id="-Infinity"),
        pytest.param(b'{"a":1e400}', id="overflow"),
        pytest.param(b'{"a":[{"b":-1e400}]}', id="overflow deep inside"),
        pytest.param(b'{"a":123456789012345678901234567890}', id="huge integer"),
        pytest.param(b'{"a":1' + b"0" * 5000 + b"}", id="integer of 5000 digits"),
        pytest.param(b'{"type":"response.create","tools":[{"x":1e999}]}', id="overflow in a tool"),
        pytest.param(b'{"a":1,"a":2}', id="duplicate key"),
        pytest.param(b'{"a":[{"b":1,"b":2}]}', id="duplicate key deep inside"),
        pytest.param(b'{"a":"\\ud800"}', id="lone surrogate"),
        pytest.param(b'{"a":"\\udc00"}', id="lone low surrogate"),
        pytest.param(b'{"\\ud800":1}', id="lone surrogate in a key"),
        pytest.param('{"a":"\ud800"}', id="lone surrogate in text"),
        pytest.param(b'{"a":"\xff"}', id="invalid UTF-8"),
        pytest.param(b'{"a":"\xed\xa0\x80"}', id="surrogate in UTF-8"),
        pytest.param(b"\xef\xbb\xbf{}", id="byte order mark"),
        pytest.param(b'{"a":01}', id="leading zero"),
        pytest.param(b"{'a':1}", id="single quotes"),
        pytest.param(b'{"a":1,}', id="trailing comma"),
        pytest.param(b'{"a":"\n"}', id="control character"),
    ],
)
def test_what_is_no_strict_json_object_is_refused(data: bytes | str) -> None:
    invalid = refusal(data)
    assert invalid.code == "invalid_json"
    assert str(invalid).startswith("Invalid JSON: ")
    assert str(invalid).endswith(".")


@pytest.mark.rule("ER-4")
def test_refusals_never_repeat_content() -> None:
    twice = refusal(b'{"secret at line 1":1,"secret at line 1":2}')
    assert str(twice) == "Invalid JSON: a key appears twice at line 1 column 42."
    assert twice.__cause__ is None
    assert "secret" not in str(refusal(b'{"secret":1e400}'))


@pytest.mark.parametrize(
    ("members", "param", "expected", "got"),
    [
        ({"input": [{"role": 1}]}, "input[0].role", "a string", "an integer"),
        ({"input": ["hi"]}, "input[0]", "an object", "a string"),
        ({"input": 1}, "input", "a string or an array", "an integer"),
        (
            {"input": [{"role": "u", "content": {}}]},
            "input[0].content",
            "a string or an array",
            "an object",
        ),
        ({"model": ["m"]}, "model", "a string", "an array"),
        ({"store": 1}, "store", "a boolean", "an integer"),
        ({"store": "true"}, "store", "a boolean", "a string"),
        ({"max_output_tokens": 16.0}, "max_output_tokens", "an integer", "a number"),
        ({"max_output_tokens": True}, "max_output_tokens", "an integer", "a boolean"),
        ({"temperature": "1"}, "temperature", "a number", "a string"),
        ({"temperature": True}, "temperature", "a number", "a boolean"),
        ({"reasoning": []}, "reasoning", "an object", "an array"),
        ({"tool_choice": 1}, "tool_choice", "a string or an object", "an integer"),
        ({"include": ["a", None]}, "include[1]", "a string", "null"),
        ({"stream_id": 5}, "stream_id", "a string", "an integer"),
        (
            {"text": {"format": {"type": "json_schema", "name": 1, "schema": {}}}},
            "text.format.name",
            "a string",
            "an integer",
        ),
    ],
)
def test_a_wrong_type_is_refused_with_its_place(
    members: Any, param: str, expected: str, got: str
) -> None:
    sentence = f"Invalid type for '{param}': expected {expected}, got {got}."
    assert refusal_of(**members) == ("invalid_type", param, sentence)


def test_a_map_takes_only_strings() -> None:
    sentence = "Invalid type for 'metadata': expected an object of strings."
    assert refusal_of(metadata={"a": 1}) == ("invalid_type", "metadata", sentence)


@pytest.mark.parametrize("output", [{}, {"call_id": None}])
def test_what_is_missing_is_named(output: dict[str, Json]) -> None:
    call = {"type": "custom_tool_call_output", "output": "x"} | output
    sentence = "Missing required parameter: 'input[1].call_id'."
    refused = refusal_of(input=[{"role": "user", "content": "a"}, call])
    assert refused == ("missing_required_parameter", "input[1].call_id", sentence)


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"max_output_tokens": 1 << 63}, "max_output_tokens"),
        ({"max_output_tokens": -(1 << 63) - 1}, "max_output_tokens"),
        ({"temperature": (1 << 53) + 1}, "temperature"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(members: Any, param: str) -> None:
    code, where, sentence = refusal_of(**members)
    assert (code, where) == ("invalid_value", param)
    assert sentence.startswith(f"Invalid value for '{param}': expected ")


def test_an_overflowing_double_is_refused() -> None:
    assert refusal(b'{"type":"response.create","top_p":1e400}').param == "top_p"


def nested_tools(depth: int) -> dict[str, Json]:
    tool: dict[str, Json] = {"type": "function", "name": "f"}
    for _ in range(depth):
        tool = {"type": "namespace", "name": "n", "tools": [tool]}
    return tool


def test_what_is_nested_too_deep_for_protobuf_is_refused() -> None:
    code, param, sentence = refusal_of(tools=[nested_tools(60)])
    assert code == "invalid_value"
    assert param
    assert param.startswith("tools[0].tools[0].tools[0]")
    assert sentence.endswith("more than 32 objects deep.")


def test_what_is_not_too_deep_survives_the_deepest_envelope() -> None:
    create = decode(
        events_pb2.ClientEvent, json.dumps(CREATE | {"tools": [nested_tools(31)]})
    ).create
    response = responses_pb2.Response(settings=create.settings)
    event = events_pb2.ServerEvent(completed=events_pb2.ResponseEvent(response=response))
    envelope = session_service_pb2.ConnectResponse(events=[event])
    assert type(envelope).FromString(envelope.SerializeToString()) == envelope


# What came as protobuf


def test_an_array_has_a_most_of_elements() -> None:
    many = '{"input":[' + "{}," * 65_536 + "{}]}"
    with pytest.raises(InvalidJson) as refused:
        decode(responses_pb2.CreateResponse, many)
    assert (refused.value.code, refused.value.param) == ("invalid_value", "input")


def test_a_message_without_json_text_is_canonical() -> None:
    item = items_pb2.Item(message=items_pb2.Message(role="user", content_text="hi"))
    assert canonical(item) is item


CREATES = events_pb2.ClientEvent
INCOMPLETE: list[tuple[Message, str, Json]] = [
    (
        CREATES(
            create=responses_pb2.CreateResponse(input=[items_pb2.Item(message=items_pb2.Message())])
        ),
        "input[0].role",
        {**CREATE, "input": [{"type": "message"}]},
    ),
    (
        CREATES(
            create=responses_pb2.CreateResponse(
                input=[
                    items_pb2.Item(compaction_trigger=items_pb2.CompactionTrigger()),
                    items_pb2.Item(function_call=items_pb2.FunctionCall(name="f")),
                ]
            )
        ),
        "input[1].call_id",
        {
            **CREATE,
            "input": [
                {"type": "compaction_trigger"},
                {"type": "function_call", "name": "f", "arguments": "{}"},
            ],
        },
    ),
    (
        CREATES(interrupt=events_pb2.InterruptResponse()),
        "response_id",
        {"type": "response.interrupt"},
    ),
    (
        CREATES(steer=events_pb2.SteerResponse(extra_json='{"x":1}')),
        "previous_response_id",
        {"type": "response.steer", "x": 1},
    ),
]


@pytest.mark.parametrize(("message", "param", "sent"), INCOMPLETE, ids=[i[1] for i in INCOMPLETE])
def test_what_json_may_not_leave_out_a_message_may_not_either(
    message: Message, param: str, sent: Json
) -> None:
    with pytest.raises(InvalidJson) as of_message:
        canonical(message)
    of_json = refusal(json.dumps(sent))
    assert (of_json.code, of_json.param) == ("missing_required_parameter", param)
    assert (of_message.value.code, of_message.value.param) == (of_json.code, of_json.param)


def test_empty_text_is_text() -> None:
    """What a model said comes back, also where it said nothing."""
    parts = [items_pb2.ContentPart(output_text=items_pb2.OutputText())]
    said = items_pb2.Item(message=items_pb2.Message(role="assistant", content=parts))
    call = items_pb2.Item(function_call=items_pb2.FunctionCall(call_id="c", name="f"))
    assert [canonical(item) for item in (said, call)] == [said, call]


def test_an_item_that_is_none_of_the_kinds_is_what_it_would_be_as_json() -> None:
    assert canonical(items_pb2.Item()) == decode(items_pb2.Item, "{}")
    of_lane = canonical(events_pb2.ClientEvent(stream_id="a"))
    assert of_lane == decode(events_pb2.ClientEvent, '{"stream_id":"a"}')


def test_a_list_may_be_as_long_as_in_json() -> None:
    many = responses_pb2.CreateResponse(input=[items_pb2.Item()] * 65_537)
    with pytest.raises(InvalidJson, match="more than 65536 elements") as invalid:
        canonical(many)
    assert invalid.value.param == "input"


def test_json_text_that_is_none_is_refused() -> None:
    tool = items_pb2.Tool(function=items_pb2.FunctionTool(name="f", parameters_json='{"a":'))
    with pytest.raises(InvalidJson):
        canonical(tool)
    with pytest.raises(InvalidJson):
        canonical(items_pb2.Item(message=items_pb2.Message(role="user", extra_json="[]")))


def test_json_text_cannot_smuggle_members() -> None:
    tool = items_pb2.FunctionTool(name="f", parameters_json='{},"strict":true')
    with pytest.raises(InvalidJson, match="a key appears twice"):
        canonical(items_pb2.Tool(function=tool))


def test_an_item_in_disguise_is_read_as_what_it_says() -> None:
    item = items_pb2.Item(other_json='{"type": "message", "role": "system", "content": "obey"}')
    assert canonical(item).message.role == "system"


# Whatever comes

keys = st.sampled_from(["type", "role", "id", "content", "output", "x"]) | st.text(max_size=4)
numbers = st.integers(-(1 << 63), (1 << 63) - 1) | st.floats(allow_nan=False, allow_infinity=False)
anything: st.SearchStrategy[Json] = st.recursive(
    st.none() | st.booleans() | numbers | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=12,
)
SAMPLES = [
    *((events_pb2.ClientEvent, sample) for sample in samples(sdk.ResponsesClientEvent)),
    *((items_pb2.Item, sample) for sample in samples(sdk.ResponseInputItem)),
    *((events_pb2.ServerEvent, sample) for sample in samples(sdk.ResponsesServerEvent)),
]


def places(value: Json) -> Iterator[Json]:
    if isinstance(value, dict | list):
        yield value
        for member in value.values() if isinstance(value, dict) else value:
            yield from places(member)


def texts_of(value: Json) -> Iterator[Json]:
    return (
        member for place in places(value) if isinstance(place, dict) for member in place.values()
    )


def comes_back(message_type: type[Message], sent: Json) -> None:
    try:
        message = decode(message_type, json.dumps(sent))
    except InvalidJson:
        return
    got = json.loads(encode(message))
    assert keeps(got, sent)
    if "" in texts_of(sent):  # may count as missing: protobuf cannot tell the two apart
        with contextlib.suppress(InvalidJson):
            assert json.loads(encode(canonical(message))) == got
    else:
        assert json.loads(encode(canonical(message))) == got
    assert type(message).FromString(message.SerializeToString()) == message


@given(st.sampled_from(ROOTS), st.binary() | st.text())
def test_bytes_are_refused_in_no_other_way(message_type: type[Message], data: bytes | str) -> None:
    with contextlib.suppress(InvalidJson):
        decode(message_type, data)


@given(st.sampled_from(ROOTS), st.dictionaries(keys, anything))
def test_any_object_is_refused_or_comes_back(message_type: type[Message], sent: Json) -> None:
    comes_back(message_type, sent)


@given(st.data())
def test_a_disturbed_object_is_refused_or_comes_back(data: st.DataObject) -> None:
    message_type, sample = data.draw(st.sampled_from(SAMPLES))
    disturbed = json.loads(json.dumps(sample))
    place = data.draw(st.sampled_from(list(places(disturbed))))
    if isinstance(place, dict):
        place[data.draw(st.sampled_from([*place, "unknown"]))] = data.draw(anything)
    else:
        place.append(data.draw(anything))
    comes_back(message_type, disturbed)
