"""What sending token ids saves in front of a real vLLM, turn after turn of a conversation that grows.

Conversations say the same, told as messages, as ids on the chat path, or as ids to be completed; their
turns alternate, so that whatever else the machine does hits all. Tenants differ, and with them the salts:
none finds another's tokens in vLLM's cache. What is measured includes the adapter's own work.

    TEST_VLLM=DIRECTORY python -m tests.vllm.lab serve http
    python -m tests.benchmarks.vllm_turns --url http://127.0.0.1:PORT --tokenizer DIRECTORY/model

What the model computes on a CPU hides the rest. A model that costs next to nothing, with random weights
and a long context, shows it:

    TEST_VLLM=DIRECTORY python -m tests.vllm.lab serve http -- --load-format=dummy --max-model-len=100000 \\
        '--hf-overrides={"num_hidden_layers": 1, "max_position_embeddings": 131072}'
"""

import argparse
import asyncio
import statistics
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.progress import track
from rich.table import Table

from service.backends import Backend
from service.backends.chat.backend import ChatCompletions
from service.backends.chat.server import ChatServer
from service.backends.engines.backend import TokenEngine
from service.backends.engines.files import read_from
from service.backends.engines.vllm_http import VllmHttp
from service.rendering.encodings import Decimal
from service.rendering.formats import format_of
from service.rendering.proof import Proof
from service.rendering.renderer import Renderer
from tests.service.backends.llama_cpp.conversing import user
from tests.vllm.conversation import Conversation

_WAYS = ("messages", "ids", "generate")
_ROWS = 10  # of the table


class Measured(NamedTuple):
    """One turn."""

    waited: float
    """Seconds until the answer began."""
    tokens: int
    cached: int


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True, help="of vLLM")
    parser.add_argument("--tokenizer", required=True, type=Path, help="directory of the model")
    parser.add_argument("--model", default="smollm2", help="its name in vLLM")
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--words", type=int, default=50, help="that every turn adds")
    parser.add_argument("--conversations", type=int, default=3, help="medians are over these")
    _print(asyncio.run(_measure(parser.parse_args())))


async def _measure(arguments: argparse.Namespace) -> list[list[Mapping[str, Measured]]]:
    """Return every turn of every conversation, by way."""
    backends = {way: _backend(way, arguments) for way in _WAYS}
    for backend in backends.values():
        await backend.start()
    measured: list[list[Mapping[str, Measured]]] = []
    for number in track(range(arguments.conversations), "Conversations", transient=True):
        told = {way: Conversation(backend, f"{way}-{number}") for way, backend in backends.items()}
        measured.append([await _turn(told, turn, arguments) for turn in range(arguments.turns)])
    for backend in backends.values():
        await backend.stop()
    return measured


def _backend(way: str, arguments: argparse.Namespace) -> Backend:
    proof = Proof(0, lambda _outcome: None)
    if way == "generate":
        engine = VllmHttp(arguments.url, arguments.tokenizer)
        return TokenEngine(engine, format_of, proof)
    server = ChatServer(url=arguments.url, kind="vllm")
    if way == "messages":
        return ChatCompletions(server)
    found = format_of(read_from(arguments.tokenizer), arguments.model)
    renderer = Renderer(found.template, found.tokenizer, Decimal(), proof)
    return ChatCompletions(replace(server, renderer={arguments.model: renderer}.__getitem__))


async def _turn(
    told: Mapping[str, Conversation], turn: int, arguments: argparse.Namespace
) -> Mapping[str, Measured]:
    """Have one turn in each way; who comes first alternates."""
    said = user(" ".join(f"word{turn * arguments.words + n}" for n in range(arguments.words)))
    measured: dict[str, Measured] = {}
    for way in (*_WAYS[turn % 3 :], *_WAYS[: turn % 3]):
        finished = (await told[way].say(said)).finished
        measured[way] = Measured(told[way].waited, finished.input_tokens, finished.cached_tokens)
    return measured


def _print(measured: list[list[Mapping[str, Measured]]]) -> None:
    turns = list(zip(*measured, strict=True))
    heads = ("turn", "tokens", *_WAYS, *(f"cached {way}" for way in _WAYS))
    table = Table(*heads, title="Until an answer begins, and tokens of its prompt that were cached")
    for number in range(0, len(turns), max(1, len(turns) // _ROWS)):
        table.add_row(str(number + 1), *_cells(turns[number]))
    console = Console()
    console.print(table)
    for way in _WAYS[1:]:
        late = [_ratio(one, way) for turn in turns[len(turns) // 2 :] for one in turn]
        told = f"{statistics.median(late):.2f} times what messages take"
        console.print(f"{way}: {told} (median of the second half)")


def _cells(turn: tuple[Mapping[str, Measured], ...]) -> list[str]:
    waits = [f"{statistics.median(one[way].waited for one in turn) * 1e3:.0f} ms" for way in _WAYS]
    cached = [str(statistics.median_low([one[way].cached for one in turn])) for way in _WAYS]
    return [str(turn[0]["ids"].tokens), *waits, *cached]


def _ratio(one: Mapping[str, Measured], way: str) -> float:
    return one[way].waited / one["messages"].waited


if __name__ == "__main__":
    main()
