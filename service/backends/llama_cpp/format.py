"""What a llama.cpp server's model reads and writes: by its own chat template, or as ChatML."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import orjson
import structlog

from service.backends.llama_cpp.server import LlamaServer, Properties
from service.backends.llama_cpp.vocabulary import LlamaTokenizer, special_tokens
from service.errors import ModelError
from service.parsing.syntax import Syntax
from service.rendering import Piece, Template
from service.rendering.chat_ml import SYNTAX, ChatMl
from service.rendering.learning import LearnedTemplate
from service.rendering.specials import Specials

log = structlog.get_logger(__name__)

_CHAT_ML = ("<|im_start|>", "<|im_end|>")


class LlamaFormat(NamedTuple):
    """A template, and how its pieces become text and text becomes pieces."""

    template: Template
    tokenizer: LlamaTokenizer
    syntax: Syntax
    specials: Specials

    @property
    def shown(self) -> Sequence[str]:
        """The special tokens that the server is to spell out, since they tell thoughts and calls apart."""
        if self.syntax == SYNTAX:  # its marks are text
            return []
        ids = self.specials.ids.items()
        return [spelling for spelling, token in ids if token not in self.template.ends]


async def format_of(server: LlamaServer, properties: Properties) -> LlamaFormat:
    """Return what suits the model best. Raises `ModelError` if there is nothing.

    That is its own template, where turns of it can be rendered one by one and tools are among what it
    tells. Otherwise it is ChatML, if the model has its tokens.
    """
    own = await _own(server, properties)
    if own and own.template.additive and own.syntax.calls:
        return own
    found = await _chat_ml(server, properties) or own
    if found is None:
        raise ModelError(
            "server_error", "The model has no chat template, and does not read ChatML."
        )
    return found


async def _own(server: LlamaServer, properties: Properties) -> LlamaFormat | None:
    if not properties.template:
        return None
    spelled = f"{properties.template}{properties.begins}{properties.ends}"
    try:
        specials = Specials(await special_tokens(server, spelled))
        template = LearnedTemplate.of(_files(properties), specials)
    except ModelError as error:
        log.warning("the model's chat template cannot be used", why=error.message)
        return None
    tokenizer = LlamaTokenizer(server, properties.fingerprint)
    return LlamaFormat(template, tokenizer, template.syntax, specials)


async def _chat_ml(server: LlamaServer, properties: Properties) -> LlamaFormat | None:
    found = await special_tokens(server, "".join(_CHAT_ML) + properties.ends)
    specials = Specials(found)
    if any(spelling not in specials.ids for spelling in _CHAT_ML):
        return None
    start, end = (specials.ids[spelling] for spelling in _CHAT_ML)
    ends = {end, *(i for spelling, i in specials.ids.items() if spelling == properties.ends)}
    opens: Sequence[Piece] = await server.opening_tokens()
    template = ChatMl(opens=opens, start=start, end=end, ends=frozenset(ends))
    return LlamaFormat(template, LlamaTokenizer(server, properties.fingerprint), SYNTAX, specials)


def _files(properties: Properties) -> Mapping[str, bytes]:
    configured: dict[str, Any] = {"bos_token": properties.begins, "eos_token": properties.ends}
    return {
        "chat_template.jinja": properties.template.encode(),
        "tokenizer_config.json": orjson.dumps(configured),
    }
