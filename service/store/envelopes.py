"""Records closed for a vault, and opened again: sealed where they belong, large ones in a thread.

What does not open was edited or moved, or its key is gone: it is counted, and nobody is served it.
"""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, TypeVar

from google.protobuf.message import DecodeError, Message
from prometheus_client import Counter

from service import ids
from service.conversation import DurableNode
from service.sealing import Unsealed
from service.store import Cell, records
from service.store.records import Base
from service.store.sealed import Place, Purpose, Sealer
from service.store.vault import Record, Step
from turnwire.v1 import state_pb2

T = TypeVar("T")
M = TypeVar("M", state_pb2.StoredPath, state_pb2.StoredResponse, state_pb2.StoredConversation)

_LARGE = 64 * 1024
"""Bytes from which on the event loop must not be held up by them."""


class Opened(NamedTuple):
    """A record that was opened."""

    path: state_pb2.StoredPath
    response: state_pb2.StoredResponse


class Continuing(NamedTuple):
    """A node as it is to be continued, and what else its record says."""

    node: DurableNode
    withdrawn: bool
    """Whether its response was deleted, and only a conversation goes on from it."""
    first_bytes: int
    """How many bytes its tree begins with; 0 if that is not known."""


class Unreadable(Exception):
    """A record cannot be opened, or is of a later version: it counts as absent."""


class Envelopes:
    """Closes and opens records. `tampered` counts what does not open."""

    def __init__(self, sealer: Sealer, tampered: Counter) -> None:
        self._sealer = sealer
        self._tampered = tampered

    async def closed(self, node: DurableNode, path: state_pb2.StoredPath, parent: str) -> Record:
        """Return the record of a node: `path` is read after that of the record `parent`, if there is one."""
        size = path.ByteSize() + len(node.response_data) + len(node.trace_data)
        return await _beside(size, partial(self._closed, node, path, parent))

    def withdrawn(self, tenant: str, record: Record, path: state_pb2.StoredPath) -> Record:
        """Return a record without its response, which was deleted."""
        path.withdrawn = True
        sealed = self._seal(_place(tenant, "path", record.id, record.parent), path)
        return record._replace(path=sealed, response=b"")

    async def continuing(self, tenant: str, steps: Sequence[Step], base: Base) -> Continuing:
        """Return the node of a path's first step, which reaches back to `base`. Raises `Unreadable`."""
        size = sum(len(step.path) for step in steps)
        return await _beside(size, partial(self._continuing, tenant, steps, base))

    async def record(self, tenant: str, record: Record) -> Opened:
        """Open a record with its response. Raises `Unreadable`."""
        size = len(record.path) + len(record.response)
        return await _beside(size, partial(self._opened, tenant, record))

    def closed_conversation(
        self, tenant: str, name: str, revision: int, kept: state_pb2.StoredConversation
    ) -> bytes:
        """Close what a conversation's cell says in one revision."""
        return self._seal(Place(tenant, "conversation", "", name, str(revision)), kept)

    def conversation(self, tenant: str, name: str, cell: Cell) -> state_pb2.StoredConversation:
        """Open a conversation's cell. Raises `Unreadable`."""
        place = Place(tenant, "conversation", "", name, str(cell.revision))
        return _read(state_pb2.StoredConversation, self._open(place, cell.data))

    def _closed(self, node: DurableNode, path: state_pb2.StoredPath, parent: str) -> Record:
        response = b""
        if node.response_data:
            place = _place(node.tenant, "response", node.id, parent)
            response = self._seal(place, records.response(node))
        sealed = self._seal(_place(node.tenant, "path", node.id, parent), path)
        return Record(node.id, parent, sealed, response, node.pinned)

    def _continuing(self, tenant: str, steps: Sequence[Step], base: Base) -> Continuing:
        paths = [self._path(tenant, step) for step in steps]
        node = records.continuing(tenant, steps[0].id, paths, base)
        return Continuing(node, paths[0].withdrawn, paths[0].first_bytes)

    def _opened(self, tenant: str, record: Record) -> Opened:
        path = self._path(tenant, Step(record.id, record.parent, record.path))
        place = _place(tenant, "response", record.id, record.parent)
        return Opened(path, _read(state_pb2.StoredResponse, self._open(place, record.response)))

    def _path(self, tenant: str, step: Step) -> state_pb2.StoredPath:
        place = _place(tenant, "path", step.id, step.parent)
        return _read(state_pb2.StoredPath, self._open(place, step.path))

    def _seal(self, place: Place, kept: Message) -> bytes:
        return self._sealer.seal(place, kept.SerializeToString())

    def _open(self, place: Place, sealed: bytes) -> bytes:
        try:
            return self._sealer.open(place, sealed)
        except Unsealed:
            self._tampered.inc()
            raise Unreadable from None


def _place(tenant: str, purpose: Purpose, name: str, parent: str) -> Place:
    return Place(tenant, purpose, ids.root_of(name), name, parent)


def _read(kind: type[M], data: bytes) -> M:
    """Read a message of a version that is known here."""
    try:
        kept = kind.FromString(data)
    except DecodeError:  # a later version's, as far as it goes
        raise Unreadable from None
    if kept.version > records.VERSION:
        raise Unreadable
    return kept


async def _beside(size: int, work: Callable[[], T]) -> T:
    """Do work on so many bytes without holding up the loop."""
    return await asyncio.to_thread(work) if size >= _LARGE else work()
