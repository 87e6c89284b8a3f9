import asyncio
import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import grpc
import pytest

from service.backends import (
    CustomCallBegins,
    ItemEnds,
    Text,
)
from service.backends.engines.backend import TokenEngine
from service.backends.engines.packed import Packed
from service.backends.engines.rpc import Rpc
from service.backends.engines.vllm import Vllm
from service.backends.http import Deadlines
from service.conversation import Segment
from service.errors import ModelError, Unavailable
from service.rendering import Files
from service.rendering.formats import Format
from service.rendering.proof import Proof
from tests.models import IM_END
from tests.service.backends.engines.conftest import WIRES, Bench, formats
from tests.service.backends.llama_cpp.conversing import (
    Turn,
    call,
    call_output,
    converse,
    custom,
    function,
    prompt,
    user,
)
from tests.stand_ins.engine_server import CONTEXT, MODEL
from tests.stand_ins.tiny_tokenizer import END_OF_TEXT
from turnwire.v1 import items_pb2, responses_pb2

WEATHER = function("get_weather", city={"enum": ["Oslo", "Lima"]})
CLOCK = function("get_time", zone={"enum": ["UTC", "CET"]})
REQUIRED: dict[str, Any] = {"tool_choice_mode": "required", "max_output_tokens": 90}


def ids_of(turn: Turn, bench: Bench) -> list[int]:
    return Packed().decode(turn.segment.rendered[bench.backend.dialect].data)


async def test_an_engine_says_what_it_has_loaded(bench: Bench) -> None:
    assert bench.backend.models == [MODEL]
    assert bench.backend.kind in WIRES
    assert bench.backend.capabilities.tokens_in == "completion"
    await bench.backend.check()


async def test_text_is_streamed_and_summed_up_at_the_end(bench: Bench) -> None:
    turn = await converse(bench.backend, prompt(user("hello"), max_output_tokens=12))
    assert len([part for part in turn.produced if isinstance(part, Text)]) > 1
    assert turn.finished.reason == "length"
    assert turn.finished.output_tokens == 12
    assert turn.finished.input_tokens == len(bench.servicer.llama.prompts[-1])


async def test_an_answer_that_ends_by_itself_is_kept_with_one_end_of_turn(bench: Bench) -> None:
    text_format = responses_pb2.TextFormat(
        json_schema=responses_pb2.JsonSchemaFormat(name="a", schema_json='{"enum": ["Yes"]}')
    )
    settings = responses_pb2.TextSettings(format=text_format)
    turn = await converse(bench.backend, prompt(user("?"), text=settings, max_output_tokens=60))
    assert turn.text == '"Yes"'
    assert turn.finished.reason == "stop"
    assert bytes(ids_of(turn, bench)[-7:-2]) == b'"Yes"'
    assert ids_of(turn, bench)[-2:] == [IM_END, ord("\n")]


async def test_the_prompt_of_a_turn_is_all_turns_before_it_byte_for_byte(bench: Bench) -> None:
    history: list[Segment] = []
    answers = []
    for word in ("first " * 30, "second", "third"):
        turn = await converse(bench.backend, prompt(user(word), history=history))
        kept = turn.segment.rendered[bench.backend.dialect].data
        answers.append(turn.finished.cached_tokens)
        history.append(turn.segment)
        told = bench.servicer.requests[-1].tokenized.input_ids
        before = b"".join(s.rendered[bench.backend.dialect].data for s in history[:-1])
        assert list(told[: len(Packed().decode(before))]) == Packed().decode(before)
        assert Packed().decode(kept)[: len(told) - len(Packed().decode(before))] == list(
            told[len(Packed().decode(before)) :]
        )
    first = history[0].rendered[bench.backend.dialect].tokens
    assert answers[1] >= first - 3
    assert answers[2] > answers[1]
    assert set(bench.outcomes) <= {"identical", "respelled"}


@pytest.mark.parametrize("tools", [[WEATHER], [WEATHER, CLOCK]], ids=["one", "two"])
async def test_a_required_call_always_matches_a_schema(
    bench: Bench, tools: Sequence[items_pb2.Tool]
) -> None:
    turn = await converse(bench.backend, prompt(user("?"), tools=tools, **REQUIRED))
    (name,) = turn.called
    allowed = {"get_weather": {"city": ["Oslo", "Lima"]}, "get_time": {"zone": ["UTC", "CET"]}}
    ((key, value),) = json.loads(turn.arguments).items()
    assert value in allowed[name][key]
    assert turn.text == ""
    assert ItemEnds() in turn.produced
    assert turn.finished.reason == "stop"


async def test_an_agent_calls_a_tool_and_answers_with_what_it_said(bench: Bench) -> None:
    asked = prompt(user("Weather?"), tools=[WEATHER], **REQUIRED)
    first = await converse(bench.backend, asked)
    called = call("get_weather", first.arguments)
    segment = Segment(None, [user("Weather?"), called], first.finished.rendered)
    second = await converse(
        bench.backend, prompt(call_output("Sunny."), history=[segment], tools=[WEATHER])
    )
    told = bytes(token for token in bench.servicer.llama.prompts[-1] if token < 256).decode()
    assert first.arguments in told
    assert "Sunny." in told
    assert second.text
    assert second.finished.cached_tokens >= first.finished.input_tokens
    assert set(bench.outcomes) <= {"identical", "respelled"}


async def test_a_custom_tool_gets_text_and_not_json(bench: Bench) -> None:
    settings = {**REQUIRED, "max_output_tokens": 60}
    turn = await converse(bench.backend, prompt(user("?"), tools=[custom("python")], **settings))
    assert CustomCallBegins("python") in turn.produced
    assert not turn.arguments.startswith('{"input')


async def test_one_call_is_all_where_only_one_is_allowed(bench: Bench) -> None:
    told = '<tool_call>\n{"name": "get_time", "arguments": {"zone": "UTC"}}\n</tool_call>'
    bench.servicer.says = f"{told}\n{told}"
    turn = await converse(
        bench.backend,
        prompt(user("?"), tools=[CLOCK], parallel_tool_calls=False, max_output_tokens=200),
    )
    assert turn.called == ["get_time"]
    assert turn.arguments == '{"zone": "UTC"}'
    assert turn.produced[-2] == ItemEnds()
    kept = bytes(token for token in ids_of(turn, bench) if token < 256).decode()
    assert kept.endswith(f"assistant\n{told}\n")
    assert bench.servicer.aborted == [bench.servicer.requests[-1].request_id]


async def test_a_stop_word_ends_the_answer_and_the_engine_s_work(bench: Bench) -> None:
    plain = await converse(bench.backend, prompt(user("hello")))
    word = plain.text[5:7]
    turn = await converse(
        bench.backend,
        prompt(user("hello"), extra=json.dumps({"stop": word}), max_output_tokens=900),
    )
    assert turn.text == plain.text[: plain.text.index(word)]
    assert turn.finished.reason == "stop"
    assert bench.servicer.aborted == [bench.servicer.requests[-1].request_id]
    kept = bytes(token for token in ids_of(turn, bench) if token < 256).decode()
    assert kept.endswith(f"assistant\n{turn.text}\n")


async def test_only_what_the_client_set_is_sent_beside_the_model_s_own(bench: Bench) -> None:
    await converse(bench.backend, prompt(user("hello")))
    params = bench.servicer.requests[-1].sampling_params
    assert {f.name for f, _ in params.ListFields()} <= {
        *("max_tokens", "max_new_tokens", "n", "stop_token_ids", "temperature")
    }
    assert (params.temperature, params.stop_token_ids) == (0, [END_OF_TEXT, IM_END])
    extra = json.dumps({"min_p": 0.25, "top_k": 3, "unheard_of": 1, "logit_bias": {"65": 1.5}})
    await converse(bench.backend, prompt(user("hello"), extra=extra, temperature=0.5, top_p=0.0))
    params = bench.servicer.requests[-1].sampling_params
    assert (params.temperature, params.min_p, params.top_k) == (0.5, 0.25, 3)
    assert 0 < params.top_p < 0.001
    assert list(params.logit_bias.values()) == [1.5]


@pytest.mark.parametrize(
    "extra",
    [
        {"min_p": "secret"},
        {"top_k": -7.5},
        {"logit_bias": {"secret": 1}},
        {"stop": [1]},
        {"stop": [""]},
        {"stop": ["secret"] * 65},
        {"stop": "secret" * 64},
    ],
)
async def test_wrong_parameters_are_refused_without_an_echo(
    bench: Bench, extra: dict[str, Any]
) -> None:
    with pytest.raises(ModelError) as caught:
        await converse(bench.backend, prompt(user("hello"), extra=json.dumps(extra)))
    assert caught.value.code == "invalid_prompt"
    assert "secret" not in caught.value.message


async def test_text_comes_with_how_likely_its_tokens_were(bench: Bench) -> None:
    turn = await converse(bench.backend, prompt(user("hello"), top_logprobs=2))
    assert b"".join(bytes(score.bytes) for score in turn.scores).decode() == turn.text
    assert len(turn.scores) == 12
    for score in turn.scores:
        assert score.top_logprobs[0].logprob == score.logprob <= 0
        assert len(score.top_logprobs) == 2


async def test_without_alternatives_tokens_are_scored_alone(bench: Bench) -> None:
    turn = await converse(bench.backend, prompt(user("hello"), top_logprobs=0))
    assert len(turn.scores) == 12
    assert not any(score.top_logprobs for score in turn.scores)


async def test_a_conversation_that_does_not_fit_is_refused(bench: Bench) -> None:
    with pytest.raises(ModelError) as caught:
        await converse(bench.backend, prompt(user("x" * CONTEXT)))
    assert caught.value.code == "context_length_exceeded"


async def test_an_answer_has_the_room_that_is_left(bench: Bench) -> None:
    await anext(bench.backend.generate(prompt(user("hello"), max_output_tokens=10**6)))
    params = bench.servicer.requests[-1].sampling_params
    most = params.max_tokens if hasattr(params, "max_tokens") else params.max_new_tokens
    assert most == CONTEXT - len(bench.servicer.llama.prompts[-1])


async def test_closing_stops_the_engine_by_a_call(bench: Bench) -> None:
    settings: dict[str, Any] = {"max_output_tokens": 3500, "extra": '{"ignore_eos": true}'}
    batches = bench.backend.generate(prompt(user("go on"), **settings))
    await anext(batches)
    await batches.aclose()
    assert bench.servicer.aborted == [bench.servicer.requests[-1].request_id]
    await at_rest(bench)
    assert (await converse(bench.backend, prompt(user("and again")))).text


async def test_a_cancelled_task_stops_the_engine_by_a_call(bench: Bench) -> None:
    begun = asyncio.Event()

    async def go_on() -> None:
        settings: dict[str, Any] = {"max_output_tokens": 3500, "extra": '{"ignore_eos": true}'}
        async for _ in bench.backend.generate(prompt(user("go on"), **settings)):
            begun.set()

    task = asyncio.create_task(go_on())
    async with asyncio.timeout(10):
        await begun.wait()
    task.cancel()
    await asyncio.wait([task])
    async with asyncio.timeout(10):
        while bench.servicer.aborted != [bench.servicer.requests[-1].request_id]:
            await asyncio.sleep(0)


async def at_rest(bench: Bench) -> None:
    async with asyncio.timeout(10):
        while await bench.servicer.llama.processing():
            pass


async def test_a_warm_up_leaves_only_the_answer_to_compute(bench: Bench) -> None:
    warm = prompt(user("warm " * 30), instructions="Be brief.")
    rendered = await bench.backend.prepare(warm)
    segment = Segment(None, list(warm.input), rendered)
    turn = await converse(bench.backend, prompt(history=[segment], instructions="Be brief."))
    assert turn.finished.cached_tokens >= rendered[bench.backend.dialect].tokens


@pytest.mark.parametrize("messages", range(4))
async def test_a_plug_that_is_pulled_fails_the_turn_and_nothing_else(
    bench: Bench, messages: int
) -> None:
    bench.servicer.faults.stalls_after = messages
    batches = bench.backend.generate(prompt(user("hello")))
    with pytest.raises(Unavailable) as caught:
        async with asyncio.timeout(10):
            await pulled_at(bench, batches, messages)
    assert caught.value.code == "server_error"
    bench.servicer.faults.stalls_after = None
    assert (await converse(bench.backend, prompt(user("hello")))).finished.output_tokens == 12


async def pulled_at(bench: Bench, batches: Any, messages: int) -> None:
    """Read so many messages, then pull the plug while the next one is waited for."""
    for _ in range(messages):
        await anext(batches)
    waiting = asyncio.ensure_future(anext(batches))
    while not bench.servicer.llama.prompts:
        await asyncio.sleep(0)
    bench.plug.pull()
    await waiting


@pytest.mark.parametrize("messages", [0, 2])
async def test_an_engine_that_stalls_is_given_up_and_told_so(bench: Bench, messages: int) -> None:
    bench.servicer.faults.stalls_after = messages
    engine = Rpc(
        f"grpc://127.0.0.1:{bench.plug.port}",
        WIRES[bench.backend.kind][1](),
        deadlines=Deadlines(answer=0.3, read=0.3),
    )
    backend = TokenEngine(engine, formats, Proof(0, bench.outcomes.append))
    await backend.start()
    with pytest.raises(ModelError, match="in time") as caught:
        await converse(backend, prompt(user("hello")))
    assert not isinstance(caught.value, Unavailable)
    assert bench.servicer.aborted == [bench.servicer.requests[-1].request_id]
    await backend.stop()


async def test_an_engine_that_gives_up_is_no_answer(bench: Bench) -> None:
    bench.servicer.faults.aborts_after = 3
    with pytest.raises(Unavailable, match="gave the answer up"):
        await converse(bench.backend, prompt(user("hello")))


@pytest.mark.parametrize(
    ("status", "kind", "code"),
    [
        (grpc.StatusCode.UNAVAILABLE, Unavailable, "server_error"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, Unavailable, "rate_limit_exceeded"),
        (grpc.StatusCode.INVALID_ARGUMENT, ModelError, "invalid_prompt"),
        (grpc.StatusCode.FAILED_PRECONDITION, ModelError, "invalid_prompt"),
        (grpc.StatusCode.INTERNAL, ModelError, "server_error"),
        (grpc.StatusCode.NOT_FOUND, ModelError, "model_not_found"),
    ],
)
async def test_a_status_is_told_in_our_words(
    bench: Bench, status: grpc.StatusCode, kind: type[ModelError], code: str
) -> None:
    bench.servicer.faults.refuses = status
    with pytest.raises(ModelError) as caught:
        await converse(bench.backend, prompt(user("hello")))
    assert type(caught.value) is kind
    assert caught.value.code == code
    assert "secret" not in caught.value.message
    assert bench.servicer.aborted == []


async def test_an_engine_that_is_not_well_says_so(bench: Bench) -> None:
    bench.servicer.faults.sick = True
    with pytest.raises(Unavailable):
        await bench.backend.check()


async def test_an_engine_that_is_not_there_is_said_at_the_start() -> None:
    backend = TokenEngine(Rpc("grpc://127.0.0.1:9", Vllm()), formats, Proof.never())
    with pytest.raises(Unavailable, match="cannot be reached"):
        await backend.start()
    await backend.stop()


async def test_a_model_without_calls_cannot_be_held_to_one(bench: Bench) -> None:
    def without_calls(files: Files, model: str) -> Format:
        found = formats(files, model)
        return found._replace(syntax=dataclasses.replace(found.syntax, calls=None))

    other = TokenEngine(bench.engine, without_calls, Proof.never())
    await other.start()
    with pytest.raises(ModelError, match="cannot be held to") as caught:
        await converse(other, prompt(user("?"), tools=[WEATHER], **REQUIRED))
    assert caught.value.code == "invalid_prompt"
