r"""A classifier by regular expressions, from a file of the operator's.

One TOML table a category:

    [weapons]
    patterns = ['\bpipe bombs?\b', '\bbuild\b.{0,40}\bdetonator\b']
    score = 0.9
    case_sensitive = false

Patterns are RE2's: what they cost grows with the text and with nothing else, whatever anyone writes.
"""

import asyncio
import hashlib
import tomllib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import re2  # type: ignore[import-untyped]
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from service.moderation.verdicts import Failure, Verdict

_AT_ONCE = 512 * 1024
"""Bytes of text, times patterns, that are searched in one go: under a millisecond."""
_SEARCH = 1024  # bytes that could be searched in the time that beginning to takes
_DEADLINE = 10.0  # seconds
_LATE = Failure("classifier_unavailable", "The classifier did not answer in time.")


class _Table(BaseModel):
    """A category, as its file has it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    patterns: Annotated[list[str], Field(min_length=1)]
    score: Annotated[float, Field(gt=0, le=1)] = 1.0
    case_sensitive: bool = False


_TABLES = TypeAdapter(Annotated[dict[str, _Table], Field(min_length=1)])


@dataclass(frozen=True, slots=True)
class _Category:
    name: str
    score: float
    patterns: Sequence[Any]

    def covers(self, text: bytes) -> bool:
        return any(pattern.search(text) for pattern in self.patterns)


class RulesClassifier:
    """Flags texts in which a category's pattern is found."""

    def __init__(self, name: str, rules: bytes) -> None:
        self.name = name
        self.version = hashlib.blake2b(rules, digest_size=16).hexdigest()
        self._categories = _categories(rules)
        self._patterns = sum(len(category.patterns) for category in self._categories)
        self._thread = ThreadPoolExecutor(1, "turnwire-rules")

    @classmethod
    def read(cls, name: str, path: Path) -> "RulesClassifier":
        """Read a file of rules. Raises `OSError`, or `ValueError` for the operator."""
        try:
            return cls(name, path.read_bytes())
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    async def classify(self, texts: Sequence[str]) -> Sequence[Verdict] | Failure:
        """Search all texts. Much of it is searched beside the event loop, and others take turns."""
        encoded = [text.encode() for text in texts]
        if sum(map(self._work, encoded)) <= _AT_ONCE:
            return self._judge(encoded)
        loop = asyncio.get_running_loop()
        verdicts: list[Verdict] = []
        try:
            async with asyncio.timeout(_DEADLINE):
                for batch in self._batches(encoded):
                    verdicts += await loop.run_in_executor(self._thread, self._judge, batch)
        except TimeoutError:
            return _LATE
        return verdicts

    def close(self) -> None:
        """Let go of the thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _batches(self, texts: Sequence[bytes]) -> Iterator[list[bytes]]:
        """Cut texts into what is searched in one go: a batch of short ones, or a long one."""
        batch: list[bytes] = []
        work = 0
        for text in texts:
            work += self._work(text)
            if batch and work > _AT_ONCE:
                yield batch
                batch, work = [], self._work(text)
            batch.append(text)
        if batch:
            yield batch

    def _work(self, text: bytes) -> int:
        return (_SEARCH + len(text)) * self._patterns

    def _judge(self, texts: Sequence[bytes]) -> list[Verdict]:
        return [self._verdict(text) for text in texts]

    def _verdict(self, text: bytes) -> Verdict:
        scores = {c.name: c.score if c.covers(text) else 0.0 for c in self._categories}
        flagged = frozenset(name for name, score in scores.items() if score)
        return Verdict(self.name, scores, flagged, flagged=bool(flagged))


def _categories(rules: bytes) -> Sequence[_Category]:
    """Compile rules. Raises `ValueError` with all that is wrong with them."""
    try:
        tables = _TABLES.validate_python(tomllib.loads(rules.decode()))
    except ValidationError as error:
        problems = error.errors(include_input=False, include_url=False)
        told = (f"{'.'.join(map(str, p['loc'])) or 'the file'}: {p['msg']}" for p in problems)
        raise ValueError("; ".join(told)) from None
    return [_Category(name, table.score, _compiled(name, table)) for name, table in tables.items()]


def _compiled(name: str, table: _Table) -> Sequence[Any]:
    options = re2.Options()
    options.case_sensitive = table.case_sensitive
    options.never_capture = True
    options.log_errors = False
    try:
        return [re2.compile(pattern.encode(), options) for pattern in table.patterns]
    except re2.error as error:
        reason = error.args[0].decode(errors="replace")
        raise ValueError(f"{name}: not a pattern of RE2's: {reason}") from None
