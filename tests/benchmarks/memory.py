"""Whether what conversations are said to weigh is what they cost: `python -m tests.benchmarks.memory`.

Caches are filled with conversations of several shapes, each in a process of its own, and what the
ledger says is compared with what the process grew by.
"""

import argparse
import json
import os
import random
import subprocess
import sys
from dataclasses import dataclass
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from service.cache import Bounds, NodeCache
from service.conversation import DurableNode, Node, Rendered, Segment
from service.ids import draw, response_id
from service.memory import Memory, MemoryLimits, heap
from service.memory.process import this_process
from turnwire.v1 import items_pb2, responses_pb2

_MUCH = 1 << 40
_SEED = 20
_DEADLINE = 120.0


@dataclass(frozen=True, slots=True)
class Shape:
    """Conversations: how many, of how many turns, and what a turn adds, in bytes."""

    conversations: int
    turns: int
    said: int
    answered: int = 200
    stored: bool = False
    rendered: int = 0
    forks: int = 0
    """Of the last turn of every conversation."""
    calls: int = 0
    """That every node waits for."""


SHAPES = {
    "one tiny turn": Shape(12_000, 1, 20, 20),
    "tiny turns": Shape(1_500, 20, 20, 20),
    "tiny turns, stored": Shape(800, 20, 20, 20, stored=True),
    "4 KiB turns": Shape(500, 30, 4096),
    "4 KiB turns, stored": Shape(400, 20, 4096, stored=True),
    "200 kB tool results": Shape(60, 8, 200_000),
    "forks": Shape(20, 20, 4096, forks=1_500),
    "rendered twice": Shape(400, 20, 4096, rendered=2),
    "calls": Shape(2_000, 5, 200, calls=8),
}


class Weights(NamedTuple):
    """Bytes: by the ledger, and by the system."""

    held: int
    resident: int

    @property
    def factor(self) -> float:
        """How many bytes of memory one of the ledger's is."""
        return self.resident / self.held


class Filled:
    """Caches as a service has them: a connection's for each conversation, and the store's."""

    def __init__(self) -> None:
        self.memory = Memory(MemoryLimits(budget=_MUCH))
        self._bounds = Bounds(budget=_MUCH)
        self._store = self.memory.shared(NodeCache, self._bounds, lambda _: None)
        self._connections: list[NodeCache] = []
        self._random = random.Random(_SEED)

    def fill(self, shape: Shape) -> None:
        """Hold as many conversations as the shape says."""
        for _ in range(shape.conversations):
            cache = self.memory.cache(NodeCache, self._bounds, lambda _: None)
            self._connections.append(cache)
            node: Node | None = None
            for _ in range(shape.turns):
                node = self._keep(cache, shape, node)
            for _ in range(shape.forks):
                self._keep(cache, shape, node)

    def _keep(self, cache: NodeCache, shape: Shape, parent: Node | None) -> Node:
        node = self._node(shape, parent)
        cache.put(node)
        if isinstance(node, DurableNode):
            self._store.put(node)
        return node

    def _node(self, shape: Shape, parent: Node | None) -> Node:
        items = [self._item("user", shape.said), self._item("assistant", shape.answered)]
        size = shape.said + shape.answered
        rendered = {
            f"dialect {number}": Rendered(self._random.randbytes(size), size // 4)
            for number in range(shape.rendered)
        }
        segment = Segment(parent.segment if parent else None, items, rendered)
        node = Node(
            tenant="tenant",
            id=response_id(parent.id if parent else None),
            parent_id=parent.id if parent else None,
            segment=segment,
            inputs=1,
            pending_calls=frozenset(draw("call") for _ in range(shape.calls)),
            tokens=self._random.randrange(1000, 100_000),
        )
        return _durable(node, items[1:]) if shape.stored else node

    def _item(self, role: str, size: int) -> items_pb2.Item:
        text = self._random.randbytes(size // 2 + 1).hex()[:size]
        return items_pb2.Item(message=items_pb2.Message(role=role, content_text=text))


def _durable(node: Node, output: list[items_pb2.Item]) -> DurableNode:
    response = responses_pb2.Response(id=node.id, output=output)
    return DurableNode(
        tenant=node.tenant,
        id=node.id,
        parent_id=node.parent_id,
        segment=node.segment,
        inputs=node.inputs,
        pending_calls=node.pending_calls,
        tokens=node.tokens,
        response_data=response.SerializeToString(),
        trace_data=bytes(50),
    )


def weigh(name: str) -> Weights:
    """Fill caches with conversations of a shape, in a process of their own."""
    command = [sys.executable, "-m", "tests.benchmarks.memory", "--shape", name]
    path = {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        command, env=os.environ | path, capture_output=True, check=True, timeout=_DEADLINE
    )
    return Weights(*json.loads(done.stdout))


def main() -> None:
    """Print the table, or fill caches with one shape and print its weights."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, help="only this one, in this process")
    if name := parser.parse_args().shape:
        sys.stdout.write(json.dumps(_weigh_here(SHAPES[name])))
        return
    table = Table("conversations", "ledger", "memory", "factor", title="What conversations weigh")
    for name in SHAPES:
        weights = weigh(name)
        table.add_row(name, *(f"{b >> 20} MiB" for b in weights), f"{weights.factor:.2f}")
    Console().print(table)


def _weigh_here(shape: Shape) -> Weights:
    filled = Filled()
    filled.fill(Shape(10, 2, 20, stored=True))  # what is only made once
    before = _resident()
    filled.fill(shape)
    heap.collect()
    heap.give_back()
    return Weights(filled.memory.held, _resident() - before)


def _resident() -> int:
    usage = this_process().usage()
    assert usage
    return usage.resident


if __name__ == "__main__":
    main()
