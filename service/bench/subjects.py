"""What is benchmarked: templates, each with a vocabulary that it can be told in."""

import importlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from service.backends.engines.files import read_from
from service.bench.vocabularies import CHAT_ML_JINJA, CHAT_ML_TOKENS, made
from service.errors import ModelError
from service.rendering import Template, Tokenizer
from service.rendering.chat_ml import ChatMl
from service.rendering.formats import Source, format_of
from service.rendering.harmony import HarmonyTemplate
from service.rendering.library import LibraryTemplate
from service.rendering.scribe import installed, names_for
from service.rendering.tokenizer import LocalTokenizer

_NOBODY = ""  # a model that the library does not know: it then names all its templates


class Subject(NamedTuple):
    """A template and a vocabulary."""

    template: Template
    tokenizer: Tokenizer


class Candidate(NamedTuple):
    """What may be benchmarked, once it is there."""

    name: str
    load: Callable[[], Subject]
    """Takes a second or so. Raises `ModelError` with what is missing."""


def candidates(directories: Sequence[Path], chosen: Sequence[str]) -> list[Candidate]:
    """Return what there is to benchmark: models of the operator's, or else all templates.

    `chosen` are their names, or the beginnings of these; without any it is one of each family.
    """
    found = list(_real(directories) if directories else _made_up())
    if chosen:
        return [one for one in found if one.name.startswith(tuple(chosen))]
    latest = {_family(one.name): one for one in found}
    return found if directories else list(latest.values())


def _made_up() -> Iterator[Candidate]:
    """Yield all templates, with vocabularies made for them."""
    yield Candidate("chat_ml", _chat_ml)
    yield Candidate("jinja", _jinja)
    yield Candidate("harmony", _harmony)
    for name in names_for(_NOBODY) if installed() else ():
        yield Candidate(name, partial(_of_library, name))


def _real(directories: Sequence[Path]) -> Iterator[Candidate]:
    """Yield models as they are told in service, and as the library tells them where it knows them."""
    for directory in directories:
        model = directory.resolve().name
        yield Candidate(model, partial(_of_files, directory, model, "auto"))
        if installed() and len(names_for(model)) == 1:
            yield Candidate(f"{model}/library", partial(_of_files, directory, model, "library"))


def _family(name: str) -> str:
    """Return a name without its version."""
    return name.partition("-")[0].rstrip("0123456789.")


def _of_files(directory: Path, model: str, source: Source) -> Subject:
    found = format_of(read_from(directory), model, source)
    return Subject(found.template, found.tokenizer)


def _chat_ml() -> Subject:
    tokenizer = LocalTokenizer.of(made(CHAT_ML_TOKENS))
    start, end, *_ = (tokenizer.specials.ids[token] for token in CHAT_ML_TOKENS)
    return Subject(ChatMl(opens=[], start=start, end=end, ends=frozenset({end})), tokenizer)


def _jinja() -> Subject:
    _, end, *_ = CHAT_ML_TOKENS
    configured = orjson.dumps({"eos_token": end})
    template = {"chat_template.jinja": CHAT_ML_JINJA.encode(), "tokenizer_config.json": configured}
    found = format_of({**made(CHAT_ML_TOKENS), **template}, "made up", "jinja")
    return Subject(found.template, found.tokenizer)


def _harmony() -> Subject:
    """Take Harmony with the vocabulary that the environment names, which makes all its ids."""
    try:
        return Subject(HarmonyTemplate.of({}), LocalTokenizer.of(made(CHAT_ML_TOKENS)))
    except ModelError as error:
        raise ModelError("server_error", "Its vocabulary cannot be made: use --files.") from error


def _of_library(name: str) -> Subject:
    tokenizer = LocalTokenizer.of(made(_tokens_of(name)))
    return Subject(LibraryTemplate(name, tokenizer.specials), tokenizer)


def _tokens_of(name: str) -> Sequence[str]:
    """Return the special tokens that a template of the library asks for."""
    library: Any = importlib.import_module("renderers")
    noticing = _Noticing()
    library.create_renderer(noticing, library.config_from_name(name))
    return [token for token in noticing.asked if not token.endswith("\n")]


class _Noticing:
    """A vocabulary that has every token that is asked for, and notices which are."""

    name_or_path = ""
    unk_token_id: int | None = None
    eos_token_id: int | None = None

    def __init__(self) -> None:
        self.asked: dict[str, int] = {}

    def encode(self, text: str, *_: Any, **__: Any) -> list[int]:
        """Return an id for a text, whatever it is."""
        return [self.asked.setdefault(text, len(self.asked))]

    def decode(self, *_: Any, **__: Any) -> str:
        """Say that it cannot, as `Scaffold` does."""
        raise NotImplementedError

    def convert_tokens_to_ids(self, token: str) -> int:
        """Return an id for a token."""
        return self.encode(token)[0]
