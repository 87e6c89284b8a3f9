"""What a client says over HTTP."""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx

from tests.canaries.talking import LIMIT, STALLED, WAIT, Speaker, in_time, is_last


async def speak(speaker: Speaker) -> None:
    """Say everything."""
    async with _client(speaker) as client:
        talk = Talk(speaker, client)
        await speaker.have_turns(talk.ask)
        await speaker.have_turns(talk.ask_whole)
        await speaker.be_refused(talk.ask_whole)
        await talk.resources()
        await talk.bodies()
    await _not_let_in(speaker)
    await _raw(speaker)


async def direct(speaker: Speaker) -> None:
    """Leave a turn: the model goes on for as long as it is told to."""
    async with _client(speaker) as client:
        await Talk(speaker, client).vanish()


@asynccontextmanager
async def stalled(speaker: Speaker) -> AsyncIterator[None]:
    """Have a turn that does not end, for as long as the context lasts."""
    async with _client(speaker) as client:
        body = {**speaker.speech.create(STALLED, tools=[]), "stream": True}
        async with client.stream("POST", "/responses", json=body) as answer:
            lines = answer.aiter_lines()
            await anext(lines)
            yield
            with suppress(httpx.TransportError):
                async for _ in lines:
                    pass


class Talk:
    """Requests of one client."""

    def __init__(self, speaker: Speaker, client: httpx.AsyncClient) -> None:
        self._speaker = speaker
        self._client = client

    async def ask(self, members: dict[str, Any]) -> dict[str, Any]:
        """Have one turn, streamed."""
        body = {**members, "stream": True}
        async with self._client.stream("POST", "/responses", json=body) as answer:
            async for line in answer.aiter_lines():
                if line.startswith("data: {"):
                    event: dict[str, Any] = json.loads(line.removeprefix("data: "))
                    if is_last(event):
                        return event
                elif answer.status_code != 200:
                    return {"type": "error", "said": line, "headers": dict(answer.headers)}
        raise AssertionError("the turn has no end")

    async def ask_whole(self, members: dict[str, Any]) -> dict[str, Any]:
        """Have one turn whose answer comes as a whole."""
        answer = await self._client.post("/responses", json=members)
        said = answer.json()
        if answer.status_code == 200:
            return {"type": f"response.{said['status']}", "response": said}
        return {"type": "error", "said": said, "headers": dict(answer.headers)}

    async def resources(self) -> None:
        """Ask for what is not there, by all methods."""
        speech, word = self._speaker.speech, self._speaker.speech.word
        query = {
            word("key of a query"): word("query"),
            "after": word("after"),
            "order": word("order"),
        }
        for path in (
            "responses/resp_{}",
            "responses/{}",
            "responses/resp_{}/input_items",
            "{}",
            "responses/{}/cancel",
            "conversations/conv_{}",
            "conversations/conv_{}/items",
            "conversations/{}/items/msg_{}",
            "models/{}",
            "responses/compact/{}",
        ):
            for method in ("GET", "POST", "DELETE", "PUT", word("method").upper()):
                url = "/" + path.replace("{}", word("path"))
                body = {
                    "metadata": {word("metadata"): word("metadata")},
                    "items": [{"x": word("item")}],
                }
                await self._refuse(method, url, params=query, json=body)
        await self._refuse("POST", "/responses/compact", json=speech.create())
        await self._refuse("POST", "/responses/tickets", content=word("ticket"))
        await self._refuse(
            "POST", "/responses", json={**speech.create(), "background": not speech.stored}
        )

    async def bodies(self) -> None:
        """Send bodies that are none."""
        word = self._speaker.speech.word
        for body in self._speaker.speech.broken_frames():
            await self._refuse("POST", "/responses", content=body)
        packed = gzip.compress(word("packed").encode())
        await self._refuse(
            "POST", "/responses", content=packed, headers={"Content-Encoding": "gzip"}
        )
        kind = {
            "Content-Type": f"text/{word('Content-Type')}",
            "Content-Encoding": word("encoding"),
        }
        await self._refuse("POST", "/responses", content=word("body"), headers=kind)
        await self._refuse("POST", "/responses", content=word("oversized body") + "x" * LIMIT)
        key = {"Idempotency-Key": word("Idempotency-Key")}
        await self._refuse("POST", "/responses", json=self._speaker.speech.create(), headers=key)
        host = {"Host": f"{word('Host')}.example"}
        await self._refuse("GET", "/models", headers=host)
        origin = {"Origin": f"https://{word('Origin')}.example"}
        await self._refuse("GET", "/models", headers=origin)

    async def vanish(self) -> None:
        """Leave in the middle of a turn."""
        body = {**self._speaker.speech.create(STALLED, tools=[]), "stream": True}
        async with self._client.stream("POST", "/responses", json=body) as answer:
            await anext(answer.aiter_lines())

    async def _refuse(self, method: str, url: str, **request: Any) -> None:
        answer = await self._client.request(method, url, **request)
        if answer.status_code != 200:
            self._speaker.refused((answer.status_code, answer.headers, answer.content))


@asynccontextmanager
async def _client(speaker: Speaker) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(
        base_url=speaker.address.http_url, headers=speaker.headers, timeout=WAIT, trust_env=False
    ) as client:
        yield client


async def _not_let_in(speaker: Speaker) -> None:
    """Come with what lets nobody in."""
    word = speaker.speech.word
    async with httpx.AsyncClient(base_url=speaker.address.http_url, trust_env=False) as client:
        for authorization in (
            word("Authorization"),
            f"Bearer {word('wrong key')}",
            f"Bearer {speaker.key}{word('longer key')}",
            f"Basic {word('Basic')}",
            f"{word('scheme')} {speaker.key}",
        ):
            headers = {"Authorization": authorization}
            answer = await client.post("/responses", json=speaker.speech.create(), headers=headers)
            assert answer.status_code == 401
            speaker.refused((answer.headers, answer.content))
        answer = await client.get("/models", params={"api_key": word("key in a query")})
        speaker.refused((answer.headers, answer.content))


async def _raw(speaker: Speaker) -> None:
    """Send what is no HTTP, or only its beginning."""
    word = speaker.speech.word
    upgrade = "GET /v1/responses HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n"
    head = "POST /v1/responses HTTP/1.1\r\nHost: localhost\r\n"
    for request in (
        f"{word('no HTTP')}\r\n\r\n",
        f"GET /{word('target')} HTTP/9.9\r\n\r\n",
        f"{head}Content-Length: {word('Content-Length')}\r\n\r\n",
        f"{head}Transfer-Encoding: chunked\r\n\r\n{word('chunk')}\r\n",
        f"{head}{word('no header')}\r\n\r\n",
        f"{head}X: {word('large head')}{'x' * 2 * LIMIT}\r\n\r\n",
        f"{head}Authorization: Bearer {speaker.key}\r\nContent-Length: 99\r\n\r\n{word('half a body')}",
        f"{upgrade}Upgrade: {word('Upgrade')}\r\n\r\n",
        f"{upgrade}Upgrade: websocket\r\nSec-WebSocket-Key: {word('Sec-WebSocket-Key')}\r\n\r\n",
    ):
        await _send(speaker, request.encode())


async def _send(speaker: Speaker, request: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", speaker.address.http)
    writer.write(request)
    if writer.can_write_eof():
        writer.write_eof()
    async with in_time():
        with suppress(ConnectionError):
            speaker.refused(await reader.read())
    writer.close()
