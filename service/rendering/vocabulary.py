"""Vocabularies as the `tokenizers` library has them, and what text is told with: no special tokens.

So nothing that text says can become one of them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from tokenizers import Tokenizer as Vocabulary

from service.errors import ModelError
from service.rendering.specials import BREAK, Specials, is_special


def parsed_vocabulary(file: bytes) -> dict[str, Any]:
    """Return a `tokenizer.json`. Raises `ModelError` for one of another kind."""
    try:
        parsed: dict[str, Any] = orjson.loads(file)
        kind, _, _ = (parsed["model"][part] for part in ("type", "vocab", "merges"))
    except (orjson.JSONDecodeError, LookupError, TypeError) as error:
        raise ModelError("server_error", "The model's tokenizer.json cannot be read.") from error
    if kind != "BPE":
        raise ModelError(
            "server_error", "The model's tokenizer is of a kind that is not supported."
        )
    return parsed


def without(specials: Specials, parsed: dict[str, Any]) -> bytes:
    """Return a `tokenizer.json` that text is told with: no merge of it makes a special token."""
    words = [token for token in parsed["added_tokens"] if not is_special(token)]
    model = _unspecial(specials, parsed["model"])
    model["vocab"] |= {token["content"]: token["id"] for token in words}
    return orjson.dumps(
        {
            **parsed,
            "model": model,
            "added_tokens": words,
            "pre_tokenizer": _in_the_middle(parsed["pre_tokenizer"]),
            "post_processor": None,
            "truncation": None,
            "padding": None,
        }
    )


def _unspecial(specials: Specials, model: Mapping[str, Any]) -> dict[str, Any]:
    """Return a model in which nothing spells a special token, however the vocabulary spells it."""
    ids = frozenset(specials.ids.values())
    special = {w for w, n in model["vocab"].items() if w in specials.ids or n in ids}
    told = {
        **model,
        "vocab": {w: n for w, n in model["vocab"].items() if w not in special},
        "merges": [m for m in model["merges"] if _product(m) not in special],
    }
    if (unknown := model.get("unk_token")) in special:  # what stands for it is still to be told
        told["unk_token"] = f"{BREAK}{unknown}"
        told["vocab"][told["unk_token"]] = model["vocab"][unknown]
    return told


def _product(merge: str | Sequence[str]) -> str:
    """Return what a merge makes; older files have the two halves in one string."""
    first, second = merge.split(" ") if isinstance(merge, str) else merge
    return f"{first}{second}"


def _in_the_middle(splitting: Any) -> Any:
    """Return a pre-tokenizer that takes no text for the beginning of a prompt."""
    match splitting:
        case {"pretokenizers": list(several)}:
            return {**splitting, "pretokenizers": [_in_the_middle(one) for one in several]}
        case {"type": "Metaspace", "prepend_scheme": "first"}:
            return {**splitting, "prepend_scheme": "never"}
        case _:
            return splitting


def vocabulary_of(file: bytes) -> Vocabulary:
    """Return a `tokenizer.json`, ready for use. Raises `ModelError`."""
    try:
        return Vocabulary.from_buffer(file)
    except Exception as error:  # the library raises nothing closer
        raise ModelError("server_error", "The model's tokenizer.json cannot be used.") from error
