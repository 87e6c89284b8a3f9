"""What one turn says: order, numbers, fields (docs/protocol.md, "Events")."""

from typing import Any

import pytest

from tests.conformance.conftest import Talk
from turnwire import json_codec


@pytest.mark.rule("EV-1", "EV-3")
async def test_text_is_streamed_in_the_protocols_order(talk: Talk) -> None:
    async with talk() as chat:
        heard = await chat.sim("text 2")
    assert heard.kinds == [
        "created",
        "in_progress",
        "output_item_added",
        "content_part_added",
        "output_text_delta",
        "output_text_delta",
        "output_text_done",
        "content_part_done",
        "output_item_done",
        "completed",
    ]
    assert [event.sequence_number for event in heard] == list(range(10))


@pytest.mark.rule("EV-7")
async def test_deltas_add_up_to_the_answer(talk: Talk) -> None:
    async with talk() as chat:
        heard = await chat.ask('the quick brown fox — ünïcödé 🦊 "quotes" \\ \n newline')
    deltas = "".join(event.output_text_delta.delta for event in heard)
    assert deltas == heard.text == 'the quick brown fox — ünïcödé 🦊 "quotes" \\ \n newline'


@pytest.mark.rule("EV-6", "EV-9")
async def test_what_was_done_is_what_the_response_holds(talk: Talk) -> None:
    async with talk() as chat:
        heard = await chat.sim("reasoning 3 ; text 2 ; call f {} ; custom g x")
    done = [e.output_item_done.item for e in heard if e.HasField("output_item_done")]
    assert done == list(heard.response.output)
    kinds = [item.WhichOneof("kind") for item in done]
    assert kinds == ["reasoning", "message", "function_call", "custom_tool_call"]


@pytest.mark.rule("EV-5", "EV-7")
async def test_arguments_are_streamed_and_then_told_whole(talk: Talk) -> None:
    async with talk() as chat:
        heard = await chat.sim('call add {"a": 1, "b": [2, 3], "c": "a longer text"}')
    deltas = "".join(event.function_call_arguments_delta.delta for event in heard)
    [call] = [item.function_call for item in heard.response.output]
    assert deltas == call.arguments == '{"a": 1, "b": [2, 3], "c": "a longer text"}'
    assert call.call_id.startswith("call_")


@pytest.mark.rule("EV-3")
async def test_a_refusal_is_a_part_of_its_own(talk: Talk) -> None:
    async with talk() as chat:
        heard = await chat.sim("refuse I would rather not")
    assert heard.kinds[3:-2] == [
        "content_part_added",
        *["refusal_delta"] * heard.kinds.count("refusal_delta"),
        "refusal_done",
        "content_part_done",
    ]
    part = heard.response.output[0].message.content[0]
    assert part.refusal.refusal == "I would rather not"


@pytest.mark.rule("CR-14", "EV-11")
async def test_an_answer_cut_short_is_incomplete(talk: Talk) -> None:
    async with talk() as chat:
        heard = await chat.sim("text 50", max_output_tokens=5)
        assert heard.kinds[-1] == "incomplete"
        assert heard.response.incomplete_details.reason == "max_output_tokens"
        assert heard.response.output[0].message.status == "incomplete"
        assert (await chat.ask(previous_response_id=heard.id)).kinds[-1] == "completed"


@pytest.mark.rule("EV-1", "EV-12")
async def test_a_model_server_that_fails_is_how_the_turn_ended(talk: Talk) -> None:
    async with talk() as chat:
        heard = await chat.sim("fail rate_limit_exceeded after 3 words")
        assert heard.kinds[-1] == "failed"
        assert heard.response.error.code == "rate_limit_exceeded"
        assert [event.sequence_number for event in heard] == list(range(len(heard)))
        assert (await chat.ask()).kinds[-1] == "completed"


@pytest.mark.rule("RO-2", "RO-3", "CR-3")
async def test_the_response_echoes_its_request_with_defaults(talk: Talk) -> None:
    tool = {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": True}
    async with talk() as chat:
        heard = await chat.ask(
            instructions="Be brief.",
            tools=[tool, {"type": "web_search", "filters": {"x": None}}],
            temperature=0.5,
            metadata={"a": "b"},
            max_output_tokens=100,
            reasoning={"effort": "low"},
        )
    settings = heard.response.settings
    assert settings.instructions == "Be brief."
    assert settings.temperature == 0.5
    assert settings.metadata == {"a": "b"}
    assert settings.max_output_tokens == 100
    assert settings.reasoning.effort == "low"
    assert settings.tools[0].function.name == "f"
    assert json_codec.encode(settings.tools[1]) == b'{"type":"web_search","filters":{"x":null}}'
    assert settings.parallel_tool_calls
    assert settings.truncation == "disabled"
    assert heard[0].created.response.settings == settings


@pytest.mark.rule("RO-4")
async def test_usage_is_told_when_the_turn_has_ended(talk: Talk) -> None:
    async with talk() as chat:
        heard = await chat.sim("text 7")
    assert not heard[0].created.response.HasField("usage")
    usage = heard.response.usage
    assert usage.output_tokens == 7
    assert usage.total_tokens == usage.input_tokens + 7


@pytest.mark.rule("CR-3", "CR-4")
async def test_unknown_members_tools_and_items_are_no_reason_to_refuse(talk: Talk) -> None:
    async with talk() as chat:
        heard = await chat.ask(
            input=[
                {"type": "martian", "x": [1, None]},
                {"role": "user", "content": [{"type": "hologram", "y": 1}], "colour": "blue"},
            ],
            tools=[{"type": "time_machine", "year": 1885}],
            stream=True,
            client_metadata={"a": "b"},
            never_heard_of={"this": True},
        )
    assert heard.kinds[-1] == "completed"


@pytest.mark.rule("CR-1", "CR-7", "CR-8", "CR-13", "ER-1", "ER-3")
@pytest.mark.parametrize(
    ("members", "code", "param"),
    [
        ({"model": "gpt-0"}, "model_not_found", "model"),
        ({"model": None}, "missing_required_parameter", "model"),
        pytest.param(
            {"background": True},
            "unsupported_parameter",
            "background",
            marks=pytest.mark.connection,
        ),
        pytest.param(
            {"type": "response.dance"}, "unknown_event_type", "type", marks=pytest.mark.connection
        ),
        pytest.param({"type": None}, "unknown_event_type", "type", marks=pytest.mark.connection),
        ({"metadata": {"k": "v" * 513}}, "invalid_value", "metadata"),
        (
            {"input": [{"type": "function_call_output", "call_id": "nope", "output": ""}]},
            "invalid_value",
            "input",
        ),
    ],
)
async def test_a_refusal_names_what_is_wrong_and_the_connection_lives_on(
    talk: Talk, members: dict[str, Any], code: str, param: str
) -> None:
    async with talk() as chat:
        heard = await chat.ask(**members)
        assert len(heard) == 1
        assert heard.error.status == 400
        assert (heard.error.error.code, heard.error.error.param) == (code, param)
        assert (await chat.ask()).kinds[-1] == "completed"
