import asyncio
import json
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import pytest

from service.backends import (
    CallText,
    CustomCallBegins,
    Finished,
    FunctionCallBegins,
    ItemEnds,
    Produced,
    Prompt,
    ReasoningSummaryText,
    ReasoningText,
    RefusalText,
    ScoredText,
    Text,
)
from service.backends.simulator.backend import Simulator, Speed
from service.backends.simulator.script import Script
from service.conversation import Segment
from service.errors import ModelError
from turnwire.v1 import items_pb2, responses_pb2

Items: TypeAlias = Sequence[items_pb2.Item]


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
    legible: Callable[[Items], Items] = list,
) -> Prompt:
    settings = settings or responses_pb2.Settings(model="simulator")
    return Prompt(
        history=history,
        input=items,
        legible=legible,
        model=settings.model,
        settings=settings,
        tools=settings.tools,
        logprobs=settings.HasField("top_logprobs"),
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
    [
        "sing",
        "",
        "text",
        "text -1",
        "text 99999999",
        "call",
        "stall nan",
        "slow -1",
        "length 3",
        "tools 1",
        "fail",
    ],
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
    segment = Segment(None, [], first.rendered)
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
    assert again.cached_tokens >= first.rendered["simulator"].tokens


async def test_a_chain_sent_again_in_full_is_as_much_cached_as_the_chain_itself() -> None:
    simulator = Simulator()
    history: list[Segment] = []
    items: list[items_pb2.Item] = []
    for number in range(4):
        asked = [user(f"{number} and a note"), user("#sim text 3")]
        turn = finished(await produced(simulator, prompt(*asked, history=history)))
        assert turn.rendered
        history.append(Segment(None, [], turn.rendered))
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
    segment = Segment(None, [], warm)
    turn = finished(await produced(simulator, prompt(user("go"), history=[segment])))
    assert turn.cached_tokens >= warm["simulator"].tokens
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
    assert rebuilt.rendered == finished(pieces).rendered


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


@pytest.mark.rule("CR-15")
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
    tool = items_pb2.Tool(custom=items_pb2.CustomTool(name="patch"))
    settings = responses_pb2.Settings(tools=[tool], tool_choice=choice)
    pieces = await produced(Simulator(), prompt(user("hello"), settings=settings))
    assert pieces[:2] == [CustomCallBegins("patch"), CallText("text")]


@pytest.mark.rule("CR-23")
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


async def answered(simulator: Simulator, asked: Prompt) -> Segment:
    """Return the turn as the history of the next one."""
    pieces = await produced(simulator, asked)
    last = finished(pieces)
    assert last.rendered
    items = [*asked.input, assistant(said(pieces, Text))]
    return Segment(None, items, last.rendered)


def auto(**settings: Any) -> responses_pb2.Settings:
    return responses_pb2.Settings(truncation="auto", **settings)


async def test_a_conversation_that_is_too_long_is_refused_unless_it_may_be_shortened() -> None:
    simulator = Simulator(context_tokens=100)
    history: list[Segment] = []
    for number in range(8):
        asked = prompt(user(f"{number} " + "word " * 10), history=history, settings=auto())
        history.append(await answered(simulator, asked))
    told = await produced(simulator, prompt(user("#sim history"), history=history, settings=auto()))
    assert 0 < int(said(told, Text)) < 17
    assert finished(told).input_tokens <= 75
    with pytest.raises(ModelError) as failure:
        await produced(simulator, prompt(user("#sim history"), history=history))
    assert failure.value.code == "context_length_exceeded"


async def test_a_shortened_turn_is_kept_whole() -> None:
    simulator = Simulator(context_tokens=60)
    items = [user("old " * 40), assistant("yes"), user("#sim text 2")]
    pieces = await produced(simulator, prompt(*items, settings=auto()))
    whole = finished(await produced(Simulator(), prompt(*items)))
    assert finished(pieces).input_tokens < whole.input_tokens
    assert finished(pieces).rendered == whole.rendered


async def test_what_cannot_be_left_out_may_still_be_too_long() -> None:
    asked = prompt(user("word " * 100), settings=auto())
    with pytest.raises(ModelError) as failure:
        await produced(Simulator(context_tokens=50), asked)
    assert failure.value.code == "context_length_exceeded"


async def test_an_answer_ends_where_the_context_does() -> None:
    pieces = await produced(Simulator(context_tokens=20), prompt(user("#sim text 50")))
    assert finished(pieces).reason == "length"
    assert finished(pieces).input_tokens + finished(pieces).output_tokens == 20


async def test_one_call_is_all_where_only_one_is_allowed() -> None:
    script = "text 1 ; call add {} ; call add {} ; text 1"
    pieces = await told(script, parallel_tool_calls=False)
    assert [type(piece) for piece in pieces] == [
        Text,
        ItemEnds,
        FunctionCallBegins,
        CallText,
        Finished,
    ]
    assert finished(pieces).reason == "stop"
    calls = await told(script, parallel_tool_calls=True)
    assert sum(isinstance(piece, FunctionCallBegins) for piece in calls) == 2


async def test_text_is_scored_where_that_is_wanted() -> None:
    pieces = await told("text 2 ; call add {}", top_logprobs=2)
    [every, _] = [piece for piece in pieces if isinstance(piece, ScoredText)]
    [score] = every.logprobs
    assert (every.text, score.token, bytes(score.bytes)) == ("every", "every", b"every")
    assert score.logprob == score.top_logprobs[0].logprob == -0.5
    assert [top.token for top in score.top_logprobs] == ["every", "every~1"]
    assert said(pieces, CallText) == "{}"
    assert finished(pieces).output_tokens == 4


async def test_without_alternatives_a_token_is_scored_alone() -> None:
    [piece, _] = await told("text 1", top_logprobs=0)
    assert isinstance(piece, ScoredText)
    assert not piece.logprobs[0].top_logprobs


async def test_a_scored_turn_is_kept_like_any_other() -> None:
    scored, plain = await told("text 3", top_logprobs=0), await told("text 3")
    assert finished(scored) == finished(plain)


async def test_a_summary_and_what_is_thought_after_it_are_one_item() -> None:
    pieces = await told("summary 2 ; reasoning 1 ; summary 1")
    kinds = [type(piece) for piece in pieces]
    assert kinds == [
        ReasoningSummaryText,
        ReasoningSummaryText,
        ReasoningText,
        ItemEnds,
        ReasoningSummaryText,
        Finished,
    ]
    assert finished(pieces).reasoning_tokens == 4


async def test_tools_of_namespaces_are_called_and_remembered() -> None:
    pieces = await told("call crm.find {} ; custom mcp__py__.run x")
    assert FunctionCallBegins("find", "crm") in pieces
    assert CustomCallBegins("run", "mcp__py__") in pieces
    items = [
        user("#sim call crm.find {} ; custom mcp__py__.run x"),
        items_pb2.Item(
            function_call=items_pb2.FunctionCall(name="find", namespace="crm", arguments="{}")
        ),
        items_pb2.Item(
            custom_tool_call=items_pb2.CustomToolCall(name="run", namespace="mcp__py__", input="x")
        ),
    ]
    rebuilt = Segment(None, items)
    await produced(Simulator(), prompt(user("next"), history=[rebuilt]))
    assert rebuilt.rendered == finished(pieces).rendered


async def test_it_says_which_tools_it_was_told_of() -> None:
    group = items_pb2.NamespaceTool(name="crm", tools=[function("find", {})])
    tools = [function("add", {}), items_pb2.Tool(namespace=group)]
    assert said(await told("tools", tools=tools), Text) == "add crm__find"


async def test_a_demanded_tool_of_a_namespace_is_called() -> None:
    group = items_pb2.NamespaceTool(name="crm", tools=[function("find", {})])
    named = responses_pb2.ToolChoice(function=items_named("find"))
    settings = responses_pb2.Settings(tools=[items_pb2.Tool(namespace=group)], tool_choice=named)
    pieces = await produced(Simulator(), prompt(user("hello"), settings=settings))
    assert pieces[0] == FunctionCallBegins("find", "crm")


async def test_history_is_read_as_it_was_made_legible() -> None:
    compacted = items_pb2.Item(compaction=items_pb2.Compaction(encrypted_content="sealed"))

    def legible(items: Items) -> Items:
        return [user("#sim history") if item == compacted else item for item in items]

    asked = prompt(history=[Segment(None, [compacted])], legible=legible)
    assert said(await produced(Simulator(), asked), Text) == "1"
    with pytest.raises(ModelError, match="'compaction'"):
        await produced(Simulator(), prompt(compacted))


async def test_slow_output_comes_token_by_token() -> None:
    asked = prompt(user("#sim slow 1e-4 ; text 3"))
    sizes = [len(batch) for batch in await batches(Simulator(), asked)]
    assert sizes == [1, 1, 1, 1]
