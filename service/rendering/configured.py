"""What a model's files say about its conversations: templates, what tokens are called, ends of answers."""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from service.errors import ModelError
from service.rendering import Files
from service.rendering.specials import Specials


def sources_of(files: Files) -> Mapping[str, str]:
    """Return the chat templates by name; a file of its own goes before the configuration."""
    if (file := files.get("chat_template.jinja")) is not None:
        return {"default": file.decode(errors="replace")}
    beside = _read(files, "chat_template.json")
    match {**_read(files, "tokenizer_config.json"), **beside}.get("chat_template"):
        case str(source):
            return {"default": source}
        case list(several):
            return dict(filter(None, map(_named, several)))
        case _:
            return {}


def tokens_of(files: Files) -> Mapping[str, str | Sequence[str]]:
    """Return the special tokens that templates name, such as `bos_token`, spelled out."""
    configured = {
        **_read(files, "special_tokens_map.json"),
        **_read(files, "tokenizer_config.json"),
    }
    named = {
        name: spelling
        for name, token in configured.items()
        if name.endswith("_token") and (spelling := _spelling(token)) is not None
    }
    more = map(_spelling, configured.get("additional_special_tokens") or [])
    extra = [spelling for spelling in more if spelling is not None]
    return {**named, "additional_special_tokens": extra} if extra else named


def ends_of(files: Files, specials: Specials) -> frozenset[int]:
    """Return the tokens that end an answer."""
    generation = _read(files, "generation_config.json").get("eos_token_id")
    ids = generation if isinstance(generation, list) else [generation]
    named = specials.ids.get(str(tokens_of(files).get("eos_token")))
    return frozenset(token for token in [*ids, named] if isinstance(token, int))


def _read(files: Files, name: str) -> Mapping[str, Any]:
    """Return one of the JSON files; nothing if the model has none. Raises `ModelError`."""
    try:
        parsed = orjson.loads(files.get(name, b"{}"))
    except orjson.JSONDecodeError as error:
        raise ModelError("server_error", f"The model's {name} cannot be read.") from error
    return parsed if isinstance(parsed, dict) else {}


def _named(template: Any) -> tuple[str, str] | None:
    match template:
        case {"name": str(name), "template": str(source)}:
            return name, source
        case _:
            return None


def _spelling(token: Any) -> str | None:
    """Return how a token is spelled: configurations have its text, or an object."""
    content = token.get("content") if isinstance(token, Mapping) else token
    return content if isinstance(content, str) else None
