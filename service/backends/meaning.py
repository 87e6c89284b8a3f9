"""Whether a model server means by ids what we do: it is asked what some of them spell.

With the vocabulary of another model in front of it, a server would answer prompts that nobody wrote.
"""

from collections.abc import Sequence

import orjson

PATH = "/detokenize"
WORDS = "Whoever has the same vocabulary reads the same words here: \u00fcber 42 \u4f60\u597d"
"""What is put into ids: common words, which are other ids in every vocabulary."""

_SHOWN_BY = {200, 400, 422, 500}
"""Statuses of servers that know the question. Ids that are nobody's are an error of some kind."""


def question(model: str, ids: Sequence[int]) -> bytes:
    """Return the body of a request that asks what ids spell."""
    return orjson.dumps({"model": model, "tokens": ids})


def differs(status: int, content: bytes) -> bool:
    """Whether an answer shows that the ids of `WORDS` do not mean these; space may be lost in it."""
    if status not in _SHOWN_BY:
        return False
    try:
        told = orjson.loads(content)
    except orjson.JSONDecodeError:
        return True
    spelled = (told.get("prompt") or told.get("text")) if isinstance(told, dict) else None
    return not isinstance(spelled, str) or spelled.split() != WORDS.split()
