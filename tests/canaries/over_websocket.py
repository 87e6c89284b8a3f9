"""What a client says over WebSockets."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from tests.canaries.speech import frame
from tests.canaries.talking import LIMIT, SLOW, STALLED, Speaker, in_time, is_last


async def speak(speaker: Speaker) -> None:
    """Say everything."""
    async with _connected(speaker) as talk:
        await speaker.have_turns(talk.ask)
        await speaker.be_refused(talk.ask)
        await talk.control()
    for broken in (_frames, _oversized, _not_let_in):
        await broken(speaker)


async def direct(speaker: Speaker) -> None:
    """Steer turns, interrupt them and leave them: the model goes on for as long as it is told to."""
    async with _connected(speaker) as talk:
        await talk.steer()
        await talk.interrupt()
    await _vanished(speaker)


@asynccontextmanager
async def stalled(speaker: Speaker) -> AsyncIterator[None]:
    """Have a turn that does not end, for as long as the context lasts."""
    async with _connected(speaker) as talk:
        await talk.begin(STALLED)
        yield
        await talk.leave()


class Talk:
    """One connection."""

    def __init__(self, speaker: Speaker, connection: ClientConnection) -> None:
        self._speaker = speaker
        self.connection = connection

    async def ask(self, members: dict[str, Any]) -> dict[str, Any]:
        """Have one turn."""
        await self.connection.send(frame(members))
        return await self.hear()

    async def begin(self, text: str) -> str:
        """Begin a turn; return its id once it says something."""
        await self.connection.send(frame(self._speaker.speech.create(text, tools=[])))
        created = await self.hear("response.created")
        await self.hear("response.output_text.delta")
        return str(created["response"]["id"])

    async def hear(self, kind: str = "") -> dict[str, Any]:
        """Receive up to an event of a kind, or the end of a turn."""
        async with in_time():
            while True:
                event: dict[str, Any] = json.loads(await self.connection.recv())
                if event["type"] == kind or (not kind and is_last(event)):
                    return event

    async def steer(self) -> None:
        """Steer a turn; another follows."""
        response_id = await self.begin(SLOW)
        said = self._speaker.speech.text("steering")
        asked = {"previous_response_id": response_id, "input": said}
        await self.connection.send(frame(asked, "response.steer"))
        await self.hear("response.steer.accepted")
        assert (await self.hear())["response"]["incomplete_details"]["reason"] == "steered"
        await self.hear()
        self._speaker.ended.add("steered")
        lost = {"previous_response_id": self._speaker.speech.word("steered id"), "input": said}
        await self.connection.send(frame(lost, "response.steer"))
        await self.hear("response.steer.failed")

    async def interrupt(self) -> None:
        """Interrupt a turn."""
        response_id = await self.begin(SLOW)
        await self.connection.send(frame({"response_id": response_id}, "response.interrupt"))
        assert (await self.hear())["response"]["incomplete_details"]["reason"] == "interrupted"
        self._speaker.ended.add("interrupted")

    async def control(self) -> None:
        """Say something in frames that carry no messages, on lanes, and at the end."""
        word = self._speaker.speech.word
        on_lane = {**self._speaker.speech.create(), "stream_id": word("stream_id")}
        await self.ask(on_lane)
        await self.connection.ping(word("ping"))
        await self.connection.pong(word("pong"))
        await self.connection.close(4321, word("reason of a close"))

    async def leave(self) -> None:
        """Note how the server ends the connection."""
        async with in_time():
            with suppress(ConnectionClosed):
                while True:
                    await self.connection.recv()
        self._speaker.refused(self.connection.close_reason)


@asynccontextmanager
async def _connected(speaker: Speaker) -> AsyncIterator[Talk]:
    word = speaker.speech.word
    url = f"{speaker.address.websocket_url}?{word('key of a query')}={word('query')}"
    async with connect(
        url, additional_headers=speaker.headers, max_size=None, proxy=None, user_agent_header=None
    ) as connection:
        yield Talk(speaker, connection)


async def _frames(speaker: Speaker) -> None:
    """Send what is no event, each on a connection of its own: some end it."""
    for broken in speaker.speech.broken_frames():
        async with _connected(speaker) as talk:
            await talk.connection.send(broken, text=True)
            await _told(speaker, talk)
    async with _connected(speaker) as talk:
        await talk.connection.send(speaker.speech.word("binary frame").encode())
        await _told(speaker, talk)


async def _oversized(speaker: Speaker) -> None:
    """Send a message that is too large."""
    async with _connected(speaker) as talk:
        said = speaker.speech.text("oversized message")
        with suppress(ConnectionClosed):
            await talk.connection.send(frame({"input": said + "x" * LIMIT}))
        await talk.leave()
    speaker.ended.add("too large")


async def _vanished(speaker: Speaker) -> None:
    """Leave in the middle of a turn, of a message and of a frame."""
    async with _connected(speaker) as talk:
        await talk.begin(STALLED)
        talk.connection.transport.abort()
    async with _connected(speaker) as talk:
        word = speaker.speech.word("half a frame")
        talk.connection.transport.write(b"\x81\xfe\x04\x00\0\0\0\0" + word.encode())
        await asyncio.sleep(0)
        talk.connection.transport.abort()
    async with _connected(speaker) as talk:
        word = speaker.speech.word("a frame of no kind")
        talk.connection.transport.write(b"\xff\x80\0\0\0\0" + word.encode())
        await talk.leave()
    speaker.ended.add("vanished")


async def _told(speaker: Speaker, talk: Talk) -> None:
    """Keep the one answer that a broken frame gets."""
    async with in_time():
        try:
            speaker.refused(await talk.connection.recv())
        except ConnectionClosed as closed:
            speaker.refused(str(closed))


async def _not_let_in(speaker: Speaker) -> None:
    """Come with what lets nobody in."""
    word, url = speaker.speech.word, speaker.address.websocket_url
    authorized = {"Authorization": f"Bearer {speaker.key}"}
    for headers in (
        {"Authorization": f"Bearer {word('wrong key')}"},
        {"Authorization": f"Bearer {speaker.key}{word('longer key')}"},
        {"Authorization": f"Basic {word('Basic')}"},
        {"Authorization": word("Authorization")},
        {"Cookie": f"{word('cookie')}={word('cookie')}"},
        {"Sec-WebSocket-Protocol": f"realtime, openai-insecure-api-key.{word('subprotocol')}"},
        {
            "Origin": "https://page.example",
            "Sec-WebSocket-Protocol": f"turnwire, turnwire.ticket.{word('ticket')}",
        },
        {**authorized, "Origin": f"https://{word('Origin')}.example"},
        {**authorized, "Sec-WebSocket-Extensions": word("extension")},
    ):
        await _refused(speaker, url, headers)
    await _refused(speaker, f"{url}/{word('path')}", authorized)


async def _refused(speaker: Speaker, url: str, headers: dict[str, str]) -> None:
    try:
        async with connect(url, additional_headers=headers, proxy=None):
            pass
    except InvalidHandshake as refused:
        answer = getattr(refused, "response", None)
        speaker.refused((str(refused), getattr(answer, "headers", ""), getattr(answer, "body", "")))
        speaker.ended.add("not let in")
