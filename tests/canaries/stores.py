"""Stores as sinks: what a real Valkey and a real SQLite hold, wrote down, and were asked."""

import contextlib
import socket
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Protocol

from tests.canaries.sinks import Files, Kept, Sink
from tests.valkeys import ValkeyServer

_WRITES = (
    *("--appendonly", "yes", "--appendfsync", "always", "--rdbcompression", "no"),
    *("--slowlog-log-slower-than", "0", "--slowlog-max-len", "100000"),
)
"""All that a server can write down, as readable as it gets."""
_PIECE = 64 * 1024


class StoreWatch(Protocol):
    """A store that is being watched."""

    settings: dict[str, str]

    def kept(self) -> int:
        """Return how many records and cells are in it."""

    def sinks(self) -> list[Sink]:
        """Return what is to be searched; nothing is written any more."""


class WatchedValkey:
    """A Valkey that writes everything down, and everything it is asked."""

    def __init__(self, server: ValkeyServer, asked: Kept) -> None:
        self.settings = {"store": "valkey", "store_url": server.url}
        self._server = server
        self._asked = asked

    def kept(self) -> int:
        return int(self._server.run("DBSIZE"))

    def sinks(self) -> list[Sink]:
        self._server.run("SAVE")
        folder = self._server.directory
        return [
            _Held(self._server),
            self._asked,
            Files("Valkey: its snapshot on disk (RDB)", [folder / "dump.rdb"], b"turnwire"),
            Files(
                "Valkey: its log of writes on disk (AOF)", [folder / "appendonlydir"], b"turnwire"
            ),
            Files("Valkey: all else in its directory", [folder], b"server.log"),
        ]


@contextmanager
def watched_valkey(flavour: str = "valkey-9") -> Iterator[WatchedValkey]:
    """Run a server for as long as the context lasts."""
    server = ValkeyServer(flavour, _WRITES)
    try:
        server.start()
        with _monitored(server) as asked:
            yield WatchedValkey(server, asked)
    finally:
        server.remove()


@contextmanager
def _monitored(server: ValkeyServer) -> Iterator[Kept]:
    """Keep all that a server is asked."""
    asked = Kept("Valkey: all that it was asked (MONITOR)", b"FCALL")
    with closing(socket.create_connection(("127.0.0.1", server.port))) as connection:
        connection.sendall(b"MONITOR\r\n")
        listening = threading.Thread(target=_listen, args=(connection, asked), daemon=True)
        listening.start()
        yield asked
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        listening.join(10)


def _listen(connection: socket.socket, asked: Kept) -> None:
    with contextlib.suppress(OSError):
        while heard := connection.recv(_PIECE):
            asked.keep(heard)


class _Held:
    """Everything a server holds and can tell: keys, values, dumps, its slow log and its clients."""

    name = "Valkey: keys, values, dumps, slow log, clients"
    witness = b"redis_version"

    def __init__(self, server: ValkeyServer) -> None:
        self._server = server

    def pieces(self) -> Iterator[bytes]:
        with self._server.client() as client:
            for key in client.scan_iter(count=1000):
                yield b"\n".join([key, client.dump(key) or b"", *_values(client, key)])
            for asked in ("INFO", "SLOWLOG GET -1", "CLIENT LIST", "FUNCTION LIST"):
                yield repr(client.execute_command(*asked.split())).encode()

    def plant(self, text: str) -> None:
        self._server.run("HSET", "planted", "field", text)


def _values(client: Any, key: bytes) -> list[bytes]:
    match client.type(key):
        case b"hash":
            return [part for pair in client.hgetall(key).items() for part in pair]
        case b"string":
            return [client.get(key) or b""]
    return []


class WatchedSqlite:
    """A file of SQLite's, and those that stand beside it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self._path = folder / "turnwire.db"
        self._folder = folder
        self.settings = {"store": "sqlite", "store_file": str(self._path)}

    def kept(self) -> int:
        return sum(rows for _, rows in self._tables())

    def sinks(self) -> list[Sink]:
        return [
            Files("SQLite: the file, its log and its index", [self._folder], b"SQLite format 3"),
            _Rows(self._path),
        ]

    def _tables(self) -> Iterator[tuple[str, int]]:
        with closing(sqlite3.connect(f"file:{self._path}?mode=ro", uri=True)) as db:
            for (table,) in db.execute(_TABLES).fetchall():
                yield table, db.execute(f'SELECT count(*) FROM "{table}"').fetchone()[0]


_TABLES = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"


class _Rows:
    """Every value of every row: where a page ends, what stands in the file is cut in two."""

    name = "SQLite: all values of all rows"
    witness = b"CREATE TABLE"

    def __init__(self, path: Path) -> None:
        self._path = path

    def pieces(self) -> Iterator[bytes]:
        with closing(sqlite3.connect(self._path)) as db:
            yield from _flat(db.execute("SELECT sql FROM sqlite_master"))
            for (table,) in db.execute(_TABLES).fetchall():
                yield from _flat(db.execute(f'SELECT * FROM "{table}"'))

    def plant(self, text: str) -> None:
        with closing(sqlite3.connect(self._path)) as db:
            db.execute("CREATE TABLE planted (text)")
            db.execute("INSERT INTO planted VALUES (?)", (text,))
            db.commit()


def _flat(rows: Any) -> Iterator[bytes]:
    for row in rows:
        yield b"\n".join(
            value if isinstance(value, bytes) else str(value).encode() for value in row
        )
