"""Which tokens let somebody in. The issuer's keys come over HTTP, as they always do."""

import base64
import contextlib
import functools
import hmac
import json
import math
import time
from collections.abc import AsyncIterator
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.errors import Unauthenticated
from service.identity import Credentials, Identity
from service.identity.issuer import Issuer
from service.identity.tokens import LEEWAY, Claims, Tokens
from tests.service.identity.token_house import AUDIENCE, TokenHouse, by_hand, public

ALGORITHMS = ("RS256", "ES256", "EdDSA")


@pytest.fixture
async def house() -> AsyncIterator[TokenHouse]:
    async with TokenHouse.opened() as house:
        yield house


@contextlib.asynccontextmanager
async def issuer_of(house: TokenHouse, *algorithms: str) -> AsyncIterator[Issuer]:
    issuer = Issuer(house.url, algorithms or ALGORITHMS, house.jwks_url)
    await issuer.start()
    try:
        yield issuer
    finally:
        await issuer.stop()


@pytest.fixture
async def tokens(house: TokenHouse) -> AsyncIterator[Tokens]:
    async with issuer_of(house) as issuer:
        tokens = Tokens(issuer, Claims(audience=AUDIENCE))
        for kid in house.keys:  # or all others would be refused for want of keys
            tokens.identify(bearer(house.token(kid)))
        yield tokens


def bearer(token: str) -> Credentials:
    return Credentials(f"Bearer {token}")


def refused(tokens: Tokens, token: str) -> bool:
    try:
        tokens.identify(bearer(token))
    except Unauthenticated as refusal:
        return str(refusal) == str(Unauthenticated()) and refusal.__cause__ is None
    return False


@pytest.mark.parametrize("kid", ["rsa", "ec", "ed"])
async def test_a_token_tells_its_tenant_and_its_end(
    house: TokenHouse, tokens: Tokens, kid: str
) -> None:
    expires = int(time.time()) + 60
    identity = tokens.identify(bearer(house.token(kid, exp=expires)))
    assert (identity.tenant, identity.expires) == ("acme", expires)
    assert tokens.holds(identity)
    assert not tokens.holds(Identity("acme", identity.credential, time.time() - 1))


async def test_a_token_is_called_by_nobodys_name(house: TokenHouse, tokens: Tokens) -> None:
    called = tokens.identify(bearer(house.token(sub="jane@example.com"))).credential
    assert called.startswith("jwt:")
    assert "jane" not in called
    assert called == tokens.identify(bearer(house.token("rsa", sub="jane@example.com"))).credential


async def test_the_operator_chooses_the_claim_that_names_the_tenant(house: TokenHouse) -> None:
    async with issuer_of(house) as issuer:
        tokens = Tokens(issuer, Claims(audience=AUDIENCE, tenant="org"))
        assert tokens.identify(bearer(house.token(org="globex", sub="jane"))).tenant == "globex"
        assert refused(tokens, house.token(sub="jane"))


@pytest.mark.parametrize(
    "changed",
    [
        {"exp": None},
        {"exp": 1},
        {"exp": int(time.time())},
        {"exp": "9999999999"},
        {"exp": math.inf},
        {"exp": True},
        {"nbf": int(time.time() + LEEWAY + 3600)},
        {"iat": int(time.time() + LEEWAY + 3600)},
        {"iss": "https://other.example"},
        {"iss": None},
        {"aud": "other"},
        {"aud": []},
        {"aud": None},
        {"sub": None},
        {"sub": ""},
        {"sub": "a b"},
        {"sub": "a\nb"},
        {"sub": "x" * 129},
    ],
)
async def test_a_token_that_says_something_else_is_refused(
    house: TokenHouse, tokens: Tokens, changed: dict[str, Any]
) -> None:
    assert refused(tokens, house.token(**changed))


async def test_an_issuers_clock_may_be_a_little_ahead(house: TokenHouse, tokens: Tokens) -> None:
    soon = int(time.time() + LEEWAY / 2)
    assert tokens.identify(bearer(house.token(nbf=soon, iat=soon))).tenant == "acme"


async def test_a_token_may_be_meant_for_others_too(house: TokenHouse, tokens: Tokens) -> None:
    assert tokens.identify(bearer(house.token(aud=["other", AUDIENCE]))).tenant == "acme"


class TestForgeries:
    async def test_no_signature_is_none(self, house: TokenHouse, tokens: Tokens) -> None:
        for algorithm in ("none", "None", "NONE", ""):
            for kid in ({"kid": "ec"}, {}):
                token = by_hand({"alg": algorithm, **kid}, house.claims(), lambda _: b"")
                assert refused(tokens, token)

    async def test_a_public_key_is_no_shared_secret(
        self, house: TokenHouse, tokens: Tokens
    ) -> None:
        key = house.keys["rsa"][0].public_key()
        pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        jwk = json.dumps(public(house.keys["rsa"][0])).encode()

        for secret in (pem, pem.strip(), der, jwk, b""):
            sign = functools.partial(hmac.digest, secret, digest="sha256")
            token = by_hand({"alg": "HS256", "kid": "rsa"}, house.claims(), sign)
            assert refused(tokens, token)

    async def test_a_key_is_used_with_its_own_algorithm_only(
        self, house: TokenHouse, tokens: Tokens
    ) -> None:
        for kid, (key, algorithm) in house.keys.items():
            for other in set(house.keys) - {kid}:
                token = jwt.encode(house.claims(), key, algorithm, {"kid": other})
                assert refused(tokens, token)

    async def test_an_algorithm_that_is_not_pinned_is_refused(self, house: TokenHouse) -> None:
        async with issuer_of(house, "ES256") as issuer:
            tokens = Tokens(issuer, Claims(audience=AUDIENCE))
            assert tokens.identify(bearer(house.token("ec"))).tenant == "acme"
            assert refused(tokens, house.token("rsa"))

    async def test_a_token_brings_no_key_of_its_own(
        self, house: TokenHouse, tokens: Tokens
    ) -> None:
        own = ec.generate_private_key(ec.SECP256R1())
        for header in (
            {"jwk": public(own)},
            {"jwk": public(own), "kid": "ec"},
            {"jku": house.jwks_url, "kid": "own"},
            {"kid": "../../keys"},
            {"kid": "ec"},
        ):
            assert refused(tokens, jwt.encode(house.claims(), own, "ES256", header))

    async def test_a_changed_token_is_refused(self, house: TokenHouse, tokens: Tokens) -> None:
        header, _, signature = house.token().split(".")
        other = base64.urlsafe_b64encode(json.dumps(house.claims(sub="globex")).encode())
        assert refused(tokens, f"{header}.{other.decode().rstrip('=')}.{signature}")

    async def test_keys_that_are_too_short_or_secret_are_none(self, house: TokenHouse) -> None:
        weak = rsa.generate_private_key(65537, 1024)
        secret = base64.urlsafe_b64encode(b"s" * 32).decode()
        shared = {"kty": "oct", "k": secret, "kid": "oct", "alg": "HS256"}
        good = public(house.keys["ec"][0], kid="ec")
        foreign = public(house.keys["ed"][0], kid="ed", use="enc")
        house.document = lambda: {"keys": [public(weak, kid="weak"), shared, foreign, 7, {}, good]}
        async with issuer_of(house) as issuer:
            tokens = Tokens(issuer, Claims(audience=AUDIENCE))
            with pytest.warns(jwt.InsecureKeyLengthWarning):
                short = jwt.encode(house.claims(), weak, "RS256", {"kid": "weak"})
            assert refused(tokens, short)
            assert refused(tokens, house.token("ed"))
            hashed = jwt.encode(house.claims(), b"s" * 32, "HS256", {"kid": "oct"})
            assert refused(tokens, hashed)
            assert tokens.identify(bearer(house.token("ec"))).tenant == "acme"

    @pytest.mark.parametrize("algorithms", [[], ["HS256"], ["RS256", "HS512"], ["none"], ["rs256"]])
    async def test_what_everyone_could_sign_with_cannot_be_pinned(
        self, algorithms: list[str]
    ) -> None:
        issuer = Issuer("https://issuer.example", algorithms)
        with pytest.raises(ValueError, match="algorithms"):
            Tokens(issuer, Claims(audience=AUDIENCE))

    @pytest.mark.parametrize(
        "header",
        [
            {"alg": "ES256", "kid": 1},
            {"alg": ["ES256"], "kid": "ec"},
            {"alg": "ES256", "kid": "ec", "crit": ["exp"]},
            {"alg": "ES256", "kid": "ec", "b64": False, "crit": ["b64"]},
            [],
            "ES256",
        ],
    )
    async def test_a_header_that_makes_no_sense_is_refused(
        self, house: TokenHouse, tokens: Tokens, header: object
    ) -> None:
        assert refused(tokens, by_hand(header, house.claims(), lambda _: bytes(64)))

    @pytest.mark.parametrize(
        "token",
        ["", ".", "..", "...", "a.b.c", "\udcff.\udcff.\udcff", "é.é.é", "x" * 20_000, "e30.e30."],
    )
    async def test_what_is_no_token_is_refused(self, tokens: Tokens, token: str) -> None:
        assert refused(tokens, token)

    async def test_deep_nesting_is_refused(self, tokens: Tokens) -> None:
        deep = base64.urlsafe_b64encode(b'{"a":' + b"[" * 9000).decode().rstrip("=")
        assert refused(tokens, f"{deep}.e30.AA")

    async def test_no_other_scheme_will_do(self, house: TokenHouse, tokens: Tokens) -> None:
        for authorization in (None, house.token(), f"Basic {house.token()}"):
            with pytest.raises(Unauthenticated):
                tokens.identify(Credentials(authorization))

    json_values = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
        max_leaves=4,
    )
    names = st.sampled_from(["exp", "nbf", "iat", "iss", "aud", "sub", "jti"])

    @settings(
        max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
    )
    @given(changed=st.dictionaries(names, json_values, min_size=1))
    async def test_whatever_an_issuer_signs_is_taken_or_refused(
        self, house: TokenHouse, tokens: Tokens, changed: dict[str, Any]
    ) -> None:
        key = house.keys["ec"][0]
        token = jwt.api_jws.encode(
            json.dumps({**house.claims(), **changed}).encode(), key, "ES256", {"kid": "ec"}
        )
        with contextlib.suppress(Unauthenticated):
            assert tokens.identify(bearer(token)).expires > time.time()


class TestKeyIds:
    async def test_among_several_keys_a_token_names_its_own(self, house: TokenHouse) -> None:
        house.keys["other"] = (ec.generate_private_key(ec.SECP256R1()), "ES256")
        async with issuer_of(house) as issuer:
            tokens = Tokens(issuer, Claims(audience=AUDIENCE))
            nameless = jwt.encode(house.claims(), house.keys["ec"][0], "ES256")
            assert refused(tokens, nameless)
            assert tokens.identify(bearer(house.token("other"))).tenant == "acme"

    async def test_where_there_is_one_key_a_token_need_not_name_it(self, house: TokenHouse) -> None:
        key = house.keys["ec"][0]
        for document in ([public(key)], [public(key, kid="ec", alg="ES256")]):
            house.document = functools.partial(dict, keys=document)
            async with issuer_of(house) as issuer:
                tokens = Tokens(issuer, Claims(audience=AUDIENCE))
                token = jwt.encode(house.claims(), key, "ES256")
                assert tokens.identify(bearer(token)).tenant == "acme"

    async def test_two_keys_of_one_name_are_nobodys(self, house: TokenHouse) -> None:
        twins = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
        house.document = lambda: {"keys": [public(key, kid="twin") for key in twins]}
        async with issuer_of(house) as issuer:
            tokens = Tokens(issuer, Claims(audience=AUDIENCE))
            for key in twins:
                assert refused(tokens, jwt.encode(house.claims(), key, "ES256", {"kid": "twin"}))
