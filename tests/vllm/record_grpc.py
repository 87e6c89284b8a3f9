"""Record what vLLM's gRPC server answers, its messages as JSON, beside what `record` writes."""

import argparse
import io
import json
import zipfile
from collections.abc import Iterator
from typing import Any, TypeAlias

import grpc
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from smg_grpc_proto.generated import (  # type: ignore[import-untyped]
    common_pb2,
    vllm_engine_pb2,
    vllm_engine_pb2_grpc,
)

from tests.vllm import asked
from tests.vllm.record import Scrubber, write

Json: TypeAlias = Any

_IDS = [1, 4093, 198, 36218, 33662, 30, 2, 198, 1, 520, 9531, 198]  # those of `asked.MESSAGES`
_SAMPLING = {"temperature": 0.0, "top_p": 1.0, "repetition_penalty": 1.0, "max_tokens": 4}


def main() -> None:
    """Ask everything and write it down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address", help="host:port")
    with grpc.insecure_channel(parser.parse_args().address) as channel:
        stub = vllm_engine_pb2_grpc.VllmEngineStub(channel)
        model = stub.GetModelInfo(vllm_engine_pb2.GetModelInfoRequest())
        scrubber = Scrubber(model.model_path)
        write("grpc_model_info", {"answer": _scrubbed(scrubber, model)})
        server = stub.GetServerInfo(vllm_engine_pb2.GetServerInfoRequest())
        write("grpc_server_info", {"answer": _scrubbed(scrubber, _lasting(server))})
        write("grpc_tokenizer", {"files": _tokenizer_files(stub)})
        for name, request in _generations():
            write(f"grpc_generate{name}", _generated(stub, request))


def _lasting(
    server: vllm_engine_pb2.GetServerInfoResponse,
) -> vllm_engine_pb2.GetServerInfoResponse:
    """Drop what says when and where."""
    for name in ("last_receive_timestamp", "uptime_seconds", "shm_namespace_id"):
        server.ClearField(name)
    return server


def _scrubbed(scrubber: Scrubber, message: Message) -> Json:
    return json.loads(scrubber.scrub(json.dumps(_as_json(message))))


def _as_json(message: Message) -> Json:
    return MessageToDict(message, preserving_proto_field_name=True)


def _tokenizer_files(stub: vllm_engine_pb2_grpc.VllmEngineStub) -> list[str]:
    chunks = stub.GetTokenizer(common_pb2.GetTokenizerRequest())
    bundle = b"".join(chunk.data for chunk in chunks)
    return sorted(zipfile.ZipFile(io.BytesIO(bundle)).namelist())


def _generations() -> Iterator[tuple[str, vllm_engine_pb2.GenerateRequest]]:
    schema: dict[str, Json] = {"json_schema": json.dumps(asked.SCHEMA), "max_tokens": 60}
    yield "", _request(_IDS)
    yield "_whole", _request(_IDS, stream=False)
    yield "_logprobs", _request(_IDS, logprobs=1, max_tokens=2)
    yield "_schema", _request(_IDS, **schema)
    yield "_stop_token", _request(_IDS, stop_token_ids=[588])
    yield "_stop_string", _request(_IDS, stop=["glad"], max_tokens=40)
    yield "_not_cached", _request(_IDS * 20)
    yield "_cached", _request(_IDS * 20)
    yield "_error_context_length", _request(_IDS * 800)
    yield "_error_parameter", _request(_IDS, temperature=-1.0)
    yield "_error_ids", _request([999999])


def _request(
    ids: list[int], *, stream: bool = True, **sampling: Json
) -> vllm_engine_pb2.GenerateRequest:
    return vllm_engine_pb2.GenerateRequest(
        request_id="request-1",
        tokenized={"original_text": "", "input_ids": ids},
        sampling_params=vllm_engine_pb2.SamplingParams(**(_SAMPLING | sampling)),
        stream=stream,
    )


def _generated(
    stub: vllm_engine_pb2_grpc.VllmEngineStub, request: vllm_engine_pb2.GenerateRequest
) -> dict[str, Json]:
    answers: list[Json] = []
    try:
        answers.extend(_as_json(answer) for answer in stub.Generate(request, timeout=120))
    except grpc.RpcError as error:
        answers.append({"status": error.code().name, "details": error.details()})
    asked_for = _as_json(request)
    del asked_for["tokenized"]["input_ids"][len(_IDS) :]
    return {"request": asked_for, "tokens": len(request.tokenized.input_ids), "answers": answers}


if __name__ == "__main__":
    main()
