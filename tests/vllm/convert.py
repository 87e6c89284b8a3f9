"""Turn a GGUF file into a directory that vLLM loads. Runs in vLLM's environment, not in ours."""

import sys
from pathlib import Path

import torch  # type: ignore[import-not-found]
from transformers import (  # type: ignore[import-not-found]
    AutoModelForCausalLM,
    AutoTokenizer,
)

_RENAMED = {"<jupyter_start>": "<think>", "<jupyter_text>": "</think>"}
"""Tokens that nothing here has a use for, so that vLLM's reasoning parsers find theirs."""


def convert(gguf: Path, template: Path, target: Path) -> None:
    """Write weights in bfloat16, the tokenizer, and the chat template."""
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16
    )
    del model.hf_quantizer, model.config.quantization_config  # it is not quantised any more
    model.save_pretrained(target)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    tokenizer.chat_template = template.read_text()
    tokenizer.save_pretrained(target)
    _rename_tokens(target / "tokenizer.json")


def _rename_tokens(tokenizer: Path) -> None:
    text = tokenizer.read_text()
    for name, new in _RENAMED.items():
        text = text.replace(f'"{name}"', f'"{new}"')
    tokenizer.write_text(text)


if __name__ == "__main__":
    convert(*map(Path, sys.argv[1:]))
