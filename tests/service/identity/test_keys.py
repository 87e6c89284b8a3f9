"""Who is calling, and that strangers cannot tell why they are refused."""

from pathlib import Path

import pytest

from service.errors import Unauthenticated
from service.identity import Anonymous, Credentials
from service.identity.keys import BadKeyFile, KeyFile, new_key


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
    with pytest.raises(BadKeyFile, match="line 2") as refused:
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
