"""What of an answer is the same for all names of one form, and what it must not say whatever the name."""

import re
from collections.abc import Collection

_NEW = re.compile(
    rb"\b[a-z]+_[0-9A-Za-z]{16,32}(?:[io]\d+)?\b"  # what was made for this answer, and what he has
)
_TIMES = re.compile(rb'((?:created|completed)_at"?: ?)\d+')
_LENGTHS = re.compile(rb"(content-length: )\d+")


def masked(answer: bytes, name: str) -> bytes:
    """Return an answer without the name that was asked for, and without new ids and times."""
    told = answer.replace(name.encode(), b"<name>")
    told = _NEW.sub(b"<id>", told)
    return _TIMES.sub(rb"\1<time>", told)


def gives_away(answer: bytes, name: str, secrets: Collection[bytes]) -> bool:
    """Tell whether an answer holds an id that is one of these secrets, and not the name itself."""
    others = answer.replace(name.encode(), b"")
    return any(found in secrets for found in _NEW.findall(others))
