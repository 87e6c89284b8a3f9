"""Who is calling, and that strangers cannot tell why they are refused."""

from pathlib import Path

import pytest

from service.errors import Unauthenticated
from service.identity import Anonymous, Credentials
from service.identity.keys import KeyFile, new_key
from service.identity.live_files import BadFile
from tests.service.identity.authority import replace
from tests.service.identity.clock import Clock


def key_file(tmp_path: Path, *tenants: str) -> tuple[KeyFile, list[str]]:
    made = [new_key(tenant) for tenant in tenants]
    path = tmp_path / "keys"
    path.write_text("# who may call\n\n" + "".join(f"{line}\n" for _, line in made))
    return KeyFile.read(path), [key for key, _ in made]


def test_a_key_tells_its_tenant(tmp_path: Path) -> None:
    keys, [alice, bob] = key_file(tmp_path, "alice", "bob")
    assert keys.identify(Credentials(f"Bearer {alice}")).tenant == "alice"
    assert keys.identify(Credentials(f"bearer {bob}")).tenant == "bob"


def test_every_wrong_key_is_refused_alike(tmp_path: Path) -> None:
    keys, [alice] = key_file(tmp_path, "alice")
    wrong = [
        None,
        "",
        "Bearer",
        f"Basic {alice}",
        alice,
        f"Bearer {alice}x",
        f"Bearer {alice[:-1]}",
        "Bearer tw_00000000_abc",
        "Bearer sk-123",
        "Bearer \udcff",
    ]
    messages = set()
    for authorization in wrong:
        with pytest.raises(Unauthenticated) as refused:
            keys.identify(Credentials(authorization))
        messages.add(str(refused.value))
    assert len(messages) == 1


def test_the_file_holds_no_secret(tmp_path: Path) -> None:
    _, [alice] = key_file(tmp_path, "alice")
    assert alice.split("_")[2] not in (tmp_path / "keys").read_text()


def test_a_bad_line_is_named_by_its_number_only(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("\nsecretstuff\n")
    with pytest.raises(BadFile, match="line 2") as refused:
        KeyFile.read(path)
    assert "secretstuff" not in str(refused.value)


@pytest.mark.parametrize("tenant", ["", "a b", "a#b", "a\nb"])
def test_a_tenants_name_fits_a_line(tenant: str) -> None:
    with pytest.raises(ValueError, match="name"):
        new_key(tenant)


def test_without_keys_everyone_is_the_same_tenant() -> None:
    assert (
        Anonymous().identify(Credentials(None)).tenant
        == Anonymous().identify(Credentials("Bearer whatever")).tenant
    )


class TestAFileThatChanges:
    @pytest.fixture
    def clock(self) -> Clock:
        return Clock()

    @staticmethod
    def lines(path: Path, *lines: str) -> None:
        replace(path, "".join(f"{line}\n" for line in lines).encode())

    def test_a_key_that_is_taken_out_is_good_no_more(self, tmp_path: Path, clock: Clock) -> None:
        (alice, one), (bob, two) = new_key("alice"), new_key("bob")
        path = tmp_path / "keys"
        self.lines(path, one, two)
        keys = KeyFile.read(path, clock)
        identities = [keys.identify(Credentials(f"Bearer {key}")) for key in (alice, bob)]
        assert [keys.holds(identity) for identity in identities] == [True, True]
        self.lines(path, two)
        clock.now += 1
        assert [keys.holds(identity) for identity in identities] == [False, True]
        with pytest.raises(Unauthenticated):
            keys.identify(Credentials(f"Bearer {alice}"))

    def test_a_key_that_is_added_is_good(self, tmp_path: Path, clock: Clock) -> None:
        key, line = new_key("alice")
        path = tmp_path / "keys"
        self.lines(path)
        keys = KeyFile.read(path, clock)
        with pytest.raises(Unauthenticated):
            keys.identify(Credentials(f"Bearer {key}"))
        self.lines(path, line)
        clock.now += 1
        assert keys.identify(Credentials(f"Bearer {key}")).tenant == "alice"

    def test_another_secret_or_tenant_of_the_same_id_is_another_key(
        self, tmp_path: Path, clock: Clock
    ) -> None:
        (key, line), (_, other) = new_key("alice"), new_key("alice")
        path = tmp_path / "keys"
        key_id, tenant, digest = line.split()
        for changed in (f"{key_id} {tenant} {other.split()[2]}", f"{key_id} bob {digest}"):
            self.lines(path, line)
            clock.now += 1
            keys = KeyFile.read(path, clock)
            identity = keys.identify(Credentials(f"Bearer {key}"))
            self.lines(path, changed)
            clock.now += 1
            assert not keys.holds(identity)

    def test_a_broken_file_leaves_the_keys_as_they_were(self, tmp_path: Path, clock: Clock) -> None:
        key, line = new_key("alice")
        path = tmp_path / "keys"
        self.lines(path, line)
        keys = KeyFile.read(path, clock)
        identity = keys.identify(Credentials(f"Bearer {key}"))
        self.lines(path, line[:-1])
        clock.now += 1
        assert keys.holds(identity)
        assert keys.identify(Credentials(f"Bearer {key}")) == identity


@pytest.mark.parametrize(
    "line",
    ["a b", "a b c d", f"a b {'0' * 63}", f"a b {'G' * 64}", f"a é {'0' * 64}", f"a b {'0' * 65}"],
)
def test_what_is_no_key_is_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / "keys").write_text(line)
    with pytest.raises(BadFile):
        KeyFile.read(tmp_path / "keys")


def test_an_id_may_be_there_once(tmp_path: Path) -> None:
    _, line = new_key("alice")
    (tmp_path / "keys").write_text(f"{line}\n{line}\n")
    with pytest.raises(BadFile, match="line 2"):
        KeyFile.read(tmp_path / "keys")


def test_what_a_key_is_called_says_no_secret_and_lets_nobody_in(tmp_path: Path) -> None:
    keys, [alice] = key_file(tmp_path, "alice")
    called = keys.identify(Credentials(f"Bearer {alice}")).credential
    assert alice.split("_")[2] not in called
    with pytest.raises(Unauthenticated):
        keys.identify(Credentials(f"Bearer {called}"))
