"""What only clients do that want something kept: conversations, background, retries, retrieving, deleting."""

from typing import Any

import httpx

from tests.canaries.talking import STALLED, WAIT, Speaker


async def keep(speaker: Speaker) -> None:
    """Have things kept, look at them, change some and delete some."""
    async with httpx.AsyncClient(
        base_url=speaker.address.http_url, headers=speaker.headers, timeout=WAIT, trust_env=False
    ) as client:
        keeper = _Keeper(speaker, client)
        await keeper.conversation()
        await keeper.background()
        await keeper.twice()
        await keeper.deleted()


class _Keeper:
    def __init__(self, speaker: Speaker, client: httpx.AsyncClient) -> None:
        self._speaker = speaker
        self._client = client

    async def conversation(self) -> None:
        """Make a conversation, have a turn in it, change it."""
        text, word = self._speaker.speech.text, self._speaker.speech.word
        items = [{"type": "message", "role": "user", "content": text("item of a conversation")}]
        made = {"items": items, "metadata": {word("metadata"): word("metadata")}}
        path = f"/conversations/{(await self._post('/conversations', made))['id']}"
        create = self._speaker.speech.create(conversation=path.rpartition("/")[2])
        await self._post("/responses", create)
        await self._post(f"{path}/items", {"items": items})
        await self._post(path, {"metadata": {word("metadata"): word("metadata")}})
        listed = (await self._client.get(f"{path}/items")).text
        assert items[0]["content"].split('"')[1] in listed
        self._speaker.ended.add("conversation")

    async def background(self) -> None:
        """Begin in the background, and cancel."""
        create = self._speaker.speech.create(STALLED, tools=[], background=True)
        begun = await self._post("/responses", create)
        ended = await self._post(f"/responses/{begun['id']}/cancel", {})
        self._speaker.ended.add(ended["status"])  # a model that fails may have ended it before

    async def twice(self) -> None:
        """Ask twice under one key."""
        key = self._speaker.speech.text("idempotency_key").splitlines()[0]
        create = self._speaker.speech.create(idempotency_key=key)
        first, second = [await self._post("/responses", create) for _ in range(2)]
        assert first["id"] == second["id"]
        self._speaker.ended.add("asked twice")

    async def deleted(self) -> None:
        """Retrieve what was said, then delete it."""
        said = self._speaker.speech.text("deleted")
        path = f"/responses/{(await self._post('/responses', self._speaker.speech.create(said)))['id']}"
        assert said.split('"')[1] in (await self._client.get(f"{path}/input_items")).text
        assert (await self._client.delete(path)).status_code == 200
        assert (await self._client.get(path)).status_code == 404
        self._speaker.ended.add("deleted")

    async def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = await self._client.post(path, json=body)
        assert answer.status_code == 200, answer.text
        said: dict[str, Any] = answer.json()
        return said
