import pytest
from valkey.asyncio.connection import Connection, SSLConnection

from service.store.valkey.address import Host, address_of


def test_a_url_says_where_and_as_whom() -> None:
    address = address_of("valkey://me:p%40ss%2F@store.example:7000/3")
    assert (address.hosts, address.clustered, address.kind) == (
        [Host("store.example", 7000)],
        False,
        Connection,
    )
    assert address.options["username"] == "me"
    assert address.options["password"] == "p@ss/"
    assert address.options["db"] == 3


@pytest.mark.parametrize("scheme", ["valkeys", "rediss"])
def test_tls_verifies_the_host_too(scheme: str) -> None:
    address = address_of(f"{scheme}://store.example")
    connection = address.connection(address.hosts[0])
    assert isinstance(connection, SSLConnection)
    assert connection.check_hostname
    assert connection.ssl_context.get().verify_mode.name == "CERT_REQUIRED"


def test_a_cluster_has_several_hosts_each_with_its_port() -> None:
    address = address_of("valkey+cluster://:secret@a:7000,b,[::1]:7002")
    assert address.clustered
    assert address.hosts == [Host("a", 7000), Host("b", 6379), Host("::1", 7002)]
    assert address.options["username"] is None


@pytest.mark.parametrize(
    "url",
    [
        "",
        "canary",
        "http://u:canary@host",
        "valkey://",
        "valkey://u:canary@",
        "valkey://u:canary@host:no",
        "valkey://u:canary@host:99999",
        "valkey://u:canary@host/zero",
        "valkey://u:can#ary@host/0",
        "valkey://u:canary@host/0?db=1",
        "valkey://u:canary@one,two/0",
        "valkey+cluster://u:canary@one,two/1",
        "valkey://u:canary@[::1/0",
    ],
)
def test_what_is_wrong_is_said_without_the_password(url: str) -> None:
    with pytest.raises(ValueError, match=r".{20}") as refused:
        address_of(url)
    assert "canary" not in str(refused.value)
    assert "ary" not in str(refused.value)


def test_an_address_does_not_show_its_password() -> None:
    address = address_of("valkey://me:canary@host")
    assert "canary" not in repr(address)
    assert "canary" not in repr(address.connection(address.hosts[0]))
