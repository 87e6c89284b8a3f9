"""Text such as agents read and write: prose, code, listings, logs. Made up, from a seeded draw."""

import json
from collections.abc import Callable, Sequence
from random import Random

_WORDS = (
    "the a of to and in is for that this with on it as not from by at be was which when where all each "
    "after before again already also only because could should would must request response session "
    "connection server client handler parser buffer stream token cache index query result error "
    "timeout retry value field header payload queue worker thread lock file path line module class "
    "function method argument variable return type check test case failure passes expects missing "
    "empty first last next previous old new small large slow fast open closed read write update "
    "remove create rename move add change keep find look seems means happens breaks works explains "
    "Überprüfung naïve façade 漢字 résumé"
)
_PARTS = "load store parse render count merge split apply fetch build close find walk read"
_NOUNS = "config node item turn batch frame page chunk order route user event limit"
_FOLDERS = "service transports tests docs deploy tools schema internal"
_LEVELS = ("INFO", "WARNING", "ERROR", "DEBUG")


class Author:
    """Writes text of any length; the same seed writes the same."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)  # noqa: S311 - nothing secret is drawn
        self._words, self._parts = _WORDS.split(), _PARTS.split()
        self._nouns, self._folders = _NOUNS.split(), _FOLDERS.split()
        self._forms: Sequence[Callable[[], str]] = (self._code, self._listing, self._log, self.said)

    def number(self, least: int, most: int) -> int:
        """Draw a number."""
        return self._random.randint(least, most)

    def said(self) -> str:
        """Return a sentence."""
        words = self._random.choices(self._words, k=self.number(6, 18))
        return f"{' '.join(words).capitalize()}."

    def prose(self, characters: int) -> str:
        """Return sentences, about so many characters of them."""
        return self._filled(characters, self.said, " ")

    def output(self, characters: int) -> str:
        """Return what a tool gives: code, a listing, a log or prose."""
        return self._filled(characters, self._random.choice(self._forms), "\n")

    def path(self) -> str:
        """Return the path of a file."""
        folders = self._random.sample(self._folders, k=self.number(1, 3))
        return f"{'/'.join(folders)}/{self._name()}.py"

    def arguments(self) -> str:
        """Return the arguments of a call, as JSON."""
        start = self.number(1, 400)
        given = {
            "path": self.path(),
            "query": self._name(),
            "lines": [start, start + 40],
            "options": {"recursive": bool(start % 2), "limit": self.number(1, 200)},
        }
        return json.dumps(given)

    def _filled(self, characters: int, form: Callable[[], str], between: str) -> str:
        """Return lines of one form: the last one is whole."""
        lines, length = list[str](), 0
        while length < characters:
            lines.append(form())
            length += len(lines[-1]) + len(between)
        return between.join(lines)

    def _name(self) -> str:
        return f"{self._random.choice(self._parts)}_{self._random.choice(self._nouns)}"

    def _code(self) -> str:
        indent = "    " * self.number(0, 3)
        return (
            f"{indent}{self._name()} = self._{self._name()}({self._name()}, {self.number(0, 999)})"
        )

    def _listing(self) -> str:
        return f"-rw-r--r-- {self.number(10, 99999):>7} {self.path()}"

    def _log(self) -> str:
        stamp = f"2026-11-{self.number(1, 30):02}T{self.number(0, 23):02}:{self.number(0, 59):02}Z"
        level, digest = self._random.choice(_LEVELS), self._random.getrandbits(48)
        return f"{stamp} {level} {self._name()} id={digest:012x} took={self.number(1, 4000)}ms"
