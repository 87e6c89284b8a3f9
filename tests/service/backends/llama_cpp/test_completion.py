"""What no llama.cpp server should send."""

import asyncio
import json

import pytest

from service.backends.http import Deadlines
from service.backends.llama_cpp.completion import Sampled, Stopped
from service.backends.llama_cpp.server import LlamaServer
from service.errors import ModelError
from tests.service.backends.test_http import asked, model_server

MORE = {"stop": False, "content": "a", "tokens": [97], "tokens_predicted": 1}
END = {
    "stop": True,
    "stop_type": "eos",
    "stopping_word": "",
    "tokens_evaluated": 2,
    "tokens_predicted": 1,
    "timings": {"cache_n": -1},
}


def event(told: object) -> bytes:
    return b"data: " + json.dumps(told).encode() + b"\n\n"


async def read(*sent: bytes) -> list[Sampled | Stopped]:
    """Return what comes of a stream that is sent piece by piece."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asked(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % sum(map(len, sent)))
        for piece in sent:
            writer.write(piece)
            await writer.drain()
        await reader.read()

    found: list[Sampled | Stopped] = []
    async with (
        model_server(script) as client,
        LlamaServer(client, Deadlines()).complete([], {}) as completion,
    ):
        while events := await completion.read():
            found += events
    return found


async def test_events_are_told_as_they_come_and_no_count_is_below_zero() -> None:
    assert await read(event(MORE), event(END)[:9], event(END)[9:]) == [
        Sampled("a", [97]),
        Stopped(
            by_length=False,
            silent_pieces=1,
            word="",
            input_tokens=2,
            cached_tokens=0,
            output_tokens=1,
        ),
    ]


async def test_an_event_without_an_end_is_not_read_for_ever() -> None:
    with pytest.raises(ModelError, match="too large"):
        await read(*[b"x" * 1024 * 1024] * 17)


@pytest.mark.parametrize(
    "told",
    [
        {**MORE, "tokens": ["97"]},
        {**MORE, "content": 5},
        {**MORE, "tokens_predicted": "1"},
        {**END, "timings": None},
        {**END, "tokens_predicted": []},
        {"error": {"message": "secret"}},
    ],
)
async def test_what_is_of_another_type_is_an_error(told: object) -> None:
    with pytest.raises(ModelError) as raised:
        await read(event(told))
    assert "secret" not in raised.value.message
