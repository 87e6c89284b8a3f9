"""Engines for tests: the gRPC of vLLM and SGLang and vLLM's HTTP, in front of the tiny llama.cpp.

What they say is what their real servicers say, read in source: ids as they are sampled, a last message
that repeats the last of them, counts that are the delta's in vLLM and the sum in SGLang.
"""

import asyncio
import hashlib
import io
import json
import zipfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import grpc
import httpx
import uvicorn
from smg_grpc_proto.generated import (  # type: ignore[import-untyped]
    common_pb2,
    sglang_scheduler_pb2,
    sglang_scheduler_pb2_grpc,
    vllm_engine_pb2,
    vllm_engine_pb2_grpc,
)
from starlette.applications import Starlette
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

from tests.models import IM_END
from tests.stand_ins.tiny_tokenizer import END_OF_TEXT, tiny_files

CONTEXT = 4096
ENDS = {IM_END, END_OF_TEXT}
MODEL = "tiny"


class Piece(NamedTuple):
    """What one step of the engine yields."""

    ids: list[int]
    cached: int
    scores: list[dict[str, Any]]
    reason: str | None = None


@dataclass
class Llama:
    """The model: a llama.cpp server, of which every completion is remembered."""

    url: str
    key: str
    prompts: list[list[int]] = field(default_factory=list)
    options: list[Mapping[str, Any]] = field(default_factory=list)

    async def complete(
        self, ids: Sequence[int], options: Mapping[str, Any]
    ) -> AsyncIterator[Piece]:
        """Sample as an engine does: the end of turn is a token like any other."""
        self.prompts.append(list(ids))
        self.options.append(options)
        body = {"temperature": 0, **options, "prompt": list(ids), "stream": True}
        body |= {"return_tokens": True, "cache_prompt": True, "id_slot": 0}
        async with (
            self._client() as client,
            client.stream("POST", "/completion", json=body) as answer,
        ):
            async for event in _events(answer):
                yield _piece(event)

    async def processing(self) -> int:
        """Return how many slots are busy."""
        async with self._client() as client:
            slots = (await client.get("/slots")).json()
        return sum(slot["is_processing"] for slot in slots)

    def _client(self) -> httpx.AsyncClient:
        headers = {"Authorization": f"Bearer {self.key}"}
        return httpx.AsyncClient(base_url=self.url, headers=headers, timeout=30)


async def _events(answer: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    answer.raise_for_status()
    async for line in answer.aiter_lines():
        if line.startswith("data:"):
            yield json.loads(line[5:])


def _piece(event: dict[str, Any]) -> Piece:
    """llama.cpp tells the end of turn with the last event, and what was cached there, too."""
    scores = event.get("completion_probabilities", [])
    if not event["stop"]:
        ids = [token for token in event["tokens"] if token not in ENDS]
        return Piece(ids, 0, scores if ids else [])
    ended = event["stop_type"] == "eos"
    cached = event["timings"]["cache_n"]
    return Piece([IM_END] if ended else [], cached, [], "stop" if ended else "length")


@dataclass
class Faults:
    """What goes wrong, counted in messages of an answer."""

    stalls_after: int | None = None
    aborts_after: int | None = None
    refuses: grpc.StatusCode | None = None
    refuses_http: int | None = None
    sick: bool = False


@dataclass
class _Engine:
    """What the servicers share."""

    pb: ClassVar[Any]
    """The messages of the protocol."""

    llama: Llama
    faults: Faults = field(default_factory=Faults)
    requests: list[Any] = field(default_factory=list)
    aborted: list[str] = field(default_factory=list)
    says: str | None = None
    """What the model is made to say, whatever it is asked."""

    async def steps(
        self, ids: Sequence[int], options: Mapping[str, Any], context: Any
    ) -> AsyncIterator[Piece]:
        """Yield what the model samples, as far as nothing goes wrong."""
        if self.faults.refuses is not None:
            await context.abort(self.faults.refuses, "secret words of the prompt")
        if self.says is not None:
            options = {**options, "grammar": f"%llguidance {{}}\nstart: {json.dumps(self.says)}"}
        told = 0
        async for sampled in self.llama.complete(ids, options):
            if told == self.faults.stalls_after:
                await asyncio.Event().wait()
            piece = Piece([], 0, [], "abort") if told == self.faults.aborts_after else sampled
            yield piece
            if piece.reason:
                return
            told += 1

    async def GetModelInfo(self, request: Any, context: Any) -> Any:  # noqa: N802
        return self.pb.GetModelInfoResponse(
            served_model_name=MODEL,
            max_context_length=CONTEXT,
            eos_token_ids=[IM_END],
            default_sampling_params_json='{"temperature": 0}',
        )

    async def HealthCheck(self, request: Any, context: Any) -> Any:  # noqa: N802
        return self.pb.HealthCheckResponse(healthy=not self.faults.sick)

    async def GetTokenizer(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        """Yield the archive in pieces, its digest with the last."""
        archive = zipped(tiny_files())
        digest = hashlib.sha256(archive).hexdigest()
        size = len(archive) // 3 + 1
        for start in range(0, len(archive), size):
            last = start + size >= len(archive)
            data = archive[start : start + size]
            yield common_pb2.GetTokenizerChunk(data=data, sha256=digest if last else "")


def zipped(files: Mapping[str, bytes]) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, data in files.items():
            packed.writestr(name, data)
    return archive.getvalue()


class VllmStandIn(_Engine, vllm_engine_pb2_grpc.VllmEngineServicer):  # type: ignore[misc]
    """vLLM's servicer."""

    pb = vllm_engine_pb2

    async def Generate(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        self.requests.append(request)
        params = request.sampling_params
        options = {
            "n_predict": params.max_tokens,
            "ignore_eos": params.ignore_eos,
            **({"temperature": params.temperature} if params.HasField("temperature") else {}),
            **({"n_probs": max(1, params.logprobs)} if params.HasField("logprobs") else {}),
            **constraint(params),
        }
        async for piece in self.steps(request.tokenized.input_ids, options, context):
            scores = _output_logprobs(self.pb, piece.scores, params.logprobs)
            counts = {
                "prompt_tokens": len(request.tokenized.input_ids),
                "cached_tokens": piece.cached,
            }
            chunk = self.pb.GenerateStreamChunk(
                token_ids=piece.ids,
                output_logprobs=scores,
                completion_tokens=len(piece.ids),
                **counts,
            )
            if piece.ids or not piece.reason:
                yield self.pb.GenerateResponse(chunk=chunk)
            if piece.reason:
                complete = self.pb.GenerateComplete(
                    output_ids=piece.ids, finish_reason=piece.reason, **counts
                )
                yield self.pb.GenerateResponse(complete=complete)

    async def Abort(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.aborted += request.request_ids
        return self.pb.AbortResponse()


class SglangStandIn(_Engine, sglang_scheduler_pb2_grpc.SglangSchedulerServicer):  # type: ignore[misc]
    """SGLang's servicer."""

    pb = sglang_scheduler_pb2

    async def Generate(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        self.requests.append(request)
        params = request.sampling_params
        scored = {"n_probs": max(1, request.top_logprobs_num)} if request.return_logprob else {}
        options = {
            "n_predict": params.max_new_tokens,
            "ignore_eos": params.ignore_eos,
            "temperature": params.temperature,
            **scored,
            **constraint(params),
        }
        sampled: list[int] = []
        async for piece in self.steps(request.tokenized.input_ids, options, context):
            sampled += piece.ids
            counts = {
                "prompt_tokens": len(request.tokenized.input_ids),
                "cached_tokens": piece.cached,
                "completion_tokens": len(sampled),
            }
            scores = _output_logprobs(self.pb, piece.scores, request.top_logprobs_num)
            chunk = self.pb.GenerateStreamChunk(
                token_ids=piece.ids, output_logprobs=scores, **counts
            )
            yield self.pb.GenerateResponse(request_id=request.request_id, chunk=chunk)
            if piece.reason:
                complete = self.pb.GenerateComplete(
                    output_ids=piece.ids, finish_reason=piece.reason, **counts
                )
                yield self.pb.GenerateResponse(request_id=request.request_id, complete=complete)

    async def Abort(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.aborted.append(request.request_id)
        return self.pb.AbortResponse(success=True)


def _output_logprobs(pb: Any, scores: Sequence[Mapping[str, Any]], most: int) -> Any:
    if not scores:
        return None
    tops = [score["top_logprobs"][:most] for score in scores]
    return pb.OutputLogProbs(
        token_logprobs=[score["logprob"] for score in scores],
        token_ids=[score["id"] for score in scores],
        top_logprobs=[
            pb.TopLogProbs(
                values=[likely["logprob"] for likely in top],
                token_ids=[likely["id"] for likely in top],
            )
            for top in tops
            if top
        ],
    )


def constraint(params: Any) -> dict[str, Any]:
    """Return llama.cpp's options for what a request binds its answer to."""
    match params.WhichOneof("constraint"):
        case "json_schema":
            return {"grammar": _json_grammar(params.json_schema)}
        case "structural_tag":
            return {"grammar": tag_grammar(params.structural_tag)}
        case _:
            return {}


def _json_grammar(schema: str) -> str:
    return f"%llguidance {{}}\nstart: %json {schema}"


def tag_grammar(text: str) -> str:
    """Return a structural tag as a grammar that llama.cpp knows."""
    form = json.loads(text)["format"]
    tags = form["elements"] if form["type"] == "or" else [form]
    ways, rules = [], []
    for number, tag in enumerate(tags):
        begin, end = json.dumps(tag["begin"]), json.dumps(tag["end"])
        ways.append(f"{begin} content{number} {end}")
        rules.append(f"content{number}: %json {json.dumps(tag['content']['json_schema'])}")
    return "\n".join(["%llguidance {}", f"start: {' | '.join(ways)}", *rules])


@asynccontextmanager
async def serving(servicer: VllmStandIn | SglangStandIn) -> AsyncIterator[int]:
    """Serve on a port of loopback."""
    server = grpc.aio.server()
    if isinstance(servicer, VllmStandIn):
        vllm_engine_pb2_grpc.add_VllmEngineServicer_to_server(servicer, server)
    else:
        sglang_scheduler_pb2_grpc.add_SglangSchedulerServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield port
    finally:
        await server.stop(None)


class Plug:
    """A cable to a server, which can be pulled."""

    def __init__(self, port: int) -> None:
        self._behind = port
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server

    @property
    def port(self) -> int:
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def pull(self) -> None:
        """Break every connection off."""
        for writer in self._writers:
            writer.transport.abort()

    @asynccontextmanager
    async def plugged(self) -> AsyncIterator["Plug"]:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        try:
            yield self
        finally:
            self.pull()
            self._server.close()
            await self._server.wait_closed()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind, on = await asyncio.open_connection("127.0.0.1", self._behind)
        self._writers |= {writer, on}
        await asyncio.gather(_pumped(reader, on), _pumped(behind, writer))


async def _pumped(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    writer.close()


class VllmHttpStandIn(_Engine):
    """vLLM's HTTP: models, health, completions, and its own route for ids where that is `open`."""

    def __init__(self, llama: Llama, paths: Sequence[str]) -> None:
        super().__init__(llama)
        self.paths = paths
        self.asked: list[dict[str, Any]] = []
        """Bodies of requests to generate."""
        routes = [Route(path, self._generate, methods=["POST"]) for path in paths]
        routes.append(Route("/v1/models", self._models))
        routes.append(Route("/health", self._health))
        self.app = Starlette(routes=routes)

    async def _models(self, request: HttpRequest) -> JSONResponse:
        return JSONResponse({"data": [{"id": MODEL, "max_model_len": CONTEXT}]})

    async def _health(self, request: HttpRequest) -> JSONResponse:
        return JSONResponse({}, 503 if self.faults.sick else 200)

    async def _generate(self, request: HttpRequest) -> JSONResponse | StreamingResponse:
        body = await request.json()
        if not body:  # somebody asks what there is
            return JSONResponse({"error": {"message": "secret"}}, 400)
        self.asked.append(body)
        if self.faults.refuses_http:
            return JSONResponse({"error": {"message": "secret"}}, self.faults.refuses_http)
        return StreamingResponse(self._chunks(body), media_type="text/event-stream")

    async def _chunks(self, body: dict[str, Any]) -> AsyncIterator[str]:
        params = body.get("sampling_params", body)
        ids = body["token_ids"] if "token_ids" in body else body["prompt"]
        options = {
            "n_predict": params["max_tokens"],
            "temperature": params.get("temperature", 0),
            "ignore_eos": params.get("ignore_eos", False),
            **_structured(params.get("structured_outputs", {})),
        }
        if "logprobs" in params:
            options["n_probs"] = max(1, params["logprobs"])
        cached = sampled = 0
        try:
            async for piece in self.steps(ids, options, None):
                cached, sampled = max(cached, piece.cached), sampled + len(piece.ids)
                scores = _json_scores(piece.scores, params.get("logprobs", 0), "token_ids" in body)
                choice = {"index": 0, "token_ids": piece.ids, "finish_reason": piece.reason}
                yield _data({"choices": [{**choice, "logprobs": scores}]})
        except asyncio.CancelledError:
            self.aborted.append("disconnect")
            raise
        details = {"cached_tokens": cached}
        usage = {"prompt_tokens": len(ids), "completion_tokens": sampled}
        yield _data({"choices": [], "usage": {**usage, "prompt_tokens_details": details}})
        yield "data: [DONE]\n\n"


def _data(told: Mapping[str, Any]) -> str:
    return f"data: {json.dumps(told)}\n\n"


def _structured(params: Mapping[str, str]) -> dict[str, Any]:
    if "json" in params:
        return {"grammar": _json_grammar(params["json"])}
    if "structural_tag" in params:
        return {"grammar": tag_grammar(params["structural_tag"])}
    return {}


def _json_scores(scores: Sequence[Mapping[str, Any]], most: int, own_route: bool) -> Any:
    """Return scores as either route has them."""
    if not scores:
        return None
    tops = [score["top_logprobs"][:most] for score in scores]
    if not own_route:
        named = [{f"token_id:{top['id']}": top["logprob"] for top in place} for place in tops]
        return {"token_logprobs": [score["logprob"] for score in scores], "top_logprobs": named}
    return {
        "content": [
            {
                "token_id": score["id"],
                "logprob": score["logprob"],
                "top_logprobs": [{"token_id": t["id"], "logprob": t["logprob"]} for t in top],
            }
            for score, top in zip(scores, tops, strict=True)
        ]
    }


@asynccontextmanager
async def serving_http(app: Starlette) -> AsyncIterator[int]:
    """Serve on a port of loopback."""
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="critical", lifespan="off")
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    async with asyncio.timeout(10):
        while not server.started:
            await asyncio.sleep(0)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = server.force_exit = True
        await task
