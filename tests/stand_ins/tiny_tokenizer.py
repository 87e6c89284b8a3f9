"""The files that would come with the tiny model: its vocabulary, and a template."""

import json
from functools import partial

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from service.rendering import Files
from service.rendering.chat_ml import SYNTAX, ChatMl
from service.rendering.formats import Format
from service.rendering.tokenizer import LocalTokenizer
from tests.models import IM_END, IM_START
from tests.models import _byte_names as byte_names

END_OF_TEXT = 256
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]

TEMPLATE = """\
{%- if tools %}
{{- "<|im_start|>system\\n" }}
{%- if messages[0].role == "system" %}{{ messages[0].content + "\\n" }}{% endif %}
{{- "Functions, one to a line:\\n" }}
{%- for tool in tools %}{{ tool | tojson + "\\n" }}{% endfor %}
{{- "<|im_end|>\\n" }}
{%- elif messages[0].role == "system" %}
{{- "<|im_start|>system\\n" + messages[0].content + "<|im_end|>\\n" }}
{%- endif %}
{%- for message in messages %}
{%- if message.role == "tool" %}
{{- "<|im_start|>tool\\n" + message.content + "<|im_end|>\\n" }}
{%- elif message.role == "assistant" %}
{{- "<|im_start|>assistant\\n" + message.content }}
{%- for call in message.tool_calls or [] %}
{%- if message.content or not loop.first %}{{ "\\n" }}{% endif %}
{{- '<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' }}
{{- call.function.arguments if call.function.arguments is string else call.function.arguments | tojson }}
{{- "}\\n</tool_call>" }}
{%- endfor %}
{{- "<|im_end|>\\n" }}
{%- elif not loop.first or message.role != "system" %}
{{- "<|im_start|>" + message.role + "\\n" + message.content + "<|im_end|>\\n" }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ "<|im_start|>assistant\\n" }}{% endif %}"""


def tiny_files() -> dict[str, bytes]:
    """Return what GetTokenizer hands out, by name."""
    configuration = {"eos_token": "<|im_end|>", "chat_template": TEMPLATE}
    return {
        "tokenizer.json": tiny_tokenizer().to_str().encode(),
        "tokenizer_config.json": json.dumps(configuration).encode(),
        "generation_config.json": json.dumps({"eos_token_id": [IM_END, END_OF_TEXT]}).encode(),
    }


def tiny_tokenizer() -> Tokenizer:
    """Return the vocabulary: every byte is a token."""
    vocabulary = {name: byte for byte, name in enumerate(byte_names())}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIALS])
    return tokenizer


def tiny_format(files: Files, model: str) -> Format:
    """Return what the tiny model reads and writes."""
    del model
    tokenizer = LocalTokenizer.of(files)
    ends = frozenset({IM_END})
    template = ChatMl([], IM_START, IM_END, ends)
    return Format(template, tokenizer, partial(tokenizer.detokenizer, ends), SYNTAX)
