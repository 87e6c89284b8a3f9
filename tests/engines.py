"""An engine with a simulator's voice and this process's memory, for tests and benchmarks."""

import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry

from service.backends import Backend
from service.cache import Bounds, NodeCache, SegmentCache
from service.engine import Engine, EngineLimits, Policies
from service.metrics import Metrics
from service.router import Router
from service.store import Stores
from service.store.memory import MemoryCells, MemoryConversations, MemoryStore


def stores(budget: int = 1 << 26, clock: Callable[[], float] = time.monotonic) -> Stores:
    bounds = Bounds(budget=budget)
    return Stores(
        responses=MemoryStore(NodeCache(bounds, time.monotonic)),
        conversations=MemoryConversations(SegmentCache(bounds, time.monotonic)),
        cells=MemoryCells(clock),
    )


def engine_of(
    backend: Backend,
    limits: EngineLimits | None = None,
    policies: Policies | None = None,
    registry: CollectorRegistry | None = None,
) -> Engine:
    metrics = Metrics(registry or CollectorRegistry())
    return Engine(
        Router([backend]), stores(), metrics, limits or EngineLimits(), policies or Policies()
    )
