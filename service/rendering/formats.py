"""What a model reads and writes: template, vocabulary and syntax, found for it."""

from collections.abc import Callable
from typing import Literal, NamedTuple, TypeAlias

import structlog

from service.errors import ModelError
from service.parsing.syntax import Syntax
from service.rendering import Detokenizer, Files, Template, Tokenizer
from service.rendering.configured import sources_of
from service.rendering.harmony import HarmonyTemplate
from service.rendering.learning import LearnedTemplate
from service.rendering.library import LibraryTemplate
from service.rendering.tokenizer import LocalTokenizer

log = structlog.get_logger(__name__)

Source: TypeAlias = Literal["auto", "jinja", "library", "harmony"]
"""Where a template comes from. `auto`: harmony for gpt-oss; else the model's own Jinja template, where it
can be told turn by turn, else the library's, where that says the same and can."""

_CHANNEL = "<|channel|>"
_HARMONY = Syntax(form="harmony")


class Format(NamedTuple):
    """What one model reads and writes."""

    template: Template
    tokenizer: Tokenizer
    detokenizer: Callable[[], Detokenizer]
    syntax: Syntax


def format_of(files: Files, model: str, source: Source = "auto") -> Format:
    """Return the format of a model. Takes a second or so: call it in a thread.

    Raises `ModelError` with what is missing, for the operator.
    """
    tokenizer = LocalTokenizer.of(files)
    template, syntax = _template(files, tokenizer, model, source)
    ends = template.ends
    return Format(template, tokenizer, lambda: tokenizer.detokenizer(ends), syntax)


def _template(
    files: Files, tokenizer: LocalTokenizer, model: str, source: Source
) -> tuple[Template, Syntax]:
    specials = tokenizer.specials
    if source == "harmony" or (source == "auto" and _CHANNEL in specials.ids):
        return HarmonyTemplate.of(files), _HARMONY
    own = LearnedTemplate.of(files, specials) if source == "jinja" or sources_of(files) else None
    if own and (source == "jinja" or (source == "auto" and own.additive)):
        return _told(own, model), own.syntax
    asked = source == "library" or not own  # then it need not say the same as the model's own
    found = LibraryTemplate.of(model, specials, None if asked else own)
    if found and (found.additive or asked):
        return found, own.syntax if own else Syntax()
    if asked or not own:
        raise ModelError(
            "server_error", f"There is no chat template for {model}, nor in the library."
        )
    return _told(own, model), own.syntax


def _told(own: LearnedTemplate, model: str) -> LearnedTemplate:
    """Say once where the model's own template costs a whole rendering every turn."""
    if not own.additive:
        log.warning("a chat template is rendered anew every turn", model=model, because=own.refusal)
    return own
