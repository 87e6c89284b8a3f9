"""The journal that the operator asks for: none, standard output, a file, or a collector."""

import importlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from service.audit import Journal
from service.audit.queue import QueuedJournal
from service.audit.sinks import JsonLines, Sink, StandardOutput
from service.metrics import Metrics

_ADDRESSES = ("http://", "https://")


class BadJournal(Exception):
    """There can be no such journal. Says what would be right."""


@asynccontextmanager
async def journal(place: str, metrics: Metrics, grace: float) -> AsyncIterator[Journal | None]:
    """Keep a journal, then write what waits for at most `grace` seconds. Raises `BadJournal`."""
    if place == "none":
        yield None
        return
    queued = QueuedJournal(sink_of(place), metrics)
    queued.start()
    try:
        yield queued
    finally:
        await queued.stop(grace)


def sink_of(place: str) -> Sink:
    """Return where a journal ends up. Raises `BadJournal`."""
    if place == "stdout":
        return StandardOutput()
    if place.startswith(_ADDRESSES):
        return _collector(place)
    try:
        return JsonLines(Path(place))
    except OSError as error:
        raise BadJournal(f"the journal cannot be written to {place}: {error.strerror}") from None


def _collector(url: str) -> Sink:
    """Return a collector: what it is spoken to with is not installed everywhere."""
    try:
        otlp = importlib.import_module("service.audit.otlp")
    except ModuleNotFoundError as error:
        raise BadJournal(
            f"a journal over OTLP needs the package '{error.name}': pip install 'turnwire[otlp]'"
        ) from None
    sink: Sink = otlp.Otlp(url)
    return sink
