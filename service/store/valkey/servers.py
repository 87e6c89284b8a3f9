"""Which server has a key: the only one there is, or the one that a cluster's map of slots names."""

import asyncio
import random
from collections.abc import Sequence
from typing import Any, Protocol

from valkey.crc import key_slot
from valkey.exceptions import ResponseError

from service.store.valkey.address import Address, Host
from service.store.valkey.node import Away, Node, Unwelcome

_SLOTS = 16_384


class Servers(Protocol):
    """Finds servers."""

    @property
    def primaries(self) -> Sequence[Node]:
        """All that keep something, as far as it is known."""

    def node_of(self, key: str) -> Node:
        """Return the server that has a key. Raises `Away` if none is known."""

    def node_at(self, host: str, port: int) -> Node:
        """Return the server that another one named."""

    async def refresh(self, seconds: float) -> None:
        """Find out anew who has what. Raises `Away`, also if nobody says it in so many seconds each."""

    def moved(self, slot: int, node: Node) -> None:
        """Take another server's word for who has a slot."""

    async def stop(self) -> None:
        """Close all connections."""


class Alone:
    """One server, or whatever its name leads to."""

    def __init__(self, address: Address) -> None:
        self._node = Node(address, address.hosts[0])
        self.primaries: Sequence[Node] = [self._node]

    def node_of(self, key: str) -> Node:
        """Return the one there is."""
        del key
        return self._node

    def node_at(self, host: str, port: int) -> Node:
        """Return the one there is: nobody else is believed."""
        del host, port
        return self._node

    async def refresh(self, seconds: float) -> None:
        """Look its name up again with the next connection."""
        del seconds
        await self._node.forget()

    def moved(self, slot: int, node: Node) -> None:
        """Do nothing: it has them all."""

    async def stop(self) -> None:
        """Close all connections."""
        await self._node.stop()


class Cluster:
    """The servers of a cluster. Only primaries are asked: replicas may not have the newest yet."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._nodes = {host: Node(address, host) for host in address.hosts}
        self._owners: list[Node | None] = [None] * _SLOTS
        self._learning = asyncio.Lock()
        self._learned = 0
        self.primaries: Sequence[Node] = []

    def node_of(self, key: str) -> Node:
        """Return the server that has the key's slot."""
        node = self._owners[key_slot(key.encode())]
        if node is None:
            raise Away
        return node

    def node_at(self, host: str, port: int) -> Node:
        """Return the server at an address; one that is new is known from then on."""
        there = Host(host, port)
        return self._nodes.setdefault(there, Node(self._address, there))

    async def refresh(self, seconds: float) -> None:
        """Ask any server for the map of slots. Those who ask for it meanwhile get the same."""
        before = self._learned
        async with self._learning:
            if self._learned == before:
                await self._learn(seconds)
                self._learned += 1

    def moved(self, slot: int, node: Node) -> None:
        """Ask there from now on."""
        self._owners[slot] = node

    async def stop(self) -> None:
        """Close all connections."""
        for node in self._nodes.values():
            await node.stop()

    async def _learn(self, seconds: float) -> None:
        nodes = list(self._nodes.values())
        random.shuffle(nodes)  # one may be behind the times: not always the same is asked first
        for node in sorted(nodes, key=lambda node: node.reach.failures):
            if found := await _map_of(node, seconds):
                return await self._follow(found, node)
        raise Away

    async def _follow(self, found: Sequence[Any], teller: Node) -> None:
        """Take over a map: for each range of slots first, last, primary, replicas."""
        owners: list[Node | None] = [None] * _SLOTS
        named = {*self._address.hosts}
        for first, last, *servers in found:
            hosts = [_host_of(server, teller) for server in servers]
            owners[first : last + 1] = [self.node_at(*hosts[0])] * (last + 1 - first)
            named.update(hosts)
        self._owners = owners
        self.primaries = list(dict.fromkeys(filter(None, owners)))
        for host in self._nodes.keys() - named:
            await self._nodes.pop(host).stop()


async def _map_of(node: Node, seconds: float) -> Sequence[Any] | None:
    try:
        (found,) = await node.ask([("CLUSTER", "SLOTS")], seconds)
    except Unwelcome:
        raise
    except Away:
        return None
    return None if isinstance(found, ResponseError) else found


def _host_of(server: Sequence[Any], teller: Node) -> Host:
    """Read an address; a server that does not know its own name leaves it out."""
    name, port = server[0], server[1]
    return Host(name.decode() if name else teller.host.name, port)
