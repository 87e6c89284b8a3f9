import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from service.backends.engines.backend import TokenEngine
from service.backends.engines.routes import Completions, Generate
from service.backends.engines.vllm_http import VllmHttp
from service.backends.hints import salt
from service.backends.http import Deadlines
from service.errors import ModelError, Unavailable
from service.rendering.proof import Proof
from tests.llama_servers import KEY
from tests.service.backends.engines.conftest import formats
from tests.service.backends.llama_cpp.conversing import (
    call_output,
    converse,
    function,
    prompt,
    user,
)
from tests.stand_ins.engine_server import CONTEXT, MODEL, Llama, Plug, VllmHttpStandIn, serving_http
from tests.stand_ins.tiny_tokenizer import tiny_files

WEATHER = function("get_weather", city={"enum": ["Oslo", "Lima"]})
REQUIRED: dict[str, Any] = {"tool_choice_mode": "required", "max_output_tokens": 90}
PATHS = {"generate": [Generate.path, Completions.path], "completions": [Completions.path]}


@dataclass
class Bench:
    backend: TokenEngine
    server: VllmHttpStandIn
    plug: Plug
    hasty: TokenEngine
    """The same, with deadlines that are soon over."""


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    for name, data in tiny_files().items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    return tmp_path


@pytest.fixture(params=PATHS)
async def bench(
    request: pytest.FixtureRequest, llama_url: str, tokenizer: Path
) -> AsyncIterator[Bench]:
    server = VllmHttpStandIn(Llama(llama_url, KEY), PATHS[request.param])
    async with AsyncExitStack() as stack:
        port = await stack.enter_async_context(serving_http(server.app))
        plug = await stack.enter_async_context(Plug(port).plugged())
        backends = [
            TokenEngine(
                VllmHttp(f"http://127.0.0.1:{plug.port}", tokenizer, deadlines=deadlines),
                formats,
                Proof(1, lambda _: None),
            )
            for deadlines in (Deadlines(), Deadlines(answer=0.3, read=0.3))
        ]
        for backend in backends:
            await backend.start()
            stack.push_async_callback(backend.stop)
        yield Bench(backends[0], server, plug, backends[1])


async def test_the_route_that_is_open_is_the_one_that_is_asked(bench: Bench) -> None:
    assert bench.backend.models == [MODEL]
    await bench.backend.check()
    turn = await converse(bench.backend, prompt(user("hello")))
    assert turn.finished.reason == "length"
    assert turn.finished.output_tokens == 12
    (asked,) = bench.server.asked
    assert ("token_ids" in asked) == (Generate.path in bench.server.paths)


async def test_a_turn_reuses_the_ids_of_the_turns_before_it(bench: Bench) -> None:
    first = await converse(bench.backend, prompt(user("first " * 30)))
    second = await converse(bench.backend, prompt(user("second"), history=[first.segment]))
    kept = first.segment.rendered[bench.backend.dialect]
    told = bench.server.llama.prompts[-1]
    assert told[: kept.tokens] == [int(token) for token in kept.data.split(b",")]
    assert second.finished.cached_tokens >= first.finished.input_tokens


async def test_tenants_are_kept_apart_by_a_salt_and_not_named(bench: Bench) -> None:
    for tenant in ("ann", "bob", "ann"):
        await converse(bench.backend, prompt(user("hello"), tenant=tenant))
    salts = [asked["cache_salt"] for asked in bench.server.asked]
    assert salts == [salt("ann"), salt("bob"), salt("ann")]
    assert salt("ann") != salt("bob")
    assert "ann" not in json.dumps(bench.server.asked)


async def test_an_agent_calls_a_tool_and_answers_with_what_it_said(bench: Bench) -> None:
    first = await converse(bench.backend, prompt(user("?"), tools=[WEATHER], **REQUIRED))
    assert first.called == ["get_weather"]
    assert json.loads(first.arguments)["city"] in {"Oslo", "Lima"}
    second = await converse(
        bench.backend, prompt(call_output("Sunny."), history=[first.segment], tools=[WEATHER])
    )
    assert second.text


async def test_text_comes_with_how_likely_its_tokens_were(bench: Bench) -> None:
    turn = await converse(bench.backend, prompt(user("hello"), top_logprobs=2))
    assert b"".join(bytes(score.bytes) for score in turn.scores).decode() == turn.text
    assert all(len(score.top_logprobs) == 2 for score in turn.scores)


async def test_parameters_go_where_the_route_has_them(bench: Bench) -> None:
    extra = json.dumps({"min_p": 0.25, "seed": 7, "unheard_of": 1})
    await converse(bench.backend, prompt(user("hello"), extra=extra, temperature=0.5))
    (asked,) = bench.server.asked
    params = asked.get("sampling_params", asked)
    assert (params["min_p"], params["seed"], params["temperature"]) == (0.25, 7, 0.5)
    assert "top_p" not in params
    assert "unheard_of" not in json.dumps(asked)


async def test_closing_closes_the_socket(bench: Bench) -> None:
    batches = bench.backend.generate(
        prompt(user("go on"), max_output_tokens=3000, extra='{"ignore_eos": true}')
    )
    await anext(batches)
    await batches.aclose()
    assert (await converse(bench.backend, prompt(user("hello")))).text
    assert bench.server.aborted == ["disconnect"]


@pytest.mark.parametrize("messages", [0, 2])
async def test_an_engine_that_stalls_is_given_up(bench: Bench, messages: int) -> None:
    bench.server.faults.stalls_after = messages
    with pytest.raises(ModelError, match="in time"):
        await converse(bench.hasty, prompt(user("hello")))


@pytest.mark.parametrize("messages", [1, 3])
async def test_a_plug_that_is_pulled_fails_the_turn_and_nothing_else(
    bench: Bench, messages: int
) -> None:
    bench.server.faults.stalls_after = messages
    batches = bench.backend.generate(prompt(user("hello")))
    await anext(batches)
    bench.plug.pull()
    with pytest.raises(Unavailable):
        await exhausted(batches)
    bench.server.faults.stalls_after = None
    assert (await converse(bench.backend, prompt(user("hello")))).text


async def exhausted(batches: AsyncIterator[object]) -> None:
    async for _ in batches:
        pass


@pytest.mark.parametrize(
    ("status", "kind", "code"),
    [
        (400, ModelError, "invalid_prompt"),
        (401, ModelError, "server_error"),
        (404, ModelError, "model_not_found"),
        (429, Unavailable, "rate_limit_exceeded"),
        (500, ModelError, "server_error"),
        (503, Unavailable, "server_error"),
    ],
)
async def test_a_status_is_told_in_our_words(
    bench: Bench, status: int, kind: type[ModelError], code: str
) -> None:
    bench.server.faults.refuses_http = status
    with pytest.raises(ModelError) as caught:
        await converse(bench.backend, prompt(user("hello")))
    assert (type(caught.value), caught.value.code) == (kind, code)
    assert "secret" not in caught.value.message


async def test_an_engine_that_is_not_well_says_so(bench: Bench) -> None:
    bench.server.faults.sick = True
    with pytest.raises(Unavailable):
        await bench.backend.check()


async def test_a_conversation_that_does_not_fit_is_refused(bench: Bench) -> None:
    with pytest.raises(ModelError) as caught:
        await converse(bench.backend, prompt(user("x" * CONTEXT)))
    assert caught.value.code == "context_length_exceeded"


@pytest.mark.parametrize(
    ("spelled", "status"), [("other words", 200), ("", 400), (None, 200), (5, 200)]
)
async def test_a_tokenizer_of_another_model_is_said_at_the_start(
    llama_url: str, tokenizer: Path, spelled: Any, status: int
) -> None:
    server = VllmHttpStandIn(Llama(llama_url, KEY), PATHS["generate"])
    server.app.routes.append(spelling(lambda _: spelled, status))
    with pytest.raises(ModelError, match="directory"):
        await started(server, tokenizer)


async def test_a_tokenizer_of_the_right_model_is_taken(llama_url: str, tokenizer: Path) -> None:
    server = VllmHttpStandIn(Llama(llama_url, KEY), PATHS["generate"])
    server.app.routes.append(spelling(lambda ids: bytes(ids).decode(), 200))
    await started(server, tokenizer)


def spelling(spell: Callable[[list[int]], Any], status: int) -> Route:
    """A route that tells what ids spell."""

    async def detokenize(request: Request) -> JSONResponse:
        asked = await request.json()
        assert asked["model"] == MODEL
        return JSONResponse({"prompt": spell(asked["tokens"])}, status)

    return Route("/detokenize", detokenize, methods=["POST"])


async def started(server: VllmHttpStandIn, tokenizer: Path) -> None:
    async with serving_http(server.app) as port:
        engine = VllmHttp(f"http://127.0.0.1:{port}", tokenizer)
        backend = TokenEngine(engine, formats, Proof.never())
        try:
            await backend.start()
        finally:
            await backend.stop()


@pytest.mark.parametrize("ids", [["1],2"], [-1], "12", {"a": 1}])
async def test_ids_that_are_none_fail_the_turn(llama_url: str, tokenizer: Path, ids: Any) -> None:
    async def generate(request: Request) -> Response:
        if not await request.json():
            return JSONResponse({}, 400)
        choice = {"index": 0, "finish_reason": None, "token_ids": ids}
        return Response(f"data: {json.dumps({'choices': [choice]})}\n\n")

    server = VllmHttpStandIn(Llama(llama_url, KEY), [])
    server.app.routes.append(Route(Generate.path, generate, methods=["POST"]))
    async with serving_http(server.app) as port:
        engine = VllmHttp(f"http://127.0.0.1:{port}", tokenizer)
        backend = TokenEngine(engine, formats, Proof.never())
        await backend.start()
        with pytest.raises(ModelError) as caught:
            await converse(backend, prompt(user("hello")))
        await backend.stop()
    assert (type(caught.value), caught.value.code) == (ModelError, "server_error")
