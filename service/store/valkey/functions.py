"""The functions that servers run for the vault, under names that say what their text is.

A library is called by its text's digest: replicas of this version and of another use the same servers
side by side, each with its own.
"""

import hashlib
from collections.abc import Sequence
from importlib import resources
from typing import Final, NamedTuple, TypeAlias

_TEXT = resources.files(__package__).joinpath("functions.lua").read_text()
_DIGEST = hashlib.sha256(_TEXT.encode()).hexdigest()[:12]

LIBRARY: Final = f"#!lua name=turnwire_{_DIGEST}\nlocal VERSION = '{_DIGEST}'\n{_TEXT}"
MISSING: Final = "Function not found"
"""What a server says that does not have the library."""

Word: TypeAlias = str | bytes | int
Command: TypeAlias = Sequence[Word]

LOAD: Final = ("FUNCTION", "LOAD", "REPLACE", LIBRARY)
"""Changes nothing where the library is: it is the same."""


class Call(NamedTuple):
    """A function that is to be run where a key is."""

    function: str
    key: str
    arguments: Sequence[Word]

    @property
    def command(self) -> Command:
        """The call as the servers read it."""
        return ("FCALL", f"{self.function}_{_DIGEST}", 1, self.key, *self.arguments)
