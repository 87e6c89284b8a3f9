"""The tenants file: TOML in, what each tenant may have out; read again whenever it changes."""

import dataclasses
import functools
import math
import time
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails

from service.identity import is_tenant
from service.identity.live_files import BadFile, LiveFiles
from service.tenants import Allowance
from turnwire.v1 import responses_pb2

_MOST_TOLD = 10  # problems of one file

_Mode = Literal["score", "block"]
_Rate = Annotated[float, Field(ge=1)]


class TenantsFile:
    """What a file says, as of a moment ago."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        """Read a file. Raises `BadFile`."""
        try:
            self._file = LiveFiles([path], functools.partial(_read, path), clock)
        except OSError as error:
            raise BadFile(f"{path} cannot be read: {error.strerror}") from None

    def allowance(self, tenant: str) -> Allowance:
        """Return what a tenant may have: what its table says, and for the rest the defaults."""
        said = self._file.content
        return said.tenants.get(tenant, said.defaults)


class _Said(NamedTuple):
    """What a file says."""

    defaults: Allowance
    tenants: Mapping[str, Allowance]


class _Table(BaseModel):
    """Part of the file. What is not known in it is a mistake: a misspelt limit would silently not hold."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class _Screening(_Table):
    model: str | None = None
    input: _Mode | None = None
    output: _Mode | None = None

    @model_validator(mode="after")
    def _by_someone(self) -> Self:
        """Refuse a policy without a classifier."""
        if (self.input or self.output) and not self.model:
            raise ValueError("expected the classifier's name in 'model'")
        return self

    def value(self) -> responses_pb2.ModerationSettings | None:
        """Return it as a client would ask for it. An empty table is none."""
        if not self.model:
            return None
        settings = responses_pb2.ModerationSettings(model=self.model)
        if self.input:
            settings.policy.input.mode = self.input
        if self.output:
            settings.policy.output.mode = self.output
        return settings


class _Limits(_Table):
    connections: _Rate = math.inf
    turns_per_minute: _Rate = math.inf
    bytes_per_minute: _Rate = math.inf
    tokens_per_minute: _Rate = math.inf
    stored_bytes: Annotated[float, Field(ge=0)] = math.inf
    screening: _Screening = _Screening()
    suspended: bool = False

    def over(self, defaults: Allowance) -> Allowance:
        """Return the defaults with what is said here in their place."""
        return dataclasses.replace(
            defaults, **{name: self._value(name) for name in self.model_fields_set}
        )

    def _value(self, name: str) -> Any:
        match name:
            case "screening":
                return self.screening.value()
            case "stored_bytes":
                return None if math.isinf(self.stored_bytes) else int(self.stored_bytes)
        return getattr(self, name)


class _File(_Table):
    defaults: _Limits = _Limits()
    tenants: dict[str, _Limits] = Field(default_factory=dict)

    @field_validator("tenants")
    @classmethod
    def _named(cls, value: dict[str, _Limits]) -> dict[str, _Limits]:
        """Refuse names that no credential can be for."""
        if not all(map(is_tenant, value)):
            raise ValueError("expected names of up to 128 visible ASCII characters, without '#'")
        return value

    def said(self) -> _Said:
        defaults = self.defaults.over(Allowance())
        return _Said(defaults, {name: table.over(defaults) for name, table in self.tenants.items()})


def _read(path: Path) -> _Said:
    try:
        return _File.model_validate(tomllib.loads(path.read_text(encoding="utf-8"))).said()
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadFile(f"{path} is no TOML: {error}") from None
    except ValidationError as error:
        problems = error.errors(include_input=False, include_url=False)[:_MOST_TOLD]
        raise BadFile("\n".join(f"{path}: {_problem(one)}" for one in problems)) from None


def _problem(error: ErrorDetails) -> str:
    place = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return f"{place} is unknown: expected {_known(error['loc'])}"
    return f"{place}: {error['msg'].removeprefix('Value error, ')}"


def _known(place: tuple[int | str, ...]) -> str:
    """Return the names that a table may have, the one with an unknown name at this place."""
    tables: tuple[type[_Table], ...] = (_File, _Limits, _Limits, _Screening)
    depth = len(place) - 1 if place[0] != "defaults" else len(place)
    return ", ".join(tables[depth].model_fields)
