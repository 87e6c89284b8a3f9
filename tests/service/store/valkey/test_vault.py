"""What only a vault in Valkey can do wrong. What all vaults do is in the suite."""

import asyncio
import json
from pathlib import Path

import pytest
import valkey

from service.metrics import Metrics
from service.store import Cell, CellName, StoreFull, StoreUnavailable
from service.store.valkey import ValkeyVault
from service.store.valkey.caller import Demands
from service.store.valkey.functions import LIBRARY
from service.store.vault import VaultLimits
from tests.service.identity.authority import Authority
from tests.service.store.valkey.vaults import TENANT, chain, opened, record, shared
from tests.valkeys import ValkeyServer, free_port, running

CANARY = "canary-3f9a"


def calls(server: ValkeyServer) -> dict[str, int]:
    """Return how often each command was called, also from within functions."""
    with server.client() as client:
        return {
            name.removeprefix("cmdstat_"): found["calls"]
            for name, found in client.info("commandstats").items()
        }


async def test_a_conversation_of_500_turns_is_one_round_trip(
    server: ValkeyServer, vault: ValkeyVault
) -> None:
    records = await chain(vault, 500)
    server.run("CONFIG RESETSTAT")
    path = await vault.path(TENANT, records[-1].id, [])
    assert path is not None
    assert [step.id for step in path.steps] == [one.id for one in reversed(records)]
    asked = {name for name in calls(server) if name in {"fcall", "eval", "hgetall", "get"}}
    assert asked == {"fcall"}
    assert calls(server)["fcall"] == 1


async def test_what_is_held_already_is_not_sent_again(
    server: ValkeyServer, vault: ValkeyVault
) -> None:
    records = await chain(vault, 50)
    server.run("CONFIG RESETSTAT")
    path = await vault.path(TENANT, records[-1].id, [records[-3].id, records[10].id])
    assert path is not None
    assert [step.id for step in path.steps] == [records[-1].id, records[-2].id]
    assert path.size.records == 50
    assert calls(server)["hmget"] == 2


async def test_hydrating_does_not_ship_responses(server: ValkeyServer, vault: ValkeyVault) -> None:
    large = record(response=bytes(1_000_000))
    await vault.put(TENANT, large, None)
    server.run("CONFIG RESETSTAT")
    assert await vault.path(TENANT, large.id, [])
    with server.client() as client:
        assert client.info("stats")["total_net_output_bytes"] < 10_000


async def test_a_path_that_is_too_long_counts_as_absent(server: ValkeyServer) -> None:
    async with opened(server.url, limits=VaultLimits(path_records=3)) as vault:
        records = await chain(vault, 4)
        assert await vault.path(TENANT, records[2].id, [])
        assert await vault.path(TENANT, records[3].id, []) is None
    async with opened(server.url, limits=VaultLimits(path_bytes=8)) as vault:
        assert await vault.path(TENANT, records[1].id, [])
        assert await vault.path(TENANT, records[2].id, []) is None


async def test_the_server_is_told_no_name_that_anybody_chose(
    server: ValkeyServer, vault: ValkeyVault
) -> None:
    with server.client() as client, client.monitor() as monitor:
        name = CellName(CANARY, "conversation", CANARY)
        await vault.write(name, Cell(1, b"sealed"), 60.0)
        await vault.read(name)
        await vault.put(CANARY, record(), 10_000)
        await vault.drop(name)
        server.run("ECHO", "the end")
        seen = []
        while "the end" not in (said := monitor.next_command()["command"]):
            seen.append(said)
    assert len([said for said in seen if said.startswith("FCALL")]) == 5
    assert CANARY not in "\n".join(seen)


async def test_absurd_ids_are_not_looked_up(server: ValkeyServer, vault: ValkeyVault) -> None:
    server.run("CONFIG RESETSTAT")
    absurd = "resp_" + "x" * 100_000
    assert await vault.path(TENANT, absurd, []) is None
    assert await vault.retrieve(TENANT, absurd) is None
    assert not await vault.delete(TENANT, absurd)
    assert "fcall" not in calls(server)


async def test_whoever_uses_a_tree_keeps_all_of_it(server: ValkeyServer) -> None:
    async with opened(server.url, limits=VaultLimits(ttl=1000.0)) as vault:
        (only,) = await chain(vault, 1)
        (key,) = server.run("KEYS", "*")
        for use in (vault.path(TENANT, only.id, []), vault.retrieve(TENANT, only.id)):
            server.run("PEXPIRE", key, 100_000)
            assert await use
            assert server.run("PTTL", key) > 900_000


async def test_everything_that_is_kept_has_an_end(server: ValkeyServer, vault: ValkeyVault) -> None:
    await vault.put(TENANT, record(), 1000)
    await vault.amend(TENANT, record())
    await vault.write(CellName(TENANT, "kind", "name"), Cell(1, b""), 60.0)
    await vault.write(CellName(TENANT, "kind", "gone"), Cell(1, b""), 60.0)
    await vault.drop(CellName(TENANT, "kind", "gone"))
    keys = server.run("KEYS", "*")
    assert len(keys) == 5
    assert all(server.run("PTTL", key) > 0 for key in keys)


async def test_what_is_erased_leaves_nothing_but_that_it_was(
    server: ValkeyServer, vault: ValkeyVault
) -> None:
    only = record(path=b"sealed-path", response=b"sealed-response")
    await vault.put(TENANT, only, None)
    assert await vault.delete(TENANT, only.id)
    (key,) = server.run("KEYS", "*")
    left = server.run("HGETALL", key)
    assert {name for name in left if not name.startswith(b"#")} == {b"x" + only.id.encode()}
    assert not any(b"sealed" in value for value in left.values())
    assert await vault.put(TENANT, only, None) == (0, 0)
    assert await vault.retrieve(TENANT, only.id) is None


async def test_a_quota_counts_what_is_new_once(vault: ValkeyVault) -> None:
    first, second = record(path=bytes(400)), record(path=bytes(400))
    for _ in range(3):
        await vault.put(TENANT, first, 1000)
    await vault.put(TENANT, second, 1000)
    with pytest.raises(StoreFull):
        await vault.put(TENANT, record(path=bytes(400)), 1000)
    await vault.put("another", record(path=bytes(400)), 1000)


async def test_deleting_makes_room_in_a_quota(vault: ValkeyVault) -> None:
    first = record(path=bytes(900))
    await vault.put(TENANT, first, 1000)
    with pytest.raises(StoreFull):
        await vault.put(TENANT, record(path=bytes(900)), 1000)
    await vault.delete(TENANT, first.id)
    await vault.put(TENANT, record(path=bytes(900)), 1000)


async def test_operations_are_counted_by_what_became_of_them(
    vault: ValkeyVault, metrics: Metrics
) -> None:
    (only,) = await chain(vault, 1)
    assert await vault.path(TENANT, only.id, [])
    assert await vault.retrieve(TENANT, record().id) is None
    with pytest.raises(StoreFull):
        await vault.put(TENANT, record(), 1)

    def count(operation: str, result: str) -> float | None:
        labels = {"operation": operation, "result": result}
        return metrics.registry.get_sample_value("turnwire_store_operations_total", labels)

    assert count("put", "ok") == 1
    assert count("put", "quota") == 1
    assert count("hydrate", "ok") == 1
    assert count("retrieve", "miss") == 1
    acknowledged = metrics.registry.get_sample_value(
        "turnwire_store_acknowledged_total", {"level": "primary"}
    )
    assert acknowledged == 1


async def test_an_answer_that_nobody_waited_for_is_never_anothers(vault: ValkeyVault) -> None:
    """Whoever gives up leaves an answer on its connection: that must not be read by the next."""
    records = [record(path=f"path {number}".encode()) for number in range(8)]
    for one in records:
        await vault.put(TENANT, one, None)
    for round_ in range(40):
        asked = [asyncio.ensure_future(vault.path(TENANT, one.id, [])) for one in records]
        for _ in range(round_ % 8):
            await asyncio.sleep(0)
        for given_up in asked[::2]:
            given_up.cancel()
        answers = await asyncio.gather(*asked, return_exceptions=True)
        for one, answer in zip(records[1::2], answers[1::2], strict=True):
            assert not isinstance(answer, BaseException)
            assert answer is not None
            assert answer.steps[0].path == one.path


async def test_more_at_once_than_connections_wait_their_turn(
    server: ValkeyServer, vault: ValkeyVault
) -> None:
    (only,) = await chain(vault, 1)
    found = await asyncio.gather(*(vault.retrieve(TENANT, only.id) for _ in range(500)))
    assert all(found)
    with server.client() as client:
        assert client.info("clients")["connected_clients"] <= 70


async def test_functions_that_were_lost_are_given_again(
    server: ValkeyServer, vault: ValkeyVault
) -> None:
    (only,) = await chain(vault, 1)
    server.run("FUNCTION FLUSH")
    assert await vault.retrieve(TENANT, only.id)
    server.run("FUNCTION FLUSH")
    assert await vault.put(TENANT, record(only), None) == (2, 10)


async def test_two_versions_use_the_same_server_side_by_side(
    server: ValkeyServer, vault: ValkeyVault
) -> None:
    name = LIBRARY.split("name=")[1].split("\n")[0]
    digest = name.removeprefix("turnwire_")
    server.run("FUNCTION", "LOAD", "REPLACE", LIBRARY.replace(digest, "0" * len(digest)))
    (only,) = await chain(vault, 1)
    assert await vault.retrieve(TENANT, only.id)
    with server.client() as client:
        assert len(client.execute_command("FUNCTION LIST")) == 2


ACL = Path("docs/valkey.md")


def documented_acl() -> list[str]:
    """Return the rules that the manual gives a user."""
    line = next(line for line in ACL.read_text().splitlines() if line.startswith("ACL SETUSER"))
    return line.split()[4:]


async def test_a_user_with_the_documented_rights_can_do_everything() -> None:
    with running("valkey-9") as server:
        server.run("ACL SETUSER", "turnwire", "on", ">pw%", *documented_acl())
        url = f"valkey://turnwire:pw%25@{server.address}/0"
        async with opened(url) as vault:
            first, second = await chain(vault, 2)
            await vault.put(TENANT, record(second), 1000)
            await vault.amend(TENANT, second)
            assert await vault.path(TENANT, second.id, [])
            assert await vault.retrieve(TENANT, first.id)
            assert await vault.delete(TENANT, first.id)
            name = CellName(TENANT, "kind", "name")
            assert await vault.write(name, Cell(1, b"x"), 60.0)
            assert await vault.read(name)
            assert await vault.drop(name)
        with server.client(username="turnwire", password="pw%") as client:
            for forbidden in (
                ["GET", "other"],
                ["KEYS", "*"],
                ["FLUSHALL"],
                ["CONFIG", "GET", "*"],
            ):
                with pytest.raises(valkey.exceptions.NoPermissionError):
                    client.execute_command(*forbidden)


async def advice(url: str) -> str:
    """Return what an operator is told whose store cannot be started."""
    quick = Demands(timeout=0.3, deadline=0.3)
    with pytest.raises(StoreUnavailable) as refused:
        async with opened(url, quick):
            pass
    return json.dumps([refused.value.__notes__, refused.value.message])


async def test_who_cannot_start_is_told_what_to_do_and_never_a_password() -> None:
    with running("valkey-9", "--requirepass", "right") as server:
        assert "password" in await advice(f"valkey://:{CANARY}@{server.address}")
        assert CANARY not in await advice(f"valkey://:{CANARY}@{server.address}")
        assert "password" in await advice(f"valkey://nobody:{CANARY}@{server.address}")
        assert "password" in await advice(server.url)
        async with opened(f"valkey://:right@{server.address}") as vault:
            vault.check()
    assert "does it run" in await advice(server.url)


async def test_who_cannot_start_for_another_reason_is_told_it() -> None:
    server = shared("valkey-9")
    assert "is it a cluster" in await advice(f"valkey+cluster://{server.address}")
    with running("valkey-9", "--cluster-enabled", "yes") as other:
        other.run("CLUSTER ADDSLOTSRANGE", 0, 16383)
        assert "does it run" not in await advice(other.url)
    with running("valkey-9", "--replicaof", "127.0.0.1 1") as replica:
        assert "name the primary" in await advice(replica.url)
    with running("valkey-9") as strict:
        strict.run("ACL SETUSER", "weak", "on", "nopass", "+ping", "~*")
        assert "ACL" in await advice(f"valkey://weak:x@{strict.address}")


async def test_tls_is_spoken_only_to_whom_the_certificate_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority, port = Authority(), free_port()
    certificate, key = authority.server().write(tmp_path, "server")
    options = ["--tls-cert-file", str(certificate), "--tls-key-file", str(key)]
    options += ["--tls-port", str(port), "--tls-auth-clients", "no"]
    (tmp_path / "ours.pem").write_bytes(authority.pem)
    (tmp_path / "others.pem").write_bytes(Authority().pem)
    with running("redis-7", *options):  # of the packaged servers none was built with TLS
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ours.pem"))
        async with opened(f"valkeys://localhost:{port}") as vault:
            await chain(vault, 1)
        assert "TLS" in await advice(f"valkeys://127.0.0.2:{port}")
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "others.pem"))
        assert "TLS" in await advice(f"valkeys://localhost:{port}")
