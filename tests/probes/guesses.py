"""Names that Bob tries: Alice's own, and what comes near them. What he tries is as long and of the same
form for a name of hers as for one that never was, so that nothing but its meaning is different.
"""

import random
import secrets
import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum

from service import ids
from service.sealing import Seal

_LETTERS = string.ascii_letters + string.digits
_SEALED_BYTES = 256
_NOBODY = Seal.ephemeral()


class Kind(Enum):
    """What a name is a name of."""

    RESPONSE = "response"
    ITEM = "item of a response"
    CONVERSATION = "conversation"
    LISTED = "item of a conversation"
    KEY = "idempotency key"
    OTHER_KEY = "idempotency key, for something else"
    SEALED = "sealed compaction"


_ABSENT: Mapping[Kind, Callable[[], str]] = {
    Kind.RESPONSE: lambda: ids.response_id(None),
    Kind.ITEM: lambda: ids.item_id("msg", ids.response_id(None), 0),
    Kind.CONVERSATION: lambda: ids.draw("conv"),
    Kind.LISTED: lambda: ids.draw("msg") + "i0",
    Kind.KEY: lambda: new_key(Kind.KEY),
    Kind.OTHER_KEY: lambda: new_key(Kind.OTHER_KEY),
    Kind.SEALED: lambda: _NOBODY.seal("nobody", "compaction", secrets.token_bytes(_SEALED_BYTES)),
}


def absent(kind: Kind) -> str:
    """Return a name of nothing, as a service would have given it."""
    return _ABSENT[kind]()


def new_key(kind: Kind) -> str:
    """Draw an idempotency key. Keys for one create and for others are told apart by their beginning."""
    return f"{kind.name.lower()}-{secrets.token_hex(12)}"


@dataclass(frozen=True, slots=True)
class Guess:
    """A way to make a name of one: `made` takes the name, a name of Bob's of that kind, and chance."""

    name: str
    made: Callable[[str, str, random.Random], str]
    weight: int = 1


def _changed(name: str, own: str, chance: random.Random) -> str:
    del own
    at = chance.randrange(len(name) - 12, len(name) - 2)
    other = chance.choice([letter for letter in _LETTERS if letter != name[at]])
    return name[:at] + other + name[at + 1 :]


def _truncated(name: str, own: str, chance: random.Random) -> str:
    del own
    return name[: chance.randrange(len(name) - 8, len(name))]


def _extended(name: str, own: str, chance: random.Random) -> str:
    del own
    return name + chance.choice(_LETTERS)


def _other_case(name: str, own: str, chance: random.Random) -> str:
    del own, chance
    prefix, mark, rest = name.partition("_")
    return prefix + mark + rest.swapcase() if mark else name.upper()


def _other_prefix(name: str, own: str, chance: random.Random) -> str:
    del own
    return f"{chance.choice(['fc', 'rs', 'call', 'steer', 'cmp'])}_{name.rpartition('_')[2]}"


def _his_tail(name: str, own: str, chance: random.Random) -> str:
    """Return her beginning, a tree's root for instance, with his end."""
    del chance
    half = name.find("_") + 1 + (len(name.partition("_")[2]) // 2)
    return name[:half] + own[half:]


def _her_tail(name: str, own: str, chance: random.Random) -> str:
    """Return his beginning with her end."""
    return _his_tail(own, name, chance)


_EXACT = Guess("the name itself", lambda name, own, chance: name, weight=6)
_NEAR = (
    Guess("one character changed", _changed),
    Guess("cut short", _truncated),
    Guess("one character more", _extended),
    Guess("other case", _other_case),
    Guess("other prefix", _other_prefix),
    Guess("her root, his rest", _his_tail),
    Guess("his root, her rest", _her_tail),
)
GUESSES: Mapping[Kind, tuple[Guess, ...]] = {
    **dict.fromkeys(Kind, (_EXACT, *_NEAR)),
    Kind.KEY: (_EXACT, *_NEAR[:3]),
    Kind.OTHER_KEY: (_EXACT, *_NEAR[:3]),
    Kind.SEALED: (_EXACT,),
}
"""By what is guessed."""
