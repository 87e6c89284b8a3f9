"""What a create can name, on whatever face: its members, by what they name."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.probes.guesses import Kind

MODEL = "simulator"
SAID_WITH_KEY = "#sim text 3"
"""What Alice says under her idempotency keys: Bob says the same, or something else."""
_SAID, _SAID_OTHERWISE = "hello", "#sim text 2"
SAID = (_SAID, SAID_WITH_KEY, _SAID_OTHERWISE)
"""All that is said in probes. Said twice, it is in the speaker's own part of the model's cache."""
RESPONSES, CONVERSATIONS = (Kind.RESPONSE,), (Kind.CONVERSATION,)
ITEMS = (Kind.ITEM, Kind.LISTED)


@dataclass(frozen=True, slots=True)
class Own:
    """What the asker has: a stored response, a conversation, and an item of each."""

    response: str
    item: str
    conversation: str
    listed: str

    def of(self, kind: Kind) -> str:
        """Return the one of a kind; nothing for kinds of which near names are not made with his own."""
        return {
            Kind.RESPONSE: self.response,
            Kind.ITEM: self.item,
            Kind.CONVERSATION: self.conversation,
            Kind.LISTED: self.listed,
        }.get(kind, "")


Members = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Create:
    """A create that names something. `members` takes the name, and what is the asker's own."""

    name: str
    kinds: Sequence[Kind]
    members: Callable[[str, Own], Members]
    makes_a_turn: bool = False
    """Whether a response is made whatever the name."""


def reference(name: str) -> Sequence[Members]:
    """Return an item that stands for another."""
    return [{"type": "item_reference", "id": name}]


def previous(name: str, own: Own) -> Members:
    """Continue a response."""
    del own
    return _create({"previous_response_id": name})


def in_conversation(name: str, own: Own) -> Members:
    """Go on in a conversation."""
    del own
    return _create({"conversation": name})


def referring(name: str, own: Own) -> Members:
    """Refer to an item."""
    del own
    return _create({"input": reference(name)})


def with_sealed(name: str, own: Own) -> Members:
    """Begin with a compaction."""
    del own
    return _create(
        {"input": [{"type": "compaction", "id": "cmp_0", "encrypted_content": name}, _AND]}
    )


def with_key(name: str, own: Own) -> Members:
    """Say under a key what Alice said under hers."""
    del own
    return _create({"idempotency_key": name, "input": SAID_WITH_KEY})


def _with_key_otherwise(name: str, own: Own) -> Members:
    del own
    return _create({"idempotency_key": name, "input": _SAID_OTHERWISE})


def _referring_beside_own(name: str, own: Own) -> Members:
    return _create({"input": reference(name), "previous_response_id": own.response})


def _compared(name: str, own: Own) -> Members:
    del own
    return _create({"prompt_cache_options": {"comparison_response_id": name}})


def _create(members: Members) -> Members:
    return {"model": MODEL, "input": _SAID, **members}


_AND = {"type": "message", "role": "user", "content": "and?"}
CREATES = (
    Create("previous_response_id", RESPONSES, previous),
    Create("conversation", CONVERSATIONS, in_conversation),
    Create("item_reference", ITEMS, referring),
    Create("item_reference beside a parent of his own", ITEMS, _referring_beside_own),
    Create("sealed compaction", (Kind.SEALED,), with_sealed),
    Create("comparison_response_id", RESPONSES, _compared, makes_a_turn=True),
    Create("idempotency_key", (Kind.KEY,), with_key, makes_a_turn=True),
    Create(
        "idempotency_key, another create",
        (Kind.OTHER_KEY,),
        _with_key_otherwise,
        makes_a_turn=True,
    ),
)
