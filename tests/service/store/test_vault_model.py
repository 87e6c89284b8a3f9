"""Whatever is done to a vault, in whatever order, it is as if a dictionary had been asked."""

import asyncio
import tempfile
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from service import ids
from service.store.vault import Orphaned, Record, VaultLimits
from tests.service.store.conftest import VAULTS, Maker

ANY = st.integers(0, 1_000_000)
_SETTINGS = settings(
    max_examples=60,
    stateful_step_count=30,
    deadline=None,
    phases=[
        Phase.explicit,
        Phase.reuse,
        Phase.generate,
    ],  # not shrink: it takes too long
    suppress_health_check=list(HealthCheck),
)
TENANTS = st.sampled_from(["alice", "bob"])


@dataclass
class Kept:
    record: Record
    deleted: bool = False


class Model(RuleBasedStateMachine):
    """A vault and what should be in it."""

    make: ClassVar[Maker]

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[tuple[str, str], Kept] = {}
        self.names: list[str] = [ids.response_id(None)]
        self.runner = asyncio.Runner()
        self.stack = AsyncExitStack()
        directory = Path(self.stack.enter_context(tempfile.TemporaryDirectory()))
        self.vault = self.runner.run(
            self.stack.enter_async_context(type(self).make(directory, VaultLimits()))
        )

    def teardown(self) -> None:
        self.runner.run(self.stack.aclose())
        self.runner.close()

    @rule(tenant=TENANTS, parent=ANY, alone=st.booleans(), pinned=st.booleans(), path=st.binary())
    def put(self, tenant: str, parent: int, alone: bool, pinned: bool, path: bytes) -> None:
        before = self._name(parent)
        name = ids.response_id(before)
        record = Record(name, "" if alone else before, path, b"response", pinned)
        if record.parent and (tenant, record.parent) not in self.kept:
            with pytest.raises(Orphaned):
                self.runner.run(self.vault.put(tenant, record, None))
            return
        size = self.runner.run(self.vault.put(tenant, record, None))
        self.names.append(name)
        self.kept[tenant, name] = Kept(record)
        assert size.records == self._records(tenant, name)

    @rule(tenant=TENANTS, wanted=ANY)
    def put_again(self, tenant: str, wanted: int) -> None:
        if kept := self.kept.get((tenant, self._name(wanted))):
            again = kept.record._replace(path=b"another")
            self.runner.run(self.vault.put(tenant, again, None))

    @rule(tenant=TENANTS, wanted=ANY, path=st.binary())
    def amend(self, tenant: str, wanted: int, path: bytes) -> None:
        if (kept := self.kept.get((tenant, self._name(wanted)))) is None:
            return
        after = kept.record._replace(parent="", path=path, response=b"")
        self.runner.run(self.vault.amend(tenant, after))
        if not kept.deleted:
            before, kept.record = kept.record.parent, after
            self._prune(tenant, before)

    @rule(tenant=TENANTS, wanted=ANY)
    def delete(self, tenant: str, wanted: int) -> None:
        name = self._name(wanted)
        kept = self.kept.get((tenant, name))
        there = kept is not None and not kept.deleted
        assert self.runner.run(self.vault.delete(tenant, name)) == there
        if kept:
            kept.deleted = True
            self._prune(tenant, name)

    @rule(tenant=TENANTS, wanted=ANY)
    def retrieve(self, tenant: str, wanted: int) -> None:
        kept = self.kept.get((tenant, self._name(wanted)))
        found = self.runner.run(self.vault.retrieve(tenant, self._name(wanted)))
        assert found == (kept.record if kept and not kept.deleted else None)

    @rule(tenant=TENANTS, wanted=ANY, held=st.sets(ANY, max_size=3))
    def path(self, tenant: str, wanted: int, held: set[int]) -> None:
        name, names = self._name(wanted), {self._name(number) for number in held}
        path = self.runner.run(self.vault.path(tenant, name, names - {name}))
        steps = [(step.id, step.parent, step.path) for step in path.steps] if path else []
        assert steps == self._path(tenant, name, names)
        if path:
            assert path.size.records == self._records(tenant, name)

    def _name(self, number: int) -> str:
        return self.names[number % len(self.names)]

    def _path(self, tenant: str, name: str, held: set[str]) -> list[tuple[str, str, bytes]]:
        kept = self.kept.get((tenant, name))
        steps: list[tuple[str, str, bytes]] = []
        if kept is None or kept.deleted:
            return steps
        while kept:
            record = kept.record
            steps.append((record.id, record.parent, record.path))
            kept = None if record.parent in held else self.kept.get((tenant, record.parent))
        return steps

    def _prune(self, tenant: str, name: str) -> None:
        while (kept := self.kept.get((tenant, name))) and kept.deleted and not kept.record.pinned:
            if any(t == tenant and one.record.parent == name for (t, _), one in self.kept.items()):
                return
            del self.kept[tenant, name]
            name = kept.record.parent

    def _records(self, tenant: str, name: str) -> int:
        root = ids.root_of(name)
        return sum(t == tenant and ids.root_of(n) == root for t, n in self.kept)


@pytest.mark.parametrize("name", VAULTS)
def test_a_vault_is_like_a_dictionary(name: str) -> None:
    class OfVault(Model):
        make = VAULTS[name]

    run_state_machine_as_test(OfVault, settings=_SETTINGS)
