"""What is asked of SQLite's tables. Whoever calls these changes has begun a transaction.

A change that is refused has changed nothing. When a tree was last used is noted only now and then, and
with the next change: so trees live up to a sixteenth longer than they have to.
"""

import json
import sqlite3
from collections.abc import Collection
from typing import NamedTuple

from service import ids
from service.store import Cell, CellName, StoreFull
from service.store.vault import Orphaned, Path, Record, Step, TreeSize, VaultLimits

_COARSE = 1 / 16
"""Of a tree's life: uses nearer to each other are not told apart."""
_SWEPT_TREES, _SWEPT_CELLS = 4, 256
"""What is swept at once."""

_WALK = """
WITH RECURSIVE walk (place, id, parent, path) AS (
    SELECT 1, id, parent, path FROM records WHERE tree = :tree AND id = :id AND NOT deleted
    UNION ALL
    SELECT place + 1, before.id, before.parent, before.path
    FROM walk JOIN records AS before ON before.tree = :tree AND before.id = walk.parent
    WHERE walk.parent NOT IN (SELECT value FROM json_each(:held)) AND place <= :most
)
SELECT id, parent, path FROM walk
"""
_RECORD = """
SELECT id, parent, path, response, pinned FROM records LEFT JOIN responses USING (tree, id)
WHERE tree = ? AND id = ? AND NOT deleted
"""
_ERASABLE = """
SELECT parent, bytes FROM records AS gone
WHERE tree = ? AND id = ? AND deleted AND NOT pinned
    AND NOT EXISTS (SELECT 1 FROM records AS child WHERE child.tree = gone.tree AND child.parent = gone.id)
"""
_SWEEP_CELLS = """
DELETE FROM cells WHERE (tenant, kind, name) IN
    (SELECT tenant, kind, name FROM cells WHERE until <= ? LIMIT ?)
"""
_CHARGE = """
INSERT INTO tenants VALUES (?1, ?2) ON CONFLICT (tenant) DO UPDATE SET bytes = bytes + ?2
"""


class _Tree(NamedTuple):
    """A tree that is alive."""

    number: int
    tenant: str
    used: float
    size: TreeSize


class _Row(NamedTuple):
    """A record, deleted or not."""

    parent: str
    deleted: int
    bytes: int


class Tables:
    """The tables as they are at one time: `now`, in seconds since 1970.

    `touched` takes the trees that were used: they live longer once `touch` has noted it.
    """

    def __init__(
        self, connection: sqlite3.Connection, limits: VaultLimits, now: float, touched: set[int]
    ) -> None:
        self._execute = connection.execute
        self._limits = limits
        self._now = now
        self._touched = touched
        self._dead = now - limits.ttl * (1 + _COARSE)

    def touch(self) -> None:
        """Note which trees were used."""
        for number in self._touched:
            self._execute("UPDATE trees SET used = ? WHERE tree = ?", (self._now, number))
        self._touched.clear()

    def put(self, tenant: str, record: Record, quota: int | None) -> TreeSize:
        """Keep a record. Raises `StoreFull` and `Orphaned`."""
        tree = self._tree(tenant, record.id)
        if tree and self._row(tree, record.id):
            return tree.size
        if record.parent and not (tree and self._row(tree, record.parent)):
            raise Orphaned
        if quota is not None and self._charged(tenant) + record.weight > quota:
            raise StoreFull
        return self._insert(tree or self._planted(tenant, record.id), record)

    def amend(self, tenant: str, record: Record) -> None:
        """Keep a record, in the place of the one with its id."""
        tree = self._tree(tenant, record.id) or self._planted(tenant, record.id)
        if (row := self._row(tree, record.id)) is None:
            self._insert(tree, record)
        elif not row.deleted:
            self._erase(tree, record.id, row.bytes)
            self._insert(tree, record)
            if row.parent != record.parent:
                self._prune(tree, row.parent)

    def path(self, tenant: str, record_id: str, held: Collection[str]) -> Path | None:
        """Return the records of a conversation, as far as they are not held."""
        if (tree := self._tree(tenant, record_id)) is None:
            return None
        ends = json.dumps(["", *held])
        most = self._limits.path_records
        rows = self._execute(
            _WALK, {"tree": tree.number, "id": record_id, "held": ends, "most": most}
        )
        steps, size = [], 0
        for row in rows:
            steps.append(Step(*row))
            size += len(steps[-1].path)
            if len(steps) > most or size > self._limits.path_bytes:
                return None
        if not steps or (steps[-1].parent and steps[-1].parent not in held):
            return None
        return Path(steps, tree.size)

    def retrieve(self, tenant: str, record_id: str) -> Record | None:
        """Return a record."""
        if (tree := self._tree(tenant, record_id)) is None:
            return None
        row = self._execute(_RECORD, (tree.number, record_id)).fetchone()
        return Record(row[0], row[1], row[2], row[3] or b"", bool(row[4])) if row else None

    def delete(self, tenant: str, record_id: str) -> bool:
        """Forget a record, and those before it that only it kept on a path."""
        tree = self._tree(tenant, record_id)
        row = self._row(tree, record_id) if tree else None
        if tree is None or row is None or row.deleted:
            return False
        self._forget_response(tree, record_id)
        self._execute(
            "UPDATE records SET deleted = 1, bytes = length(path) WHERE tree = ? AND id = ?",
            (tree.number, record_id),
        )
        self._prune(tree, record_id)
        return True

    def read(self, name: CellName) -> Cell | None:
        """Return a cell."""
        where = (*name, self._now)
        row = self._execute(
            "SELECT revision, data FROM cells "
            "WHERE tenant = ? AND kind = ? AND name = ? AND until > ?",
            where,
        ).fetchone()
        return Cell(*row) if row else None

    def write(self, name: CellName, cell: Cell, ttl: float) -> bool:
        """Write a cell, if what is there is of the revision before; tell whether it was."""
        now = self.read(name)
        if (now.revision if now else 0) != cell.revision - 1:
            return False
        self._execute(
            "INSERT OR REPLACE INTO cells VALUES (?, ?, ?, ?, ?, ?)",
            (*name, self._now + ttl, *cell),
        )
        return True

    def drop(self, name: CellName) -> bool:
        """Forget a cell; tell whether it was there."""
        there = self.read(name) is not None
        self._execute("DELETE FROM cells WHERE tenant = ? AND kind = ? AND name = ?", name)
        return there

    def sweep(self) -> bool:
        """Erase some of what is too old; tell whether there may be more."""
        dead = self._execute(
            "SELECT tree, tenant, used, records, bytes FROM trees WHERE used < ? LIMIT ?",
            (self._dead, _SWEPT_TREES),
        ).fetchall()
        for number, tenant, used, *size in dead:
            self._fell(_Tree(number, tenant, used, TreeSize(*size)))
        cells = self._execute(_SWEEP_CELLS, (self._now, _SWEPT_CELLS)).rowcount
        return len(dead) == _SWEPT_TREES or cells == _SWEPT_CELLS

    def _tree(self, tenant: str, record_id: str) -> _Tree | None:
        """Return the tree that a record belongs to, if it is alive."""
        row = self._execute(
            "SELECT tree, used, records, bytes FROM trees "
            "WHERE tenant = ? AND root = ? AND used >= ?",
            (tenant, ids.root_of(record_id), self._dead),
        ).fetchone()
        if row is None:
            return None
        number, used, *size = row
        if self._now - used > self._limits.ttl * _COARSE:
            self._touched.add(number)
        return _Tree(number, tenant, used, TreeSize(*size))

    def _planted(self, tenant: str, record_id: str) -> _Tree:
        """Return a new tree, in the place of one that is dead, if there is one."""
        root = ids.root_of(record_id)
        row = self._execute(
            "SELECT tree, used, records, bytes FROM trees WHERE tenant = ? AND root = ?",
            (tenant, root),
        ).fetchone()
        if row:
            number, used, *size = row
            self._fell(_Tree(number, tenant, used, TreeSize(*size)))
        number = self._execute(
            "INSERT INTO trees (tenant, root, used) VALUES (?, ?, ?) RETURNING tree",
            (tenant, root, self._now),
        ).fetchone()[0]
        return _Tree(number, tenant, self._now, TreeSize(0, 0))

    def _fell(self, tree: _Tree) -> None:
        """Erase a tree."""
        for table in ("trees", "records", "responses"):
            self._execute(f"DELETE FROM {table} WHERE tree = ?", (tree.number,))  # noqa: S608 - ours
        self._charge(tree.tenant, -tree.size.bytes)

    def _row(self, tree: _Tree, record_id: str) -> _Row | None:
        row = self._execute(
            "SELECT parent, deleted, bytes FROM records WHERE tree = ? AND id = ?",
            (tree.number, record_id),
        ).fetchone()
        return _Row(*row) if row else None

    def _insert(self, tree: _Tree, record: Record) -> TreeSize:
        key, size = (tree.number, record.id), record.weight
        self._execute(
            "INSERT INTO records (tree, id, parent, pinned, bytes, path) VALUES (?, ?, ?, ?, ?, ?)",
            (*key, record.parent, record.pinned, size, record.path),
        )
        if record.response:
            self._execute("INSERT INTO responses VALUES (?, ?, ?)", (*key, record.response))
        return self._resize(tree, 1, size)

    def _erase(self, tree: _Tree, record_id: str, size: int) -> TreeSize:
        for table in ("records", "responses"):
            self._execute(
                f"DELETE FROM {table} WHERE tree = ? AND id = ?",  # noqa: S608 - ours
                (tree.number, record_id),
            )
        return self._resize(tree, -1, -size)

    def _forget_response(self, tree: _Tree, record_id: str) -> None:
        gone = self._execute(
            "DELETE FROM responses WHERE tree = ? AND id = ? RETURNING length(response)",
            (tree.number, record_id),
        ).fetchone()
        if gone:
            self._resize(tree, 0, -gone[0])

    def _prune(self, tree: _Tree, record_id: str) -> None:
        """Erase a deleted record that nothing continues, and what was kept for it alone."""
        while row := self._execute(_ERASABLE, (tree.number, record_id)).fetchone():
            parent, size = row
            if not self._erase(tree, record_id, size).records:
                self._execute("DELETE FROM trees WHERE tree = ?", (tree.number,))
            record_id = parent

    def _resize(self, tree: _Tree, records: int, size: int) -> TreeSize:
        self._charge(tree.tenant, size)
        row = self._execute(
            "UPDATE trees SET records = records + ?, bytes = bytes + ?, used = ? WHERE tree = ? "
            "RETURNING records, bytes",
            (records, size, self._now, tree.number),
        ).fetchone()
        return TreeSize(*row)

    def _charged(self, tenant: str) -> int:
        row = self._execute("SELECT bytes FROM tenants WHERE tenant = ?", (tenant,)).fetchone()
        return row[0] if row else 0

    def _charge(self, tenant: str, size: int) -> None:
        self._execute(_CHARGE, (tenant, size))
