"""The models file: TOML in, a `Roster` out. What is wrong in it is told by place, all at once.

Keys of model servers are not in it: it names the variable or the file that holds one.
"""

import os
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails

from service.backends.http import Deadlines
from service.servers import TOLD_IN_IDS, Kind, Roster, Server, State, TemplateSource

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}")
_FIELD = re.compile(r"[A-Za-z0-9!#$%&'*+.^_|~-]+")
_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*")
_VISIBLE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")

_WITH_TOKENIZER = TOLD_IN_IDS | {"auto", "vllm-generate"}
_WITHOUT_HEADERS = {"llama.cpp", "vllm-generate", "vllm-grpc", "sglang-grpc", "trtllm-grpc"}
_GRPC, _HTTP = ("grpc", "grpcs"), ("http", "https")

_Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Name = Annotated[str, Field(min_length=1, max_length=256)]


class BadModelsFile(Exception):
    """A models file says what cannot be. Names every place, and what would be right; never a secret."""


def read(path: Path) -> Roster:
    """Read a models file. Raises `BadModelsFile`."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        return _File.model_validate(content, context=path.parent).roster()
    except BadModelsFile as error:
        raise BadModelsFile(f"{path}: {error}") from None
    except OSError as error:
        raise BadModelsFile(f"{path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadModelsFile(f"{path} is no TOML: {error}") from None
    except ValidationError as error:
        problems = map(_problem, error.errors(include_input=False, include_url=False))
        raise BadModelsFile("\n".join(f"{path}: {problem}" for problem in problems)) from None


def checked_address(url: str, kind: str) -> str:
    """Return a server's address. Raises `ValueError` if it is none for this kind of server."""
    schemes = _GRPC if kind.endswith("-grpc") else _HTTP
    try:
        parts = urlsplit(url)
        good = parts.scheme in schemes and parts.hostname and parts.port != 0
    except ValueError:
        good = False
    if not good or not _VISIBLE.fullmatch(url) or " " in url:
        right = " or ".join(f"{scheme}://host:port" for scheme in schemes)
        raise ValueError(f"expected an address, {right}")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError(
            "expected an address without credentials, query or fragment: see api_key_env"
        )
    return url


def check_tokenizer(tokenizer: Path | None, kind: str) -> None:
    """Raise `ValueError` if this kind of server needs a tokenizer, or has no use for this one."""
    if tokenizer is None and kind == "vllm-generate":
        raise ValueError("vllm-generate needs a tokenizer: the server hands none out")
    if tokenizer and kind not in _WITH_TOKENIZER:
        raise ValueError(f"a tokenizer is for kinds {', '.join(sorted(_WITH_TOKENIZER))}")
    if tokenizer and not tokenizer.is_dir():
        raise ValueError(f"there is no directory {tokenizer}")


class _Table(BaseModel):
    """Part of the file. What is not known in it is a mistake: a misspelt limit would silently not hold."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class _Deadlines(_Table):
    connect: _Seconds | None = None
    slot: _Seconds | None = None
    answer: _Seconds | None = None
    read: _Seconds | None = None

    def value(self) -> Deadlines:
        return Deadlines(**self.model_dump(exclude_none=True))


class _Server(_Table):
    kind: Literal[Kind, "auto", "simulator"] = "auto"
    url: str = Field("", validate_default=True)
    api_key_env: str | None = None
    api_key_file: Path | None = None
    headers: dict[str, str] = Field(default_factory=dict)
    models: dict[_Name, _Name] = Field(default_factory=dict)
    weight: float = Field(1.0, gt=0, le=1000, allow_inf_nan=False)
    tokenizer: Path | None = None
    template: TemplateSource = "auto"
    context: int | None = Field(None, ge=1)
    saved_conversations: int = Field(0, ge=0)
    state: State | None = None
    deadlines: _Deadlines = _Deadlines()

    @field_validator("url")
    @classmethod
    def _address(cls, value: str, info: ValidationInfo) -> str:
        """Refuse what is no place for this kind of server."""
        match info.data.get("kind"):
            case None:  # which is told already
                return value
            case "simulator" if value:
                raise ValueError("a simulator is in this process: it has no url")
            case "simulator":
                return value
            case kind:
                return checked_address(value, kind)

    @field_validator("models", mode="before")
    @classmethod
    def _same_names(cls, value: object) -> object:
        """Read a list of models as names that clients and server share."""
        match value:
            case dict():
                return value
            case [*names] if all(isinstance(name, str) for name in names):
                return dict(zip(names, names, strict=True))
        raise ValueError('expected ["name", ...] or {name = "what the server calls it", ...}')

    @field_validator("headers")
    @classmethod
    def _sendable(cls, value: dict[str, str]) -> dict[str, str]:
        """Refuse what would break a request apart."""
        for name, content in value.items():
            if not _FIELD.fullmatch(name) or not _VISIBLE.fullmatch(content):
                raise ValueError("expected names and values of visible ASCII characters")
        return value

    @field_validator("tokenizer", "api_key_file")
    @classmethod
    def _there(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        """Find a path, which is relative to the models file."""
        if value is None:
            return None
        path = Path(info.context or ".") / value.expanduser()
        if not path.exists():
            told = (
                path if info.field_name == "tokenizer" else "such file"
            )  # it may be the key itself
            raise ValueError(f"there is no {told}")
        return path

    @model_validator(mode="after")
    def _one_key(self) -> Self:
        """Refuse a server that is told two keys."""
        if self.api_key_env and self.api_key_file:
            raise ValueError("api_key_env and api_key_file exclude each other")
        return self

    @model_validator(mode="after")
    def _able(self) -> Self:
        """Refuse what this kind of server cannot do."""
        if self.state and not self.kind.startswith("responses"):
            raise ValueError("state is for kinds responses and responses-websocket")
        if self.state == "connection" and self.kind != "responses-websocket":
            raise ValueError("only responses-websocket keeps state on a connection")
        if self.saved_conversations and self.kind not in ("llama.cpp", "auto"):
            raise ValueError("saved_conversations is for kind llama.cpp")
        if self.headers and self.kind in _WITHOUT_HEADERS:
            raise ValueError(f"headers cannot be set for kind {self.kind}")
        check_tokenizer(self.tokenizer, self.kind)
        return self

    def value(self, name: str) -> Server:
        """Return the server. Raises `ValueError` if its key is not where it should be."""
        return Server(
            name=name,
            kind=self.kind,
            url=self.url,
            api_key=self._key(),
            headers=self.headers,
            models=self.models,
            weight=self.weight,
            tokenizer=self.tokenizer,
            template=self.template,
            context=self.context,
            saved_conversations=self.saved_conversations,
            state=self.state,
            deadlines=self.deadlines.value(),
        )

    def _key(self) -> SecretStr | None:
        if self.api_key_env:
            key = os.environ.get(self.api_key_env, "")
        elif self.api_key_file:
            key = self.api_key_file.read_text(encoding="utf-8", errors="replace").strip()
        else:
            return None
        if not _VISIBLE.fullmatch(key):
            place = self._place_of_key()
            raise ValueError(f"there is no key in {place}, or not in visible ASCII characters")
        return SecretStr(key)

    def _place_of_key(self) -> str:
        """Return where the key should be, unless the operator may have written the key itself there."""
        if self.api_key_file:
            return str(self.api_key_file)
        name = self.api_key_env or ""
        return name if _VARIABLE.fullmatch(name) else "the variable that api_key_env names"


class _File(_Table):
    servers: dict[str, _Server] = Field(min_length=1)
    aliases: dict[_Name, _Name] = Field(default_factory=dict)
    strict: bool = False

    @field_validator("servers")
    @classmethod
    def _named(cls, value: dict[str, _Server]) -> dict[str, _Server]:
        """Refuse names that would not do as labels of metrics."""
        for name in value:
            if not _NAME.fullmatch(name):
                raise ValueError("a server's name is of letters, digits and . _ : -, at most 64")
        return value

    @model_validator(mode="after")
    def _meant(self) -> Self:
        """Refuse aliases that hide a model, or that stand for none."""
        models = {name for server in self.servers.values() for name in server.models}
        listed = any(not server.models for server in self.servers.values())
        for alias, model in self.aliases.items():
            if alias in models:
                raise ValueError(f"the alias '{alias}' is the name of a model too")
            if model not in models and not listed:
                raise ValueError(f"the alias '{alias}' stands for '{model}', which no server has")
        return self

    def roster(self) -> Roster:
        """Return who serves. Raises `BadModelsFile` if a key is missing."""
        return Roster(servers=self._values(), aliases=self.aliases, strict=self.strict)

    def _values(self) -> Sequence[Server]:
        servers = []
        for name, entry in self.servers.items():
            try:
                servers.append(entry.value(name))
            except OSError as error:
                problem = f"the key's file cannot be read: {error.strerror}"
                raise BadModelsFile(f"servers.{name}: {problem}") from None
            except ValueError as error:
                raise BadModelsFile(f"servers.{name}: {error}") from None
        return servers


def _problem(error: ErrorDetails) -> str:
    place = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return f"{place} is unknown: expected {_known(error['loc'])}"
    message = error["msg"].removeprefix("Value error, ")
    return f"{place}: {message}" if place else message


def _known(place: tuple[Any, ...]) -> str:
    """Return the names that a table may have, the one with an unknown name at this place."""
    match place:
        case (_,):
            table: type[_Table] = _File
        case ("servers", _, "deadlines", _):
            table = _Deadlines
        case _:
            table = _Server
    return ", ".join(table.model_fields)
