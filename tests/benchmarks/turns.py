"""What a turn costs the engine as its conversation grows: `make bench`.

An agent's turn, 2 kB of tool output in and 20 deltas out, is played over conversations of many turns
with a model server that answers at once. Client frames are decoded and server events encoded as the
WebSocket face does; the socket is left out. Figures are CPU time of this process, medians over the
conversations.
"""

import argparse
import asyncio
import statistics
import time
from collections.abc import Sequence

from rich.console import Console
from rich.progress import track
from rich.table import Table

from service.backends.simulator.backend import Simulator
from service.connection import Connection
from service.errors import SessionError
from service.identity import Identity
from tests.engines import engine_of
from turnwire import json_codec
from turnwire.delta import Event, to_json, to_message
from turnwire.v1 import events_pb2

_OUTPUT = "tool output " * 170
_DIRECTIVE = "#sim text 20"


class Counter:
    """A sink that encodes what it is given and remembers how turns ended."""

    def __init__(self) -> None:
        self.bytes = 0
        self.ended: asyncio.Future[str]

    congested = False

    def deliver(self, events: Sequence[Event]) -> None:
        """Encode, and note the end of the turn."""
        for event in events:
            self.bytes += len(to_json(event))
        last = events[-1]
        if isinstance(last, events_pb2.ServerEvent) and last.HasField("completed"):
            self.ended.set_result(to_message(last).completed.response.id)

    async def drained(self) -> None:
        """Never congested."""

    def end(self, error: SessionError) -> None:
        """Nothing to end."""
        del error


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=100, help="turns of a conversation")
    parser.add_argument("--conversations", type=int, default=40)
    arguments = parser.parse_args()
    console = Console()
    table = Table("CPU of a turn", "store: false", "store: true", title="2 kB in, 20 deltas out")
    columns = [
        asyncio.run(_measure(arguments.conversations, arguments.turns, stored))
        for stored in ("false", "true")
    ]
    for turn in (2, 5, 10, 20, 50, 100, 200):
        if turn <= arguments.turns:
            table.add_row(
                f"turn {turn}", *(f"{_around(column, turn) * 1e6:.0f} µs" for column in columns)
            )
    console.print(table)
    for name, column in zip(("false", "true"), columns, strict=True):
        ratio = _around(column, min(20, arguments.turns)) / _around(column, 2)
        console.print(f"store: {name}: turn 20 costs {ratio:.2f} times what turn 2 costs")


async def _measure(conversations: int, turns: int, stored: str) -> list[list[float]]:
    """Return the CPU seconds of every turn, a list per turn number."""
    seconds: list[list[float]] = [[] for _ in range(turns + 1)]
    engine = engine_of(Simulator())
    for _ in track(range(conversations), description=f"store: {stored}", transient=True):
        sink = Counter()
        connection = engine.connect(Identity("bench"), "websocket", sink)
        parent = ""
        for turn in range(1, turns + 1):
            frame = _frame(stored, parent)
            began = time.process_time()
            parent = await _turn(connection, sink, frame)
            seconds[turn].append(time.process_time() - began)
    return seconds


async def _turn(connection: Connection, sink: Counter, frame: bytes) -> str:
    sink.ended = asyncio.get_running_loop().create_future()
    connection.receive(json_codec.decode(events_pb2.ClientEvent, frame))
    return await sink.ended


def _frame(stored: str, parent: str) -> bytes:
    previous = f'"previous_response_id":"{parent}",' if parent else ""
    question = (
        f'[{{"role":"tool","content":"{_OUTPUT}"}},{{"role":"user","content":"{_DIRECTIVE}"}}]'
    )
    return (
        f'{{"type":"response.create","model":"simulator","store":{stored},{previous}'
        f'"input":{question}}}'
    ).encode()


def _around(column: Sequence[Sequence[float]], turn: int) -> float:
    """Return the median of a turn and its neighbours."""
    return statistics.median(
        second for near in column[max(2, turn - 1) : turn + 2] for second in near
    )


if __name__ == "__main__":
    main()
