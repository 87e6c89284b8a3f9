"""The same agent over both transports, streamed to the terminal, with the figures at the end.

Run it with `python -m compare.demo` while a server listens.
"""

import argparse
import asyncio
import secrets
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from compare.agent import (
    Agent,
    AgentFailed,
    Asked,
    Called,
    Observation,
    Returned,
    Said,
    Step,
    Turn,
    TurnEnded,
)
from compare.clients import Client, Disconnected, GrpcClient, WebSocketClient
from compare.tools import calculator, file_lister, sandbox
from turnwire.v1 import responses_pb2

STEPS = (
    Step("Which files are in the notes folder?", tool="list_files"),
    Step("What is 17 times 23?", tool="calculate"),
    Step("Which files are in the reports folder?", tool="list_files"),
    Step("Write one sentence about the sea."),
)
_DESCRIPTION = (
    "Run the same agent over WebSocket, then over gRPC, and put the figures side by side."
)
_INSTRUCTIONS = "You are a helpful assistant. Answer in one short sentence."
_LONGEST_ANSWER = 48  # tokens: a very small model rambles


@dataclass(frozen=True, slots=True)
class Run:
    """What the agent's work over one transport came to."""

    transport: str
    turns: Sequence[Turn]
    seconds: float


class Screen:
    """Shows what an agent does, as it does it."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._turns = 0
        self._streamed = 0

    def observe(self, observation: Observation) -> None:
        """Show it."""
        match observation:
            case Asked(prompt):
                self._line(f"> {prompt}", "bold")
            case Said(text):
                self._stream(text)
            case Called(name, arguments):
                self._line(f"  {name} {arguments}", "yellow")
            case Returned(output):
                self._line(f"  → {output}", "green")
            case TurnEnded(turn):
                self._turns += 1
                self._line(f"  {_summary(self._turns, turn)}", "dim")

    def _stream(self, text: str) -> None:
        if not self._streamed:
            text = f"  {text.lstrip()}"
        self._streamed += len(text)
        shown = _printable(text).replace("\n", "\n  ")
        self._console.print(Text(shown, "cyan"), end="", soft_wrap=True)

    def _line(self, text: str, style: str) -> None:
        if self._streamed:
            self._console.print()
        self._streamed = 0
        self._console.print(Text(_printable(text), style), soft_wrap=True)


async def demo(
    websocket_url: str,
    grpc_target: str,
    api_key: str | None,
    *,
    console: Console,
    model: str | None = None,
) -> None:
    """Run the agent over each transport and compare. Raises `Disconnected` and `AgentFailed`."""
    runs: list[Run] = []
    with sandbox() as folder:
        for transport, target, client in (
            ("WebSocket", websocket_url, WebSocketClient.connect(websocket_url, api_key)),
            ("gRPC", grpc_target, GrpcClient.connect(grpc_target, api_key)),
        ):
            console.rule(f"[bold]{transport}[/]  [dim]{target}", align="left")
            task = _Task(folder, _settings(model), Screen(console).observe)
            runs.append(await _run(transport, client, task))
            console.print()
    console.print(_table(runs))


@dataclass(frozen=True, slots=True)
class _Task:
    """What the agent is to do, and who watches."""

    folder: Path
    settings: responses_pb2.Settings
    observe: Callable[[Observation], None]


async def _run(transport: str, connecting: AbstractAsyncContextManager[Client], task: _Task) -> Run:
    async with connecting as client:
        tools = [file_lister(task.folder), calculator()]
        agent = Agent(client, task.settings, tools, task.observe)
        began = time.perf_counter()
        await agent.run(STEPS)
        return Run(transport, agent.turns, time.perf_counter() - began)


def _settings(model: str | None) -> responses_pb2.Settings:
    """Return settings whose prompts no earlier run has warmed up: each run pays for its own."""
    return responses_pb2.Settings(
        model=model,
        instructions=f"Session {secrets.token_hex(4)}. {_INSTRUCTIONS}",
        max_output_tokens=_LONGEST_ANSWER,
        temperature=0.0,
        store=False,
    )


def _summary(number: int, turn: Turn) -> str:
    cached = f"{turn.cached_tokens} cached"
    return (
        f"turn {number} · first delta {_milliseconds(turn.first_delta)}"
        f" · turn {_milliseconds(turn.seconds)} · sent {turn.bytes_sent:,} bytes"
        f" · prompt {turn.input_tokens:,} tokens, {cached}"
    )


def _table(runs: Sequence[Run]) -> Table:
    """Put the runs side by side."""
    table = Table(title="The same agent over each transport", title_justify="left")
    table.caption = (
        "First delta: the first piece of text or of a call that arrived. Full replays: what a"
        " server without memory would have had to be sent. One run each, no benchmark."
    )
    table.caption_justify = "left"
    table.add_column("")
    for run in runs:
        table.add_column(run.transport, justify="right")
    for label, figure in _FIGURES.items():
        table.add_row(label, *(figure(run) for run in runs))
    return table


def _later_median(run: Run) -> str:
    return _milliseconds(statistics.median(turn.first_delta for turn in run.turns[1:]))


def _cached_share(run: Run) -> str:
    prompt = sum(turn.input_tokens for turn in run.turns)
    cached = sum(turn.cached_tokens for turn in run.turns)
    return f"{cached / prompt:.0%}" if prompt else "unknown"


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:,.1f} ms"


_FIGURES: dict[str, Callable[[Run], str]] = {
    "turns": lambda run: str(len(run.turns)),
    "first delta, first turn": lambda run: _milliseconds(run.turns[0].first_delta),
    "first delta, later turns (median)": _later_median,
    "total time": lambda run: f"{run.seconds:.2f} s",
    "sent, first turn": lambda run: f"{run.turns[0].bytes_sent:,} bytes",
    "sent, last turn": lambda run: f"{run.turns[-1].bytes_sent:,} bytes",
    "last turn as a full replay": lambda run: f"{run.turns[-1].replay_bytes:,} bytes",
    "sent, all turns": lambda run: f"{sum(t.bytes_sent for t in run.turns):,} bytes",
    "all turns as full replays": lambda run: f"{sum(t.replay_bytes for t in run.turns):,} bytes",
    "prompt tokens": lambda run: f"{sum(turn.input_tokens for turn in run.turns):,}",
    "of these cached": _cached_share,
}


def _printable(text: str) -> str:
    """Keep what a model or a tool says from steering the terminal."""
    return "".join(char if char.isprintable() or char == "\n" else " " for char in text)


def main() -> None:
    """Run the demo from the command line."""
    parser = argparse.ArgumentParser(prog="python -m compare.demo", description=_DESCRIPTION)
    parser.add_argument("--websocket", default="ws://127.0.0.1:8400/v1/responses", metavar="URL")
    parser.add_argument("--grpc", default="127.0.0.1:8401", metavar="HOST:PORT")
    parser.add_argument("--api-key", help="the key to call with; none is needed on loopback")
    parser.add_argument("--model", help="the model to ask for; the server's own choice if left out")
    options = parser.parse_args()
    console = Console(highlight=False)
    running = demo(
        options.websocket, options.grpc, options.api_key, console=console, model=options.model
    )
    try:
        asyncio.run(running)
    except (AgentFailed, Disconnected) as error:
        console.print(Text(f"\n{error}", "red"))
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
