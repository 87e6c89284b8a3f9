"""An issuer of tokens on this machine: keys, tokens, and the HTTP server that tells the keys."""

import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Self

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from uvicorn import Config

from transports.http import Address, HttpServer

AUDIENCE = "turnwire"
Signer = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
RSA = rsa.generate_private_key(65537, 2048)


def public(key: Signer, **members: str) -> dict[str, Any]:
    """Return the public half, as a member of a JWKS."""
    if isinstance(key, rsa.RSAPrivateKey):
        return {**RSAAlgorithm.to_jwk(key.public_key(), as_dict=True), **members}
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return {**ECAlgorithm.to_jwk(key.public_key(), as_dict=True), **members}
    return {**OKPAlgorithm.to_jwk(key.public_key(), as_dict=True), **members}


class TokenHouse:
    """Signs, and tells its keys over HTTP as long as it is open."""

    def __init__(self) -> None:
        self.keys: dict[str, tuple[Signer, str]] = {
            "rsa": (RSA, "RS256"),
            "ec": (ec.generate_private_key(ec.SECP256R1()), "ES256"),
            "ed": (ed25519.Ed25519PrivateKey.generate(), "EdDSA"),
        }
        self.document: Callable[[], object] = self._jwks
        self.discovery: dict[str, Any] = {}
        self.asked = 0
        self._http: HttpServer | None = None
        self.port = 0

    @classmethod
    @asynccontextmanager
    async def opened(cls) -> AsyncIterator[Self]:
        house = cls()
        await house.open()
        house.discovery = {"issuer": house.url, "jwks_uri": house.jwks_url}
        try:
            yield house
        finally:
            await house.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def jwks_url(self) -> str:
        return f"{self.url}/keys?version=1"

    async def open(self) -> None:
        async def jwks(request: Request) -> JSONResponse:
            assert dict(request.query_params) == {"version": "1"}
            self.asked += 1
            return JSONResponse(self.document())

        async def discovery(_request: Request) -> JSONResponse:
            return JSONResponse(self.discovery)

        routes = [
            Route("/keys", jwks),
            Route("/.well-known/openid-configuration", discovery),
        ]
        config = Config(Starlette(routes=routes), lifespan="off", log_config=None)
        self._http = await HttpServer.start(config, Address("127.0.0.1", self.port))
        self.port = self._http.port

    async def close(self) -> None:
        if self._http is not None:
            await self._http.stop()
            self._http = None

    def claims(self, **changed: Any) -> dict[str, Any]:
        """Return good claims, with changes; None takes one away."""
        now = int(time.time())
        usual = {"iss": self.url, "aud": AUDIENCE, "sub": "acme", "iat": now, "exp": now + 600}
        return {name: value for name, value in {**usual, **changed}.items() if value is not None}

    def token(self, kid: str = "ec", **changed: Any) -> str:
        """Return a token with good claims, with changes."""
        key, algorithm = self.keys[kid]
        return jwt.encode(self.claims(**changed), key, algorithm, {"kid": kid})

    def _jwks(self) -> object:
        return {"keys": [public(key, kid=kid) for kid, (key, _) in self.keys.items()]}


def by_hand(header: object, claims: object, sign: Callable[[bytes], bytes]) -> str:
    """Return a token that no library would make."""
    parts = [json.dumps(part).encode() for part in (header, claims)]
    body = b".".join(jwt.utils.base64url_encode(part) for part in parts)
    return (body + b"." + jwt.utils.base64url_encode(sign(body))).decode()
