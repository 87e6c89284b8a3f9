"""Vocabularies made on the spot, since those of models are not shipped: trained on what is benchmarked.

They have the special tokens that templates ask for, so that each is told in its own form. How long their
words are is true to life; which words they are is not.
"""

from collections.abc import Iterator, Sequence
from functools import cache

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from service.bench.texts import Author
from service.rendering import Files

CHAT_ML_TOKENS = ("<|im_start|>", "<|im_end|>", "<think>", "</think>")
CHAT_ML_JINJA = """\
{%- set last = namespace(asked=-1) -%}
{%- for message in messages -%}
    {%- if message.role == 'user' %}{% set last.asked = loop.index0 %}{% endif -%}
{%- endfor -%}
{%- for tool in tools or [] -%}
    {%- if loop.first %}{{ '<|im_start|>tools\\n' }}{% endif -%}
    {{- tool | tojson }}{{ '<|im_end|>\\n' if loop.last else '\\n' -}}
{%- endfor -%}
{%- for message in messages -%}
    {{- '<|im_start|>' + message.role + '\\n' -}}
    {%- if message.reasoning_content and loop.index0 > last.asked -%}
        {{- '<think>\\n' + message.reasoning_content + '\\n</think>\\n\\n' -}}
    {%- endif -%}
    {{- message.content -}}
    {%- for call in message.tool_calls or [] -%}
        {{- '<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' -}}
        {{- call.function.arguments | tojson }}{{ '}\\n</tool_call>' -}}
    {%- endfor -%}
    {{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif -%}
"""
"""A template of the usual kind: with tools, and thoughts until the user speaks again."""

_WORDS = 6000
_SEED = 7
_SAMPLES = 100
_CHARACTERS = 1500  # of each sample


def made(special: Sequence[str]) -> Files:
    """Return the files of a model that has a vocabulary with these special tokens, and nothing else."""
    vocabulary = Tokenizer.from_str(_trained())
    vocabulary.add_special_tokens([AddedToken(token, normalized=False) for token in special])
    return {"tokenizer.json": vocabulary.to_str().encode()}


@cache
def _trained() -> str:
    """Return a vocabulary without special tokens, of words as GPT-2 cuts them."""
    vocabulary = Tokenizer(models.BPE())
    vocabulary.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    vocabulary.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=_WORDS, initial_alphabet=alphabet, show_progress=False)
    vocabulary.train_from_iterator(_sample(), trainer)
    return str(vocabulary.to_str())


def _sample() -> Iterator[str]:
    """Yield texts such as are benchmarked, though not the same."""
    author = Author(_SEED)
    for _ in range(_SAMPLES):
        yield f"{author.output(_CHARACTERS)}\n{author.prose(_CHARACTERS // 3)}{author.arguments()}"
