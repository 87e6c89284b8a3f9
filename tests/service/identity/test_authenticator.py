"""Several kinds of credentials at once: what is shown decides, and nothing else is tried."""

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from service.errors import Unauthenticated
from service.identity import Credentials, Identities, Identity
from service.identity.authenticator import Authenticator, Method
from service.identity.certificates import CertificateNames
from service.identity.issuer import Issuer
from service.identity.keys import KeyFile, new_key
from service.identity.tokens import Claims, Tokens
from service.metrics import Metrics
from tests.service.identity.token_house import AUDIENCE, TokenHouse

NAMES = ("URI:spiffe://td/one",)


@dataclass
class Doors:
    """An authenticator with all ways in, and a good credential for each."""

    authenticator: Authenticator
    key: str
    house: TokenHouse
    suspended: set[str]
    registry: CollectorRegistry

    def counted(self, method: Method, result: str) -> float:
        labels = {"method": method.value, "result": result}
        return self.registry.get_sample_value("turnwire_identifications_total", labels) or 0.0

    def refuses(self, credentials: Credentials) -> bool:
        try:
            self.authenticator.identify(credentials)
        except Unauthenticated as refusal:
            return str(refusal) == str(Unauthenticated())
        return False


@pytest.fixture
async def doors(tmp_path: Path) -> AsyncIterator[Doors]:
    key, line = new_key("keyed")
    (tmp_path / "keys").write_text(line)
    (tmp_path / "names").write_text(f"{NAMES[0]} certified")
    suspended: set[str] = set()
    registry = CollectorRegistry()
    async with TokenHouse.opened() as house:
        issuer = Issuer(house.url, ["ES256"], house.jwks_url)
        await issuer.start()
        ways: dict[Method, Identities] = {
            Method.KEY: KeyFile.read(tmp_path / "keys"),
            Method.TOKEN: Tokens(issuer, Claims(audience=AUDIENCE)),
            Method.CERTIFICATE: CertificateNames.read(tmp_path / "names"),
        }
        authenticator = Authenticator(ways, suspended.__contains__, Metrics(registry))
        yield Doors(authenticator, key, house, suspended, registry)
        await issuer.stop()


async def test_each_kind_of_credential_lets_its_tenant_in(doors: Doors) -> None:
    shown = {
        "keyed": Credentials(f"Bearer {doors.key}"),
        "acme": Credentials(f"Bearer {doors.house.token()}"),
        "certified": Credentials(None, NAMES, time.time() + 60),
    }
    for tenant, credentials in shown.items():
        identity = doors.authenticator.identify(credentials)
        assert identity.tenant == tenant
        assert doors.authenticator.holds(identity)
    assert not doors.authenticator.anonymous
    for method in (Method.KEY, Method.TOKEN, Method.CERTIFICATE):
        assert doors.counted(method, "ok") == 1


async def test_a_bad_header_is_not_made_good_by_a_certificate(doors: Doors) -> None:
    for authorization in (
        "",
        "Bearer",
        "Bearer sk-123",
        f"Bearer {doors.key}x",
        f"Basic {doors.key}",
        f"Bearer {doors.house.token(exp=1)}",
        "Bearer a.b.c",
    ):
        assert doors.refuses(Credentials(authorization, NAMES))
    assert doors.counted(Method.KEY, "refused") == 5
    assert doors.counted(Method.TOKEN, "refused") == 2


async def test_a_good_header_goes_before_a_certificate(doors: Doors) -> None:
    both = Credentials(f"Bearer {doors.key}", NAMES)
    assert doors.authenticator.identify(both).tenant == "keyed"


async def test_who_shows_nothing_is_refused(doors: Doors) -> None:
    assert doors.refuses(Credentials())
    assert doors.refuses(Credentials(None, ("URI:spiffe://td/two",)))
    assert doors.counted(Method.NONE, "refused") == 1
    assert doors.counted(Method.CERTIFICATE, "refused") == 1


async def test_a_suspended_tenants_credentials_are_good_for_nothing(doors: Doors) -> None:
    credentials = [
        Credentials(f"Bearer {doors.key}"),
        Credentials(f"Bearer {doors.house.token()}"),
        Credentials(None, NAMES),
    ]
    identities = [doors.authenticator.identify(shown) for shown in credentials]
    doors.suspended.update(identity.tenant for identity in identities)
    assert all(doors.refuses(shown) for shown in credentials)
    assert not any(doors.authenticator.holds(identity) for identity in identities)
    doors.suspended.clear()
    assert all(doors.authenticator.holds(identity) for identity in identities)


async def test_a_kind_that_is_not_set_up_lets_nobody_in(doors: Doors) -> None:
    nobody = Authenticator({}, lambda _: False, Metrics(CollectorRegistry()))
    shown = (Credentials(f"Bearer {doors.key}"), Credentials(None, NAMES), Credentials())
    for credentials in shown:
        with pytest.raises(Unauthenticated):
            nobody.identify(credentials)
    assert not nobody.holds(Identity("keyed", "key:a:b"))
    assert not nobody.holds(Identity("anonymous"))
