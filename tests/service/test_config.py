"""The configuration: what it refuses, and that the documentation says the same."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from service.config import Config, settings_table

ROOT = Path(__file__).parents[2]


def refused(monkeypatch: pytest.MonkeyPatch, **variables: str) -> str:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError) as error:
        Config()
    return str(error.value)


def test_the_defaults_are_good() -> None:
    config = Config()
    assert config.limits().message_bytes == 64 * 1024 * 1024
    assert config.engine_limits().connection.session.active == 16


def test_a_name_that_means_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "TURNWIRE_MAX_CONECTIONS" in refused(monkeypatch, TURNWIRE_MAX_CONECTIONS="5")


def test_a_bad_value_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "slots" in refused(monkeypatch, TURNWIRE_SLOTS="0")


@pytest.mark.parametrize("address", ["0.0.0.0:8400", "[::]:8400", "10.0.0.1:8400", "example:8400"])
def test_without_keys_only_this_machine_may_call(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    assert "API_KEYS_FILE" in refused(monkeypatch, TURNWIRE_HTTP_ADDRESS=address)


@pytest.mark.parametrize("address", ["", "127.0.0.1", ":8400", "127.0.0.1:http", "[::1]:70000"])
def test_an_address_is_a_host_and_a_port(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    assert "host:port" in refused(monkeypatch, TURNWIRE_HTTP_ADDRESS=address)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "[::1]:1", "localhost:1"])
def test_loopback_needs_no_keys(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("TURNWIRE_GRPC_ADDRESS", address)
    assert Config().grpc_address == address


def test_with_keys_anyone_may_be_listened_to(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TURNWIRE_API_KEYS_FILE", str(tmp_path / "keys"))
    monkeypatch.setenv("TURNWIRE_HTTP_ADDRESS", "0.0.0.0:8400")
    Config()


def test_origins_are_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TURNWIRE_ALLOWED_ORIGINS", "https://a.example, https://b.example,")
    assert Config().limits().allowed_origins == ("https://a.example", "https://b.example")


def test_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TURNWIRE_BACKEND_API_KEY", "hush")
    assert "hush" not in repr(Config())


def test_the_documentation_lists_every_setting() -> None:
    assert settings_table() in (ROOT / "docs/configuration.md").read_text()
