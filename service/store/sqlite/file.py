"""SQLite's file: how it is opened, who may read it, and which version of the tables is in it."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

_VERSION = 1
"""Of the tables. It goes up with any change that an older process could not work with."""
_MODE = 0o600
_BUSY_SECONDS = 2.0
"""For another process to end its transaction."""
_PAGE = 8192
_CACHE_KIB = 16 * 1024
_WAL_BYTES = 64 * 1024 * 1024

_SETTINGS = f"""
PRAGMA page_size = {_PAGE};
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
PRAGMA secure_delete = ON;
PRAGMA temp_store = MEMORY;
PRAGMA cache_size = -{_CACHE_KIB};
PRAGMA journal_size_limit = {_WAL_BYTES};
"""

_TABLES = """
CREATE TABLE trees (
    tree INTEGER PRIMARY KEY, tenant TEXT NOT NULL, root TEXT NOT NULL, used REAL NOT NULL,
    records INTEGER NOT NULL DEFAULT 0, bytes INTEGER NOT NULL DEFAULT 0, UNIQUE (tenant, root)
);
CREATE INDEX trees_used ON trees (used);
CREATE TABLE records (
    tree INTEGER NOT NULL, id TEXT NOT NULL, parent TEXT NOT NULL, pinned INTEGER NOT NULL,
    deleted INTEGER NOT NULL DEFAULT 0, bytes INTEGER NOT NULL, path BLOB NOT NULL,
    PRIMARY KEY (tree, id)
) WITHOUT ROWID;
CREATE INDEX records_parent ON records (tree, parent);
CREATE TABLE responses (
    tree INTEGER NOT NULL, id TEXT NOT NULL, response BLOB NOT NULL, PRIMARY KEY (tree, id)
) WITHOUT ROWID;
CREATE TABLE tenants (tenant TEXT PRIMARY KEY, bytes INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE cells (
    tenant TEXT NOT NULL, kind TEXT NOT NULL, name TEXT NOT NULL, until REAL NOT NULL,
    revision INTEGER NOT NULL, data BLOB NOT NULL, PRIMARY KEY (tenant, kind, name)
) WITHOUT ROWID;
CREATE INDEX cells_until ON cells (until);
"""


class BadStoreFile(ValueError):
    """The operator has to mend something: says what. Trying again does not help."""


def opened(path: Path) -> sqlite3.Connection:
    """Open the file, and make it if it is not there: only its owner may read it.

    Raises `BadStoreFile`, `sqlite3.Error` and `OSError`.
    """
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _MODE))
    connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None)
    try:
        _prepare(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    try:
        for setting in _SETTINGS.split(";"):
            connection.execute(setting)
        version = _version(connection)
    except sqlite3.OperationalError:  # of the kinds that pass
        raise
    except sqlite3.DatabaseError:
        raise BadStoreFile(f"{path} is not an SQLite database, or it is damaged") from None
    if version > _VERSION:
        raise BadStoreFile(
            f"{path} was written by a newer version of Turnwire: its tables are of version {version}, "
            f"this one knows {_VERSION}. Upgrade, or choose another file"
        )
    if version == 0:
        _make_tables(connection, path)


def _make_tables(connection: sqlite3.Connection, path: Path) -> None:
    connection.execute("BEGIN IMMEDIATE")
    with connection:
        if _version(connection):
            return  # another process was first
        if connection.execute("SELECT 1 FROM sqlite_schema").fetchone():
            raise BadStoreFile(f"{path} has tables that are not Turnwire's. Choose another file")
        for statement in _TABLES.split(";"):
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {_VERSION}")


def _version(connection: sqlite3.Connection) -> int:
    with closing(connection.execute("PRAGMA user_version")) as rows:
        return int(rows.fetchone()[0])
