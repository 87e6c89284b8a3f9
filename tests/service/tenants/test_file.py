"""The tenants file: read whole or not at all, told by place, and taken anew when it changes."""

import dataclasses
import os
import re
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from service.identity.live_files import BadFile
from service.tenants import Allowance, Tenants
from service.tenants.file import TenantsFile, _Limits

FILE = """
[defaults]
connections = 10
turns_per_minute = 60
screening = { model = "rules", input = "block", output = "score" }

[tenants.acme]
turns_per_minute = 600
stored_bytes = 1_000_000

[tenants."auth0|7"]
turns_per_minute = inf
screening = {}
suspended = true
"""


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def written(tmp_path: Path, content: str) -> Path:
    path = tmp_path / "tenants.toml"
    path.write_text(content)
    return path


def complaint(tmp_path: Path, content: str) -> str:
    with pytest.raises(BadFile) as bad:
        TenantsFile(written(tmp_path, content))
    return str(bad.value)


def look(file: TenantsFile, clock: Clock) -> Allowance:
    """Ask when it is time to look whether the file has changed."""
    clock.now += 10
    return file.allowance("acme")


def test_a_tenants_table_stands_over_the_defaults(tmp_path: Path) -> None:
    file = TenantsFile(written(tmp_path, FILE))
    acme, other = file.allowance("acme"), file.allowance("someone else")
    assert (acme.connections, acme.turns_per_minute, acme.stored_bytes) == (10, 600, 1_000_000)
    assert (other.connections, other.turns_per_minute, other.stored_bytes) == (10, 60, None)
    assert acme.screening == other.screening
    assert acme.screening
    assert acme.screening.model == "rules"
    assert acme.screening.policy.input.mode == "block"
    assert acme.screening.policy.output.mode == "score"


def test_a_table_can_take_back_what_the_defaults_say(tmp_path: Path) -> None:
    allowance = TenantsFile(written(tmp_path, FILE)).allowance("auth0|7")
    assert allowance == Allowance(connections=10, suspended=True)


def test_an_empty_file_limits_nobody(tmp_path: Path) -> None:
    assert TenantsFile(written(tmp_path, "")).allowance("acme") == Allowance()


def test_a_file_can_let_in_only_those_it_names(tmp_path: Path) -> None:
    content = "[defaults]\nsuspended = true\n[tenants.acme]\nsuspended = false\n"
    tenants = Tenants(TenantsFile(written(tmp_path, content)).allowance)
    assert tenants.suspended("stranger")
    assert not tenants.suspended("acme")


def test_everything_that_can_be_allowed_can_be_written() -> None:
    assert set(_Limits.model_fields) == {field.name for field in dataclasses.fields(Allowance)}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[tenant.acme]", "tenant is unknown: expected defaults, tenants"),
        ("[tenants.acme]\nturns = 5", "tenants.acme.turns is unknown: expected connections, "),
        ("[defaults]\nturns_per_minute = 0", "defaults.turns_per_minute: Input should be greater"),
        ("[defaults]\nturns_per_minute = nan", "defaults.turns_per_minute: "),
        ('[defaults]\nconnections = "9"', "defaults.connections: Input should be a valid number"),
        ("[defaults]\nsuspended = 1", "defaults.suspended: "),
        ("[tenants.acme]\nscreening = {mode = 1}", "screening.mode is unknown: expected model"),
        ('[tenants.acme]\nscreening = {input = "block"}', "expected the classifier's name"),
        ('[defaults]\nscreening = {model = "m", input = "stop"}', "defaults.screening.input: "),
        ('[tenants."a b"]', "tenants: expected names of up to 128 visible"),
        ("[tenants.acme]\n\nthis is not TOML", "is no TOML: .*line 3"),
    ],
)
def test_what_is_wrong_is_told_by_place(tmp_path: Path, content: str, said: str) -> None:
    message = complaint(tmp_path, content)
    assert "tenants.toml" in message
    assert re.search(said, message)


def test_what_is_wrong_is_told_all_at_once_and_without_values(tmp_path: Path) -> None:
    content = '[defaults]\nconnections = "tw_canary_1"\nsuspended = "tw_canary_2"\n'
    message = complaint(tmp_path, content)
    assert "defaults.connections" in message
    assert "defaults.suspended" in message
    assert "canary" not in message


def test_no_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match="cannot be read: No such file"):
        TenantsFile(tmp_path / "none.toml")


def test_a_changed_file_is_taken(tmp_path: Path) -> None:
    clock = Clock()
    file = TenantsFile(written(tmp_path, FILE), clock)
    account = Tenants(file.allowance).of("acme")
    written(tmp_path, "[tenants.acme]\nturns_per_minute = 1\n")
    assert account.allowance.turns_per_minute == 600  # nobody has looked yet
    look(file, clock)
    assert account.allowance == Allowance(turns_per_minute=1)


def test_a_file_that_another_took_the_place_of_is_taken(tmp_path: Path) -> None:
    clock = Clock()
    path = written(tmp_path, "[tenants.acme]\nconnections = 1\n")
    file = TenantsFile(path, clock)
    other = tmp_path / "new"
    other.write_text("[tenants.acme]\nconnections = 2\n")
    os.utime(other, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    other.rename(path)
    look(file, clock)
    assert file.allowance("acme").connections == 2


@pytest.mark.parametrize(
    "content", ["[defaults", '[tenants.acme]\nconnections = "tw_canary"', None]
)
def test_a_broken_new_file_changes_nothing_and_is_told_once(
    tmp_path: Path, content: str | None
) -> None:
    clock = Clock()
    path = written(tmp_path, FILE)
    file = TenantsFile(path, clock)
    if content is None:
        path.unlink()
    else:
        written(tmp_path, content)
    with capture_logs() as logs:
        for _ in range(3):
            look(file, clock)
    assert [line["event"] for line in logs] == ["file_not_reloaded"]
    assert "canary" not in str(logs)
    assert file.allowance("acme").turns_per_minute == 600


def test_a_mended_file_is_taken_after_a_broken_one(tmp_path: Path) -> None:
    clock = Clock()
    file = TenantsFile(written(tmp_path, FILE), clock)
    written(tmp_path, "[defaults")
    look(file, clock)
    written(tmp_path, "[defaults]\nconnections = 3\n")
    look(file, clock)
    assert file.allowance("acme").connections == 3


def test_the_file_is_looked_at_once_a_second_at_most(tmp_path: Path) -> None:
    clock = Clock()
    file = TenantsFile(written(tmp_path, FILE), clock)
    written(tmp_path, "")
    clock.now = 0.9
    assert file.allowance("acme").connections == 10
    clock.now = 1.0
    assert file.allowance("acme") == Allowance()
