"""A gRPC server that listens."""

from dataclasses import dataclass

import grpc

from transports.tls import Tls


@dataclass(frozen=True, slots=True)
class GrpcServer:
    """A listening server and the port it got."""

    port: int
    _server: grpc.aio.Server

    @classmethod
    async def listen(
        cls, server: grpc.aio.Server, address: str, tls: Tls | None = None
    ) -> "GrpcServer":
        """Start a server on `host:port`; port 0 takes a free one. Raises `OSError`."""
        try:
            if tls is None:
                port = server.add_insecure_port(address)
            else:
                port = server.add_secure_port(address, tls.credentials())
        except RuntimeError:  # gRPC does not say why; it is taken, as a rule
            raise OSError(f"Cannot listen on {address}: is it in use?") from None
        await server.start()
        return cls(port, server)

    async def stop(self, grace: float) -> None:
        """Stop accepting, give calls `grace` seconds to end, then cancel them."""
        await self._server.stop(grace)
