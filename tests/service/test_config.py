"""The configuration: what it refuses, and that the documentation says the same."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from service.config import Config, settings_table
from service.serve import roster_of

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


def test_a_models_file_and_a_backend_exclude_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    said = refused(monkeypatch, TURNWIRE_MODELS_FILE="models.toml", TURNWIRE_BACKEND="auto")
    assert "TURNWIRE_MODELS_FILE" in said


@pytest.mark.parametrize("backend", ["vllm", "llama.cpp", "ollama"])
def test_a_backend_has_a_usual_address(monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    monkeypatch.setenv("TURNWIRE_BACKEND", backend)
    [server] = roster_of(Config()).servers
    assert server.kind == backend
    assert server.url.startswith("http://127.0.0.1:")


@pytest.mark.parametrize(
    ("backend", "url"),
    [
        ("openai", ""),
        ("vllm-grpc", ""),
        ("vllm-grpc", "http://127.0.0.1:1"),
        ("vllm", "127.0.0.1:8000"),
        ("vllm", "http://me:hush@127.0.0.1"),
    ],
)
def test_an_address_must_fit_the_backend(
    monkeypatch: pytest.MonkeyPatch, backend: str, url: str
) -> None:
    said = refused(monkeypatch, TURNWIRE_BACKEND=backend, TURNWIRE_BACKEND_URL=url)
    assert "TURNWIRE_BACKEND_URL: expected an address" in said


def test_a_server_is_asked_what_it_is_at_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TURNWIRE_BACKEND", "auto")
    monkeypatch.setenv("TURNWIRE_BACKEND_URL", "http://127.0.0.1:7/v1/")
    [server] = roster_of(Config()).servers
    assert (server.name, server.kind, server.url) == (
        "127.0.0.1:7/v1",
        "auto",
        "http://127.0.0.1:7/v1/",
    )


@pytest.mark.parametrize(
    ("backend", "name", "value"),
    [
        ("embedded", "BACKEND_URL", "http://127.0.0.1:1"),
        ("simulator", "BACKEND_URL", "http://127.0.0.1:1"),
        ("embedded", "BACKEND_TOKENIZER", "."),
        ("auto", "BACKEND_TOKENIZER", "."),
        ("llama.cpp", "BACKEND_TOKENIZER", "."),
        ("vllm", "BACKEND_TOKENIZER", "nowhere"),
    ],
)
def test_what_no_server_would_be_asked_with_is_refused(
    monkeypatch: pytest.MonkeyPatch, backend: str, name: str, value: str
) -> None:
    said = refused(monkeypatch, TURNWIRE_BACKEND=backend, **{f"TURNWIRE_{name}": value})
    assert f"TURNWIRE_{name}" in said


def test_the_documentation_lists_every_setting() -> None:
    assert settings_table() in (ROOT / "docs/configuration.md").read_text()
