"""Field lists, and what a JSON value lacks by them.

A list has a kind for every name; events go by their type. A kind is

    "string", "integer", "number", "boolean", "null", "object", "any"
    "'completed'"                        this very word
    "Message"                            another kind of the list
    ["string", "null"]                   any of these; of objects, the one whose `type` it is
    { list = "LogProb" }                 a list of these
    { id = "string", "phase?" = "any" }  an object; members with a question mark may be missing

Members that a list does not name are allowed: the protocol grows by them.
"""

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

Kind: TypeAlias = Any
Json: TypeAlias = Any

_BASIC: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
    "object": (dict,),
    "any": (object,),
}


class FieldList:
    """Kinds by name."""

    def __init__(self, kinds: Mapping[str, Kind]) -> None:
        self._kinds = kinds

    @classmethod
    def read(cls, *names: str) -> "FieldList":
        """Read lists that stand beside this module; each adds to those before it."""
        kinds: dict[str, Kind] = {}
        for name in names:
            for key, kind in tomllib.loads((Path(__file__).parent / name).read_text()).items():
                before = kinds.get(key)
                kinds[key] = {**before, **kind} if isinstance(before, dict) else kind
        return cls(kinds)

    @property
    def events(self) -> frozenset[str]:
        """The types of the events it knows."""
        return frozenset(
            name
            for name, kind in self._kinds.items()
            if isinstance(kind, dict) and kind.get("type") == f"'{name}'"
        )

    def event_faults(self, event: Mapping[str, Json]) -> list[str]:
        """Tell what is wrong with an event, each with its place."""
        name = event["type"]
        return [*self.faults(name, event, name)] if name in self.events else [f"{name}: not known"]

    def faults(self, kind: Kind, value: Json, at: str) -> Iterator[str]:
        """Tell what is wrong with the value at a place."""
        if isinstance(kind, list):
            return self._union(kind, value, at)
        if isinstance(kind, dict):
            return (
                self._list(kind, value, at)
                if kind.keys() == {"list"}
                else self._object(kind, value, at)
            )
        if kind in self._kinds:
            return self.faults(self._kinds[kind], value, at)
        return _basic(kind, value, at)

    def _union(self, kinds: list[Kind], value: Json, at: str) -> Iterator[str]:
        meant = [kind for kind in kinds if self._names(kind, value)] or kinds
        faults = [list(self.faults(kind, value, at)) for kind in meant]
        if all(faults):
            yield from (fault for of_one in faults for fault in of_one)

    def _names(self, kind: Kind, value: Json) -> bool:
        """Whether an object says by its type that it is of a kind."""
        form = self._kinds.get(kind) if isinstance(kind, str) else None
        if not isinstance(form, dict) or not isinstance(value, dict):
            return False
        return form.get("type") == f"'{value.get('type')}'"

    def _list(self, kind: Mapping[str, Kind], value: Json, at: str) -> Iterator[str]:
        if not isinstance(value, list):
            yield f"{at}: not a list"
            return
        for index, element in enumerate(value):
            yield from self.faults(kind["list"], element, f"{at}[{index}]")

    def _object(self, kind: Mapping[str, Kind], value: Json, at: str) -> Iterator[str]:
        if not isinstance(value, dict):
            yield f"{at}: not an object"
            return
        for member, of_member in kind.items():
            name = member.removesuffix("?")
            if name in value:
                yield from self.faults(of_member, value[name], f"{at}.{name}")
            elif name == member and f"{name}?" not in kind:
                yield f"{at}.{name}: missing"


def _basic(kind: str, value: Json, at: str) -> Iterator[str]:
    if kind.startswith("'"):
        fits = isinstance(value, str) and kind == f"'{value}'"
    else:
        fits = isinstance(value, _BASIC[kind])
        if isinstance(value, bool):
            fits = kind in {"boolean", "any"}
    if not fits:
        yield f"{at}: not {kind}"


PROTOCOL = FieldList.read("openresponses.toml", "ours.toml")
"""What clients may rely on."""
