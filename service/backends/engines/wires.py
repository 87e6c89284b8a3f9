"""What the gRPC of one engine says differently from that of others."""

from typing import ClassVar, Protocol

from service.backends import Capabilities
from service.backends.engines import Event, Model, Request


class Wire(Protocol):
    """The messages of one engine. Those that hold nothing are the same for all, and not made here."""

    kind: ClassVar[str]
    service: ClassVar[str]
    """The full name of its gRPC service."""
    capabilities: ClassVar[Capabilities]

    def model(self, data: bytes) -> Model:
        """Read what the engine says about its model; keep what it leaves to its callers to set."""

    def healthy(self, data: bytes) -> bool:
        """Read whether the engine is well."""

    def request(self, identity: str, request: Request) -> bytes:
        """Return a request without its prompt. Raises `ModelError`."""

    def event(self, data: bytes) -> Event:
        """Read one message of an answer. Raises `ModelError` if the engine gave up."""

    def abort(self, identity: str) -> bytes:
        """Return the request to stop."""
