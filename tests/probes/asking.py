"""What Bob can ask, before it is known over which connection: requests of all transports.

Every request says how it looks on its wire, so that who hurries and who times send the same bytes.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.message import Message

from turnwire import json_codec
from turnwire.v1 import events_pb2
from turnwire.v1 import session_service_pb2 as rpc

Members = Mapping[str, Any]
_TURNS = {"response.create", "response.resume"}
_LAST = {"response.completed", "response.failed", "response.incomplete", "error"}


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A request over HTTP; `path` begins after `/v1`."""

    method: str
    path: str
    body: Members | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def encoded(self, key: str) -> bytes:
        """Return what is sent."""
        body = b"" if self.body is None else json.dumps(self.body).encode()
        headers = {
            "Host": "localhost",
            "Authorization": f"Bearer {key}",
            "Content-Length": str(len(body)),
            **self.headers,
        }
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return f"{self.method} /v1{self.path} HTTP/1.1\r\n{head}\r\n".encode() + body


@dataclass(frozen=True, slots=True)
class Event:
    """An event on a connection, WebSocket or gRPC, by the members of its JSON."""

    members: Members

    def text(self) -> str:
        """Return the frame of a WebSocket."""
        return json.dumps(self.members)

    def message(self) -> rpc.ConnectRequest:
        """Return the message of a gRPC stream."""
        return rpc.ConnectRequest(events=[json_codec.decode(events_pb2.ClientEvent, self.text())])

    def ends_with(self, kind: str) -> bool:
        """Tell whether an event of this type is the last of the answer: only turns have several."""
        return self.members["type"] not in _TURNS or kind in _LAST


@dataclass(frozen=True, slots=True)
class GrpcCall:
    """A unary call, or one whose first answer is enough, and what class its answer has."""

    method: str
    message: Message
    answer: type[Message]
    streams: bool = False


Request = HttpRequest | Event | GrpcCall
