"""TLS on the ports for clients: certificates that can be renewed while connections are open.

Both ports ask anew for every connection what the files say; what is open stays as it is. On the HTTP
port a client may show a certificate, and one that is shown must be good. The gRPC library knows no
"may": with a CA for clients, its port takes only clients with a certificate.
"""

import asyncio
import functools
import math
import ssl
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import grpc
from cryptography import x509

from service.identity.live_files import LiveFiles

_PEM: Final = "x509_pem_cert"
"""What gRPC calls the certificate of a client that it has verified."""


class Shown(NamedTuple):
    """What a verified certificate says of a client, in the words of `Credentials`."""

    names: tuple[str, ...] = ()
    expires: float = math.inf


NOTHING: Final = Shown()


@dataclass(frozen=True, kw_only=True, slots=True)
class TlsFiles:
    """Where certificates are, in PEM."""

    certificate: Path
    """The server's, and the chain that leads to its root."""
    key: Path
    client_ca: Path | None = None
    """Who may sign clients' certificates."""

    @property
    def paths(self) -> list[Path]:
        """All there are."""
        return [self.certificate, self.key, *([self.client_ca] if self.client_ca else [])]


class _Material(NamedTuple):
    """The same certificates, as each of the two libraries wants them."""

    context: ssl.SSLContext
    grpc: grpc.ServerCertificateConfiguration


class Tls:
    """What a server speaks TLS with, as its files are now."""

    def __init__(self, files: TlsFiles, clock: Callable[[], float] = time.monotonic) -> None:
        """Raises `OSError`, which `ssl.SSLError` is, where the files are of no use."""
        self._files = files
        self._live = LiveFiles(files.paths, functools.partial(_read, files), clock)

    def context(self) -> ssl.SSLContext:
        """Return what a listening socket is to speak TLS with."""
        context = _context(self._files)
        context.sni_callback = self._renew
        return context

    def credentials(self) -> grpc.ServerCredentials:
        """Return the same for gRPC, which asks in a thread of its own."""
        return grpc.dynamic_ssl_server_credentials(
            self._live.content.grpc,
            lambda: self._live.content.grpc,
            require_client_authentication=self._files.client_ca is not None,
        )

    def _renew(
        self, connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext
    ) -> None:
        """Have a connection that begins use what the files say now, named its server or not."""
        connection.context = self._live.content.context


def shown_to(transport: asyncio.BaseTransport) -> Shown:
    """Return what the client at the other end of a socket has shown."""
    connection: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
    der = connection.getpeercert(binary_form=True) if connection else None
    return _said_by(der) if der else NOTHING


def shown_in(auth_context: Mapping[str, Iterable[bytes]]) -> Shown:
    """Return what the client of a gRPC call has shown."""
    pem = b"".join(auth_context.get(_PEM, ()))
    return _said_by(ssl.PEM_cert_to_DER_cert(pem.decode())) if pem else NOTHING


@functools.lru_cache(maxsize=1024)  # calls are many, and their clients' certificates few
def _said_by(der: bytes) -> Shown:
    """Return the names, and how long they are good. What cannot be read names nobody."""
    try:
        certificate = x509.load_der_x509_certificate(der)
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        return NOTHING
    uris = found.value.get_values_for_type(x509.UniformResourceIdentifier)
    hosts = found.value.get_values_for_type(x509.DNSName)
    names = (*(f"URI:{uri}" for uri in uris), *(f"DNS:{host}" for host in hosts))
    return Shown(names, certificate.not_valid_after_utc.timestamp())


def _read(files: TlsFiles) -> _Material:
    context = _context(files)  # finds out whether the files are of use; gRPC would only find later
    pair = (files.key.read_bytes(), files.certificate.read_bytes())
    roots = files.client_ca.read_bytes() if files.client_ca else None
    return _Material(context, grpc.ssl_server_certificate_configuration([pair], roots))


def _context(files: TlsFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.set_alpn_protocols(["http/1.1"])
    # An empty password: for a key that needs one, OpenSSL would ask the terminal and wait.
    context.load_cert_chain(files.certificate, files.key, password="")
    _never_resume(context)
    if files.client_ca:
        context.load_verify_locations(files.client_ca)
        context.verify_mode = ssl.CERT_OPTIONAL
    return context


def _never_resume(context: ssl.SSLContext) -> None:
    """Verify whoever connects: a resumed session would bring a certificate from before a change."""
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0
