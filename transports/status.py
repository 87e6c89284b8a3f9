"""The one table that says an ending in each transport's words (`docs/endings.md` prints it).

WebSocket close codes: 1001 and 1012 mean "reconnect and go on"; 1007, 1008 and 1009 mean that the
client would fail again; 1011 is a defect of ours. Who is not let in at all is told by HTTP, or by a
gRPC status with the refusal's code.
"""

from typing import NamedTuple

import grpc

from service.errors import Ending


class Status(NamedTuple):
    """How an ending is said: a WebSocket close code and a gRPC status."""

    close_code: int
    grpc_code: grpc.StatusCode


STATUS = {
    Ending.GONE: Status(1000, grpc.StatusCode.CANCELLED),
    Ending.TOO_LARGE: Status(1009, grpc.StatusCode.RESOURCE_EXHAUSTED),
    Ending.INVALID_FRAME: Status(1007, grpc.StatusCode.INVALID_ARGUMENT),
    Ending.POLICY: Status(1008, grpc.StatusCode.PERMISSION_DENIED),
    Ending.SLOW_READER: Status(1008, grpc.StatusCode.RESOURCE_EXHAUSTED),
    Ending.REVOKED: Status(1008, grpc.StatusCode.UNAUTHENTICATED),
    Ending.IDLE: Status(1001, grpc.StatusCode.DEADLINE_EXCEEDED),
    Ending.AGE: Status(1001, grpc.StatusCode.UNAVAILABLE),
    Ending.DRAIN: Status(1012, grpc.StatusCode.UNAVAILABLE),
    Ending.INTERNAL: Status(1011, grpc.StatusCode.INTERNAL),
}
