"""The models file: what it can say, and what is said of one that is wrong."""

import re
from pathlib import Path

import pytest

from service.backends.http import Deadlines
from service.servers import Roster
from service.servers.file import BadModelsFile, read

ROOT = Path(__file__).parents[3]


def written(folder: Path, text: str) -> Path:
    path = folder / "models.toml"
    path.write_text(text)
    return path


def problems(folder: Path, text: str) -> str:
    with pytest.raises(BadModelsFile) as error:
        read(written(folder, text))
    return str(error.value)


def roster(folder: Path, text: str) -> Roster:
    return read(written(folder, text))


ONE = '[servers.one]\nurl = "http://127.0.0.1:8000"\n'


def test_an_address_is_enough(tmp_path: Path) -> None:
    [server] = roster(tmp_path, ONE).servers
    assert (server.name, server.kind, server.models) == ("one", "auto", {})


def test_the_example_of_the_documentation_is_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (ROOT / "docs/servers.md").read_text()
    [example] = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    monkeypatch.setenv("HOSTED_KEY", "secret-of-the-environment")
    (tmp_path / "gpu.key").write_text("secret-of-a-file\n")
    (tmp_path / "qwen3").mkdir()
    read_roster = roster(tmp_path, example)
    servers = {server.name: server for server in read_roster.servers}
    keys = [server.api_key.get_secret_value() for server in servers.values() if server.api_key]
    assert keys == ["secret-of-a-file", "secret-of-the-environment"]
    assert servers["gpu-1"].models == {"qwen3": "Qwen/Qwen3-8B"}
    assert servers["gpu-1"].tokenizer == tmp_path / "qwen3"
    assert servers["gpu-1"].deadlines == Deadlines(connect=2.0, answer=120.0)
    assert read_roster.aliases == {"default": "qwen3"}


def test_models_are_a_list_or_names_with_names(tmp_path: Path) -> None:
    [server] = roster(tmp_path, ONE + 'models = ["a", "b"]').servers
    assert server.models == {"a": "a", "b": "b"}
    [server] = roster(tmp_path, ONE + 'models = {a = "org/a"}').servers
    assert server.models == {"a": "org/a"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "servers"),
        ("[servers", "is no TOML"),
        (ONE + "wieght = 2", "servers.one.wieght is unknown: expected kind, url,"),
        (ONE + "deadlines = {conect = 1}", "deadlines.conect is unknown: expected connect, slot,"),
        (ONE + "[server.two]", "server is unknown: expected servers, aliases, strict"),
        (ONE + 'kind = "vlm"', "servers.one.kind"),
        (ONE + "weight = 0", "servers.one.weight"),
        (ONE + "weight = inf", "servers.one.weight"),
        (ONE + "context = -1", "servers.one.context"),
        (ONE + "deadlines = {connect = 0}", "servers.one.deadlines.connect"),
        (ONE + "models = 3", 'expected ["name", ...]'),
        (ONE + "models = [3]", 'expected ["name", ...]'),
        (ONE + 'models = [""]', "servers.one.models"),
        (ONE + 'tokenizer = "nowhere"', "there is no "),
        (ONE + 'headers = {"X-A" = "a\\r\\nb"}', "visible ASCII"),
        (ONE + 'headers = {"X A" = "a"}', "visible ASCII"),
        (ONE + 'api_key_env = "NOBODY_SET_THIS"', "no key in NOBODY_SET_THIS"),
        (ONE + 'api_key_env = "A"\napi_key_file = "."', "exclude each other"),
        ("[servers.one]\n", "servers.one.url: expected an address, http://host:port or https://"),
        ('[servers.one]\nurl = "ftp://a"', "http://host:port or https://host:port"),
        ('[servers.one]\nurl = "http://a b"', "http://host:port or https://host:port"),
        ('[servers.one]\nurl = "http://me:pw@a"', "servers.one.url: expected an address without"),
        ('[servers.one]\nkind = "vllm-grpc"\nurl = "http://a:1"', "grpc://host:port or grpcs://"),
        (ONE + 'state = "stored"', "state is for kinds responses"),
        (ONE + 'kind = "responses"\nstate = "connection"', "only responses-websocket"),
        (ONE + 'kind = "vllm-generate"', "needs a tokenizer"),
        (ONE + 'kind = "ollama"\ntokenizer = "."', "a tokenizer is for kinds auto, sglang,"),
        (ONE + 'kind = "vllm"\ntokenizer = "models.toml"', "there is no directory "),
        (ONE + 'kind = "llama.cpp"\nheaders = {X-A = "a"}', "headers cannot be set for kind"),
        (ONE + 'api_key_file = "."', "the key's file cannot be read: Is a directory"),
        (
            ONE + 'kind = "ollama"\nsaved_conversations = 3',
            "saved_conversations is for kind llama.cpp",
        ),
        ('[servers.one]\nkind = "simulator"\nurl = "http://a:1"', "no url"),
        ('[servers."a b"]\nurl = "http://a"', "a server's name is of letters"),
        (ONE + 'models = ["a"]\n[aliases]\na = "a"', "is the name of a model too"),
        (ONE + 'models = ["a"]\n[aliases]\nb = "c"', "'c', which no server has"),
    ],
)
def test_what_is_wrong_is_told_by_place(tmp_path: Path, text: str, said: str) -> None:
    message = problems(tmp_path, text)
    assert said in message
    assert "models.toml" in message


def test_everything_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    message = problems(tmp_path, ONE + 'weight = 0\nkind = "x"\n[servers.two]\nuri = "a"')
    assert {"servers.one.weight", "servers.one.kind", "servers.two.uri"} <= set(
        re.findall(r"servers\.\w+\.\w+", message)
    )


def test_a_bad_address_is_told_beside_what_else_is_wrong(tmp_path: Path) -> None:
    message = problems(tmp_path, '[servers.one]\nurl = "nowhere"\nweight = 0')
    assert {"servers.one.url", "servers.one.weight"} <= set(
        re.findall(r"servers\.\w+\.\w+", message)
    )


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadModelsFile, match=r"nowhere\.toml cannot be read: No such file"):
        read(tmp_path / "nowhere.toml")
    with pytest.raises(BadModelsFile, match="cannot be read: Is a directory"):
        read(tmp_path)


def test_no_secret_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BAD_KEY", "hush\nhush")
    (tmp_path / "key").write_text("hush hush\x07")
    bad = (
        'api_key_env = "BAD_KEY"',
        'api_key_file = "key"',
        'headers = {Authorization = "hush\\n"}',
        'api_key = "hush"',
        'api_key_env = "hush-hush"',
        'api_key_env = "hush"',
        'api_key_file = "hush"',
    )
    for line in bad:
        assert "hush" not in problems(tmp_path, ONE + line)
    assert "hush" not in problems(tmp_path, '[servers.one]\nurl = "http://me:hush@a"')
    monkeypatch.setenv("GOOD_KEY", "hush")
    good = ONE + 'api_key_env = "GOOD_KEY"\nheaders = {X-Key = "hush"}'
    assert "hush" not in repr(roster(tmp_path, good))
