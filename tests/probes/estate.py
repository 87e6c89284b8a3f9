"""What Alice has: responses in every state, conversations, items, keys; and whether all is as it was."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tests.probes.creates import MODEL, SAID_WITH_KEY
from tests.probes.customer import Customer, Json, Told, items_of
from tests.probes.guesses import Kind, new_key
from tests.probes.route import first_in
from tests.replicas.process import until

_FOREVER = "#sim text 2 ; stall 3000"
_CONTINUED = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Wealth:
    """How many things of a sort there are to be. Keys are shared out among the routes."""

    responses: int = 24
    conversations: int = 12
    keys: int = 90
    running: int = 8


@dataclass(slots=True, eq=False)
class Estate:
    """Her things, by the names they can be asked for under."""

    alice: Customer
    names: dict[Kind, list[str]] = field(default_factory=lambda: {kind: [] for kind in Kind})
    finished: list[str] = field(default_factory=list)
    running: list[str] = field(default_factory=list)
    _keyed: dict[str, str] = field(default_factory=dict)
    _before: Mapping[str, Told] = field(default_factory=dict)

    @property
    def secrets(self) -> frozenset[bytes]:
        """What no answer to anybody else may hold."""
        return frozenset(name.encode() for names in self.names.values() for name in names)

    async def found(self, wealth: Wealth) -> None:
        """Make all of it, and remember how it is."""
        for _ in range(wealth.responses // 2):
            await self._make_tree()
        for _ in range(wealth.responses // 4):
            await self._make_ended()
            await self._make_deleted()
        for _ in range(wealth.conversations):
            await self._make_conversation()
        for number in range(wealth.keys):
            await self._make_keyed((Kind.KEY, Kind.OTHER_KEY)[number % 2])
        for number in range(wealth.running):
            await self._leave_running(number)
        for name in self.finished[:4]:
            await self._compact(name)
        await until(self._settled)

    async def changes(self) -> Sequence[str]:
        """Return what is not as it was, or cannot be used as its owner may. Ends what runs."""
        changed = [path for path, told in self._before.items() if await self._look(path) != told]
        return [*changed, *await self._unusable()]

    async def _settled(self) -> bool:
        """Tell whether nothing changes any more, and remember it."""
        before, self._before = self._before, {path: await self._look(path) for path in self._paths}
        return before == self._before

    @property
    def _paths(self) -> Sequence[str]:
        responses = [f"/responses/{name}" for name in self.names[Kind.RESPONSE]]
        conversations = [f"/conversations/{name}" for name in self.names[Kind.CONVERSATION]]
        asked = [f"{path}/input_items" for path in responses]
        return [*responses, *asked, *conversations, *(f"{path}/items" for path in conversations)]

    async def _look(self, path: str) -> Told:
        return await self.alice.look(path)

    async def _unusable(self) -> Sequence[str]:
        """Continue what ended, repeat what has a key, end what runs; return what did not go well."""
        wrong = []
        for name in self.finished[:_CONTINUED]:
            more = {"model": MODEL, "previous_response_id": name, "input": "still there?"}
            continued = await self.alice.attempt("/responses", more)
            wrong += [] if continued.get("status") == "completed" else [f"{name} is not continued"]
        for key, name in self._keyed.items():
            same = {"model": MODEL, "input": SAID_WITH_KEY, "idempotency_key": key}
            again = await self.alice.attempt("/responses", same)
            wrong += [] if again.get("id") == name else [f"{key} means another response"]
        for name in self.running:
            ended = await self.alice.attempt(f"/responses/{name}/cancel", {})
            wrong += [] if ended.get("status") == "cancelled" else [f"{name} had ended"]
        return wrong

    async def _make_tree(self) -> None:
        """Make two responses of one conversation."""
        first = await self.alice.ask(input="what only Alice knows")
        second = await self.alice.ask(previous_response_id=first["id"], input="and more of it")
        for response in (first, second):
            self._own(response)
            self.finished.append(response["id"])

    async def _make_ended(self) -> None:
        """Make one that was cancelled, and one that failed, which over HTTP says no name of it."""
        cancelled = await self.alice.post("/responses", _in_background(_FOREVER))
        await self.alice.post(f"/responses/{cancelled['id']}/cancel", {})
        failed = await self.alice.post("/responses", _in_background("#sim fail server_error"))
        for response in (cancelled, failed):
            self._own(response)

    async def _make_deleted(self) -> None:
        """Make a response that nothing continues, and one that is continued, and delete both."""
        alone = await self.alice.ask(input="soon gone")
        parent = await self.alice.ask(input="soon gone, too")
        self._own(await self.alice.ask(previous_response_id=parent["id"], input="not gone"))
        for response in (alone, parent):
            self._own(response)
            await self.alice.delete(f"/responses/{response['id']}")

    async def _make_conversation(self) -> None:
        made = await self.alice.begin_conversation()
        self.names[Kind.CONVERSATION].append(made)
        self.names[Kind.LISTED].append(first_in(made))

    async def _make_keyed(self, kind: Kind) -> None:
        key = new_key(kind)
        made = await self.alice.ask(input=SAID_WITH_KEY, idempotency_key=key)
        self.names[kind].append(key)
        self._keyed[key] = made["id"]
        self._own(made)

    async def _leave_running(self, number: int) -> None:
        """Leave a response running, the first in a conversation, which it holds."""
        asked = dict(_in_background(_FOREVER))
        if number == 0:
            asked["conversation"] = self.names[Kind.CONVERSATION][0]
        made = await self.alice.post("/responses", asked)
        self._own(made)
        self.running.append(made["id"])

    async def _compact(self, name: str) -> None:
        asked = {"model": MODEL, "previous_response_id": name}
        made = await self.alice.post("/responses/compact", asked)
        self.names[Kind.SEALED].append(made["output"][0]["encrypted_content"])

    def _own(self, response: Json) -> None:
        self.names[Kind.RESPONSE].append(response["id"])
        self.names[Kind.ITEM] += items_of(response)


def _in_background(said: str) -> Json:
    return {"model": MODEL, "background": True, "input": said}
