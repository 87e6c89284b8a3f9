"""Writes the field list of the published Open Responses schema, from the specification itself.

    python -m tests.conformance.schema.derive <openresponses.json> > openresponses.toml

Only what a server says is kept: its events, the response and the compaction, and what these are made
of. How a field list reads is told in `fields.py`.
"""

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

Kind: TypeAlias = Any
"""A name, a quoted word, a list of alternatives, or `{"list": Kind}`."""

_ROOTS = ("ResponseResource", "CompactResource", "ErrorStreamingEvent")
_EVENTS = ("StreamingEvent", "WebSocketErrorEvent")


class Specification:
    """The schemas of a specification, by name."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self.version: str = document["info"]["version"]
        self._schemas: Mapping[str, Any] = document["components"]["schemas"]

    def fields(self) -> dict[str, Kind]:
        """Return the fields of every event, and of all that events are made of."""
        events = {self._name_of(name): self._form(name) for name in self._events()}
        return {**events, **self._parts([*_ROOTS, *self._events()])}

    def _events(self) -> list[str]:
        return [name for name in self._schemas if name.endswith(_EVENTS) and name not in _ROOTS]

    def _name_of(self, event: str) -> str:
        name: str = self._schemas[event]["properties"]["type"]["enum"][0]
        return name

    def _parts(self, roots: list[str]) -> dict[str, Kind]:
        parts: dict[str, Kind] = {}
        waiting = list(roots)
        while waiting:
            name = waiting.pop()
            if name not in parts:
                parts[name] = self._form(name)
                waiting += _references(self._schemas[name])
        return {name: form for name, form in sorted(parts.items()) if name not in self._events()}

    def _form(self, name: str) -> Kind:
        return _kind(self._schemas[name])


def _kind(schema: Mapping[str, Any]) -> Kind:
    """Return what a schema allows. Words on other members are no part of it."""
    if reference := schema.get("$ref"):
        return reference.rpartition("/")[2]
    if words := schema.get("enum"):
        return _only([f"'{word}'" for word in words])
    for union in ("anyOf", "oneOf", "allOf"):
        if union in schema:
            return _only([kind for one in schema[union] if one and (kind := _kind(one)) != "any"])
    if schema.get("type") == "array":
        return {"list": _kind(schema["items"])}
    if members := schema.get("properties"):
        return _members(members, schema.get("required", ()))
    return schema.get("type", "any")


def _members(members: Mapping[str, Any], required: list[str]) -> dict[str, Kind]:
    return {
        (name if name in required else f"{name}?"): _kind(member)
        for name, member in members.items()
    }


def _only(kinds: list[Kind]) -> Kind:
    """Return alternatives; the one, if it is only one. Alternatives of alternatives are all the same."""
    flat = [one for kind in kinds for one in (kind if isinstance(kind, list) else [kind])]
    return flat[0] if len(flat) == 1 else flat


def _references(schema: object) -> Iterator[str]:
    if isinstance(schema, Mapping):
        if isinstance(reference := schema.get("$ref"), str):
            yield reference.rpartition("/")[2]
        for member in schema.values():
            yield from _references(member)
    elif isinstance(schema, list):
        for member in schema:
            yield from _references(member)


def toml(fields: Mapping[str, Kind]) -> Iterator[str]:
    """Write a field list, one line a member. What is no table comes before the tables."""
    for name, form in fields.items():
        if not isinstance(form, dict):
            yield f"{_key(name)} = {_value(form)}"
    for name, form in fields.items():
        if isinstance(form, dict):
            yield f"\n[{_key(name)}]"
            yield from (f"{_key(member)} = {_value(kind)}" for member, kind in form.items())


def _key(name: str) -> str:
    return name if name.replace("_", "").isalnum() else json.dumps(name)


def _value(kind: Kind) -> str:
    match kind:
        case dict():
            return (
                "{ " + ", ".join(f"{_key(key)} = {_value(one)}" for key, one in kind.items()) + " }"
            )
        case list():
            return "[" + ", ".join(map(_value, kind)) + "]"
        case _:
            return json.dumps(kind)


def main(path: str) -> None:
    """Write the field list of the specification at `path`."""
    specification = Specification(json.loads(Path(path).read_text(encoding="utf-8")))
    head = f"# The fields of Open Responses {specification.version}, written by derive.py: do not edit."
    sys.stdout.write("\n".join([head, "", *toml(specification.fields())]) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
