"""How much a vLLM has to do at this moment, by its own account."""

import grpc
import httpx
from smg_grpc_proto.generated import (  # type: ignore[import-untyped]
    vllm_engine_pb2,
    vllm_engine_pb2_grpc,
)


async def running(face: str, port: int) -> int:
    """Return how many requests it works on."""
    return await (_by_metrics(port) if face == "http" else _by_rpc(port))


async def _by_metrics(port: int) -> int:
    async with httpx.AsyncClient() as client:
        answer = await client.get(f"http://127.0.0.1:{port}/metrics")
    (line,) = (line for line in answer.text.splitlines() if line.startswith(_RUNNING))
    return int(float(line.split()[-1]))


async def _by_rpc(port: int) -> int:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = vllm_engine_pb2_grpc.VllmEngineStub(channel)
        loads = await stub.GetLoads(vllm_engine_pb2.GetLoadsRequest(), timeout=10)
    return sum(load.num_running_reqs for load in loads.loads)


_RUNNING = "vllm:num_requests_running{"
