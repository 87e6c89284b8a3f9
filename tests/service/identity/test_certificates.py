"""Which tenant a certificate's names stand for."""

import time
from pathlib import Path

import pytest

from service.errors import Unauthenticated
from service.identity import Credentials, Identity
from service.identity.certificates import CertificateNames
from service.identity.live_files import BadFile
from tests.service.identity.authority import replace
from tests.service.identity.clock import Clock

AGENT = "URI:spiffe://td/ns/agents/sa/one"


@pytest.fixture
def names(tmp_path: Path) -> CertificateNames:
    lines = [
        "# callers",
        f"{AGENT} acme",
        "URI:spiffe://td/ns/agents/sa/two acme",
        "DNS:Batch.example globex",
    ]
    (tmp_path / "names").write_text("\n".join(lines))
    return CertificateNames.read(tmp_path / "names")


def shown(*found: str) -> Credentials:
    return Credentials(None, found, time.time() + 60)


def test_a_name_tells_its_tenant(names: CertificateNames) -> None:
    assert names.identify(shown(AGENT)).tenant == "acme"
    assert names.identify(shown("DNS:unknown.example", AGENT)).tenant == "acme"
    assert names.identify(shown("DNS:batch.EXAMPLE")).tenant == "globex"


def test_two_names_of_one_tenant_are_that_tenant(names: CertificateNames) -> None:
    assert names.identify(shown("URI:spiffe://td/ns/agents/sa/two", AGENT)).tenant == "acme"


@pytest.mark.parametrize(
    "found",
    [
        [],
        ["URI:spiffe://td/ns/agents/sa"],
        [f"{AGENT}/"],
        ["URI:spiffe://td/ns/agents/sa/ONE"],
        ["DNS:spiffe://td/ns/agents/sa/one"],
        ["URI:batch.example"],
        ["DNS:x.batch.example"],
        [AGENT, "DNS:batch.example"],
        ["acme"],
    ],
)
def test_every_other_name_is_refused(names: CertificateNames, found: list[str]) -> None:
    with pytest.raises(Unauthenticated):
        names.identify(shown(*found))


def test_an_identity_lasts_as_long_as_its_certificate(names: CertificateNames) -> None:
    credentials = Credentials(None, (AGENT,), time.time() + 60)
    identity = names.identify(credentials)
    assert identity.expires == credentials.expires
    assert names.holds(identity)
    over = Identity(identity.tenant, identity.credential, time.time() - 1)
    assert not names.holds(over)
    with pytest.raises(Unauthenticated):
        names.identify(Credentials(None, (AGENT,), time.time() - 1))


def test_a_name_that_is_taken_out_is_good_no_more(tmp_path: Path) -> None:
    path, clock = tmp_path / "names", Clock()
    path.write_text(f"{AGENT} acme")
    names = CertificateNames.read(path, clock)
    identity = names.identify(shown(AGENT))
    replace(path, f"{AGENT} globex".encode())
    clock.now += 1
    assert not names.holds(identity)
    assert names.identify(shown(AGENT)).tenant == "globex"


@pytest.mark.parametrize("line", ["a b", AGENT, f"{AGENT} a b", "CN:x a", f"{AGENT} é"])
def test_a_bad_line_is_named_by_its_number_only(tmp_path: Path, line: str) -> None:
    (tmp_path / "names").write_text(f"#\n{line}\n")
    with pytest.raises(BadFile, match="line 2") as refused:
        CertificateNames.read(tmp_path / "names")
    assert line not in str(refused.value)


def test_a_name_may_be_there_once(tmp_path: Path) -> None:
    (tmp_path / "names").write_text("DNS:a one\nDNS:A two\n")
    with pytest.raises(BadFile, match="line 2"):
        CertificateNames.read(tmp_path / "names")
