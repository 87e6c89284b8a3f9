"""Where the servers are, from one URL. What is wrong with it is said without showing any of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit

from valkey.asyncio.cluster import ClusterParser
from valkey.asyncio.connection import Connection, SSLConnection

_SCHEMES: Mapping[str, type[Connection]] = {
    "valkey": Connection,
    "redis": Connection,
    "valkeys": SSLConnection,
    "rediss": SSLConnection,
}
_CLUSTER = "+cluster"
_PORT = 6379


class Host(NamedTuple):
    """A server's address."""

    name: str
    port: int


@dataclass(frozen=True, slots=True)
class Address:
    """Where servers are, and how they are connected to."""

    hosts: Sequence[Host]
    clustered: bool
    kind: type[Connection]
    options: Mapping[str, Any] = field(repr=False)

    def connection(self, host: Host) -> Connection:
        """Make a connection to one of them; it is opened when it is first used."""
        return self.kind(host=host.name, port=host.port, **self.options)


def address_of(url: str) -> Address:
    """Read a URL: `valkey://user:password@host:port/database`. Raises `ValueError`.

    `valkeys` is with TLS, and certificates are verified; `valkey+cluster` takes several hosts, by commas.
    """
    parts = _split(url)
    scheme = parts.scheme.removesuffix(_CLUSTER)
    clustered = scheme != parts.scheme
    if scheme not in _SCHEMES:
        raise ValueError(
            f"the scheme must be one of {', '.join(_SCHEMES)}, with {_CLUSTER} for a cluster"
        )
    credentials, _, hosts = parts.netloc.rpartition("@")
    address = Address(
        hosts=[_host(host) for host in hosts.split(",")],
        clustered=clustered,
        kind=_SCHEMES[scheme],
        options=_options(credentials, _database(parts.path), _SCHEMES[scheme]),
    )
    _check(address)
    return address


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ValueError("it is no URL: expected valkey://host:port/0") from None
    if parts.query or parts.fragment:
        raise ValueError(
            "it must end with the database; write ? and # of a password as %3F and %23"
        )
    return parts


def _host(text: str) -> Host:
    try:
        parts = urlsplit(f"//{text}")
        name, port = parts.hostname, parts.port
    except ValueError:
        name = None
    if not name:
        raise ValueError("each host must be name:port; write @ and / of a password as %40 and %2F")
    return Host(name, port or _PORT)


def _database(path: str) -> int:
    number = path.removeprefix("/") or "0"
    if not number.isdecimal():
        raise ValueError("after the host there may only be the database's number; write / as %2F")
    return int(number)


def _options(credentials: str, database: int, kind: type[Connection]) -> Mapping[str, Any]:
    user, _, password = credentials.partition(":")
    options: dict[str, Any] = {
        "db": database,
        "username": unquote(user) or None,
        "password": unquote(password) or None,
        "socket_timeout": None,  # whoever asks has a deadline for all of it
        "parser_class": ClusterParser,  # which knows MOVED and its like
    }
    if kind is SSLConnection:
        options["ssl_check_hostname"] = True
    return options


def _check(address: Address) -> None:
    if address.clustered and address.options["db"]:
        raise ValueError("a cluster has no databases: leave the number out")
    if not address.clustered and len(address.hosts) > 1:
        raise ValueError("several hosts are for a cluster: valkey+cluster://")
