import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest

from service.backends import (
    CallText,
    CustomCallBegins,
    Finished,
    FunctionCallBegins,
    ItemEnds,
    Produced,
    Prompt,
    ReasoningText,
    RefusalText,
    Text,
)
from service.backends.simulator.backend import Simulator, Speed
from service.backends.simulator.script import Script
from service.conversation import Segment
from service.errors import ModelError
from turnwire.v1 import items_pb2, responses_pb2


def user(text: str) -> items_pb2.Item:
    return items_pb2.Item(message=items_pb2.Message(role="user", content_text=text))


def assistant(text: str) -> items_pb2.Item:
    part = items_pb2.ContentPart(output_text=items_pb2.OutputText(text=text))
    return items_pb2.Item(message=items_pb2.Message(id="msg_1", role="assistant", content=[part]))


def output(text: str) -> items_pb2.Item:
    return items_pb2.Item(
        function_call_output=items_pb2.FunctionCallOutput(call_id="call_1", output_text=text)
    )


def function(name: str, schema: Any) -> items_pb2.Tool:
    return items_pb2.Tool(
        function=items_pb2.FunctionTool(name=name, parameters_json=json.dumps(schema))
    )


def prompt(
    *items: items_pb2.Item,
    history: Sequence[Segment] = (),
    settings: responses_pb2.Settings | None = None,
    tenant: str = "tenant",
) -> Prompt:
    return Prompt(
        history=history,
        input=items,
        settings=settings or responses_pb2.Settings(model="simulator"),
        extra_json="",
        conversation="conversation",
        tenant=tenant,
    )


async def batches(simulator: Simulator, asked: Prompt) -> list[Sequence[Produced]]:
    return [batch async for batch in simulator.generate(asked)]


async def produced(simulator: Simulator, asked: Prompt) -> list[Produced]:
    return [piece for batch in await batches(simulator, asked) for piece in batch]


async def told(directives: str, **settings: Any) -> list[Produced]:
    asked = prompt(user(f"#sim {directives}"), settings=responses_pb2.Settings(**settings))
    return await produced(Simulator(), asked)


def said(pieces: Sequence[Produced], kind: type[Produced]) -> str:
    return "".join(piece.text for piece in pieces if isinstance(piece, kind))  # type: ignore[union-attr]


def finished(pieces: Sequence[Produced]) -> Finished:
    assert isinstance(pieces[-1], Finished)
    return pieces[-1]


@pytest.mark.parametrize("text", ["Hello there, world", "  two  spaces\n", "ä" * 100, "x"])
async def test_it_echoes_what_the_user_said_exactly(text: str) -> None:
    assert said(await produced(Simulator(), prompt(user(text))), Text) == text


async def test_it_echoes_a_tool_output_that_came_last() -> None:
    pieces = await produced(Simulator(), prompt(user("question"), output("answer is 4")))
    assert said(pieces, Text) == "answer is 4"


async def test_without_new_input_it_looks_back() -> None:
    history = [Segment(None, [user("first words")])]
    assert said(await produced(Simulator(), prompt(history=history)), Text) == "first words"


async def test_the_same_prompt_gives_the_same_answer() -> None:
    asked = prompt(user("#sim reasoning 3 ; text 20 ; call add {}"))
    assert await batches(Simulator(), asked) == await batches(Simulator(), asked)


async def test_at_full_speed_a_turn_is_one_batch() -> None:
    assert len(await batches(Simulator(), prompt(user("#sim text 500")))) == 1


async def test_with_a_speed_a_batch_has_as_many_tokens_as_it_is_told() -> None:
    speed = Speed(first_token=1e-4, tokens_per_second=1e6, tokens_per_batch=4)
    sizes = [len(b) for b in await batches(Simulator(speed=speed), prompt(user("#sim text 9")))]
    assert sizes == [4, 4, 2]


async def test_text_reasoning_and_refusals_are_items_of_their_own() -> None:
    pieces = await told("reasoning 2 ; text 3 ; refuse I will not")
    assert said(pieces, ReasoningText) == "every turn"
    assert said(pieces, Text) == "every turn carries"
    assert said(pieces, RefusalText) == "I will not"
    assert sum(isinstance(piece, ItemEnds) for piece in pieces) == 2
    assert finished(pieces).reasoning_tokens == 2
    assert finished(pieces).output_tokens == 8


async def test_calls_carry_their_arguments_as_they_were_written() -> None:
    pieces = await told('call add {"a": 1, "b":  2} ; custom patch *** Begin ; call none')
    assert [p.name for p in pieces if isinstance(p, FunctionCallBegins)] == ["add", "none"]
    assert [p.name for p in pieces if isinstance(p, CustomCallBegins)] == ["patch"]
    assert said(pieces, CallText) == '{"a": 1, "b":  2}*** Begin{}'


async def test_length_stops_the_turn_in_the_open_item() -> None:
    pieces = await told("text 3 ; length ; text 5")
    assert finished(pieces).reason == "length"
    assert said(pieces, Text) == "every turn carries"


async def test_the_limit_on_output_is_kept() -> None:
    pieces = await told("text 20", max_output_tokens=7)
    assert finished(pieces).reason == "length"
    assert finished(pieces).output_tokens == 7
    assert finished(await told("text 7", max_output_tokens=7)).reason == "stop"


async def test_it_fails_with_the_code_it_was_told() -> None:
    with pytest.raises(ModelError) as failure:
        await told("fail rate_limit_exceeded")
    assert failure.value.code == "rate_limit_exceeded"


async def test_it_fails_in_the_middle_of_an_answer() -> None:
    simulator = Simulator()
    generating = simulator.generate(prompt(user("#sim fail server_error after 2 words")))
    assert said(await anext(generating), Text) == "every turn"
    with pytest.raises(ModelError):
        await anext(generating)
    assert (simulator.running, simulator.cancelled) == (0, 0)


async def test_a_stall_sends_first_what_there_is() -> None:
    generating = Simulator().generate(prompt(user("#sim text 2 ; stall 3600 ; text 1")))
    assert said(await anext(generating), Text) == "every turn"
    await generating.aclose()


@pytest.mark.parametrize(
    "directives",
    ["sing", "", "text", "text -1", "text 99999999", "call", "stall nan", "length 3", "fail"],
)
async def test_what_it_does_not_understand_it_refuses_by_name(directives: str) -> None:
    with pytest.raises(ModelError, match="does not understand") as failure:
        await told(directives)
    assert failure.value.code == "invalid_prompt"


async def test_a_script_is_followed_turn_by_turn() -> None:
    simulator = Simulator(script=Script("text 1", "call add {}"))
    turns = [await produced(simulator, prompt(user("hello"))) for _ in range(3)]
    assert [type(turn[0]) for turn in turns] == [Text, FunctionCallBegins, Text]
    assert said(turns[2], Text) == "hello"


async def test_closing_a_turn_counts_as_cancelled_at_once() -> None:
    simulator = Simulator()
    generating = simulator.generate(prompt(user("#sim text 1 ; stall 3600")))
    await anext(generating)
    assert (simulator.running, simulator.cancelled) == (1, 0)
    await generating.aclose()
    assert (simulator.running, simulator.cancelled) == (0, 1)


async def test_cancelling_the_task_of_a_turn_counts_as_cancelled() -> None:
    simulator = Simulator()
    turn = asyncio.create_task(batches(simulator, prompt(user("#sim stall 3600"))))
    await asyncio.sleep(0)
    turn.cancel()
    await asyncio.wait([turn])
    assert (simulator.running, simulator.cancelled) == (0, 1)


async def test_a_turn_that_is_closed_after_its_end_was_not_cancelled() -> None:
    simulator = Simulator()
    generating = simulator.generate(prompt(user("hello")))
    await anext(generating)
    await generating.aclose()
    assert (simulator.running, simulator.cancelled) == (0, 0)


async def test_a_turn_that_continues_computes_only_what_is_new() -> None:
    simulator = Simulator()
    first = finished(await produced(simulator, prompt(user("one two three four"))))
    assert first.rendered
    segment = Segment(None, [], {"simulator": first.rendered})
    second = finished(await produced(simulator, prompt(user("five"), history=[segment])))
    assert first.cached_tokens == 0
    assert second.cached_tokens == second.input_tokens - len("<user>five\n") // 4 - 1
    assert simulator.prefilled_tokens == first.input_tokens + 3


async def test_a_conversation_sent_again_in_full_is_as_much_cached() -> None:
    simulator = Simulator()
    first = finished(await produced(simulator, prompt(user("#sim text 3"))))
    assert first.rendered
    resent = [user("#sim text 3"), assistant("every turn carries")]
    again = finished(await produced(simulator, prompt(*resent, user("five"))))
    assert again.cached_tokens >= first.rendered.tokens


async def test_a_chain_sent_again_in_full_is_as_much_cached_as_the_chain_itself() -> None:
    simulator = Simulator()
    history: list[Segment] = []
    items: list[items_pb2.Item] = []
    for number in range(4):
        asked = [user(f"{number} and a note"), user("#sim text 3")]
        turn = finished(await produced(simulator, prompt(*asked, history=history)))
        assert turn.rendered
        history.append(Segment(None, [], {"simulator": turn.rendered}))
        items += [*asked, assistant("every turn carries")]
    chained = finished(await produced(simulator, prompt(user("go"), history=history)))
    resent = finished(await produced(simulator, prompt(*items, user("go on"))))
    assert resent.cached_tokens == chained.cached_tokens


async def test_the_cache_is_not_shared_between_tenants() -> None:
    simulator = Simulator()
    await produced(simulator, prompt(user("a secret")))
    assert (
        finished(
            await produced(simulator, prompt(user("a secret"), tenant="another"))
        ).cached_tokens
        == 0
    )


async def test_other_instructions_make_another_prefix() -> None:
    simulator = Simulator()
    await produced(simulator, prompt(user("hello")))
    settings = responses_pb2.Settings(instructions="Be brief.")
    changed = finished(await produced(simulator, prompt(user("hello"), settings=settings)))
    assert changed.cached_tokens == 0


async def test_the_cache_forgets_the_oldest() -> None:
    simulator = Simulator(cached_prefixes=4)
    for text in ("first", "second", "first"):
        last = finished(await produced(simulator, prompt(user(text))))
    assert last.cached_tokens < last.input_tokens - 2


async def test_a_warm_up_computes_its_input_for_the_turn_after_it() -> None:
    simulator = Simulator()
    warm = await simulator.prepare(prompt(user("context"), user("and more"), output("of it")))
    before = simulator.prefilled_tokens
    segment = Segment(None, [], {"simulator": warm})
    turn = finished(await produced(simulator, prompt(user("go"), history=[segment])))
    assert turn.cached_tokens >= warm.tokens
    assert simulator.prefilled_tokens - before == turn.input_tokens - turn.cached_tokens


async def test_a_turn_reads_the_same_rendered_and_rebuilt_from_its_items() -> None:
    asked = 'reasoning 2 ; text 3 ; refuse no ; call add {"a": 1} ; custom patch x'
    pieces = await produced(Simulator(), prompt(user(f"#sim {asked}")))
    refusal = items_pb2.ContentPart(refusal=items_pb2.Refusal(refusal="no"))
    items = [
        user(f"#sim {asked}"),
        items_pb2.Item(reasoning=items_pb2.Reasoning(id="rs_1")),
        assistant("every turn carries"),
        items_pb2.Item(message=items_pb2.Message(role="assistant", content=[refusal])),
        items_pb2.Item(function_call=items_pb2.FunctionCall(name="add", arguments='{"a": 1}')),
        items_pb2.Item(custom_tool_call=items_pb2.CustomToolCall(name="patch", input="x")),
    ]
    rebuilt = Segment(None, items)
    await produced(Simulator(), prompt(user("next"), history=[rebuilt]))
    assert rebuilt.rendered["simulator"] == finished(pieces).rendered


SCHEMA = {
    "type": "object",
    "required": [
        "text",
        "unit",
        "count",
        "ratio",
        "flag",
        "nested",
        "list",
        "maybe",
        "step",
        "any",
    ],
    "$defs": {
        "Point": {
            "type": "object",
            "required": ["x"],
            "properties": {"x": {"type": "integer", "exclusiveMinimum": 3}},
        }
    },
    "properties": {
        "text": {"type": "string", "minLength": 6, "maxLength": 7},
        "unit": {"enum": ["metre", "mile"]},
        "count": {"type": "integer", "minimum": 5},
        "ratio": {"type": "number", "maximum": -1},
        "flag": {"type": "boolean"},
        "nested": {"$ref": "#/$defs/Point"},
        "list": {"type": "array", "minItems": 2, "items": {"type": "string", "maxLength": 2}},
        "maybe": {"anyOf": [{"type": "null"}, {"type": "string"}]},
        "step": {"type": ["integer", "null"], "minimum": 8, "multipleOf": 5},
        "any": {},
        "optional": {"type": "string"},
    },
}


async def arguments(schema: Any, **settings: Any) -> Any:
    choice = {"tool_choice_mode": "required", **settings}
    asked = responses_pb2.Settings(tools=[function("measure", schema)], **choice)
    pieces = await produced(Simulator(), prompt(user("hello"), settings=asked))
    assert pieces[0] == FunctionCallBegins("measure")
    return json.loads(said(pieces, CallText))


async def test_a_required_call_has_arguments_that_its_schema_accepts() -> None:
    assert await arguments(SCHEMA) == {
        "text": "text..",
        "unit": "metre",
        "count": 5,
        "ratio": -1,
        "flag": False,
        "nested": {"x": 4},
        "list": ["te", "te"],
        "maybe": None,
        "step": 10,
        "any": None,
    }


async def test_examples_and_defaults_of_a_schema_are_preferred() -> None:
    properties = {"a": {"type": "string", "examples": ["1 + 2"]}, "b": {"default": 7}}
    schema = {"type": "object", "required": ["a", "b"], "properties": properties}
    assert await arguments(schema) == {"a": "1 + 2", "b": 7}


async def test_a_named_function_is_called_among_others() -> None:
    named = responses_pb2.ToolChoice(function=items_named("second"))
    settings = responses_pb2.Settings(
        tools=[function("first", {}), function("second", {})], tool_choice=named
    )
    pieces = await produced(Simulator(), prompt(user("hello"), settings=settings))
    assert pieces[:2] == [FunctionCallBegins("second"), CallText("{}")]


async def test_a_choice_among_allowed_tools_is_kept() -> None:
    allowed = responses_pb2.AllowedTools(
        mode="required", tools_json=['{"type": "function", "name": "second"}']
    )
    settings = responses_pb2.Settings(
        tools=[function("first", {}), function("second", {})],
        tool_choice=responses_pb2.ToolChoice(allowed_tools=allowed),
    )
    pieces = await produced(Simulator(), prompt(user("hello"), settings=settings))
    assert pieces[0] == FunctionCallBegins("second")


async def test_a_named_custom_tool_is_called_with_text() -> None:
    choice = responses_pb2.ToolChoice(custom=items_named("patch"))
    settings = responses_pb2.Settings(tool_choice=choice)
    pieces = await produced(Simulator(), prompt(user("hello"), settings=settings))
    assert pieces[:2] == [CustomCallBegins("patch"), CallText("text")]


async def test_a_demanded_form_of_the_text_is_kept() -> None:
    form = responses_pb2.JsonSchemaFormat(name="shape", schema_json=json.dumps(SCHEMA))
    text = responses_pb2.TextSettings(format=responses_pb2.TextFormat(json_schema=form))
    settings = responses_pb2.Settings(text=text)
    pieces = await produced(Simulator(), prompt(user("hello"), settings=settings))
    assert json.loads(said(pieces, Text))["unit"] == "metre"


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"$ref": "#/nowhere"},
        {"type": "object", "required": 5},
        {"type": "string", "minLength": "x"},
        {"type": "number", "minimum": "x", "multipleOf": 2},
    ],
)
async def test_a_schema_that_cannot_be_followed_is_the_clients_fault(schema: Any) -> None:
    with pytest.raises(ModelError, match="JSON Schema"):
        await arguments(schema)


def items_named(name: str) -> responses_pb2.NamedTool:
    return responses_pb2.NamedTool(name=name)
