"""Logs: one JSON object a line, or readable ones on a terminal. Never any content, never a secret."""

import logging
import sys
import threading
import traceback
from types import TracebackType
from typing import Literal

import structlog
from structlog.typing import EventDict, Processor

Format = Literal["auto", "json", "console"]


def configure(level: str, form: Format) -> None:
    """Send structlog's and the standard library's records to stderr, in the same form."""
    console = form == "console" or (form == "auto" and sys.stderr.isatty())
    renderer: Processor = (
        structlog.dev.ConsoleRenderer() if console else structlog.processors.JSONRenderer()
    )
    shared: list[Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _where,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(processor=renderer, foreign_pre_chain=shared)
    )
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def catch_all() -> None:
    """Log what nobody catches, in threads and destructors too: Python would print it with its words."""
    sys.excepthook = _uncaught
    threading.excepthook = lambda broken: _log_uncaught(broken.exc_value)
    sys.unraisablehook = lambda broken: _log_uncaught(broken.exc_value)


def _uncaught(
    _kind: type[BaseException], error: BaseException, _trace: TracebackType | None
) -> None:
    _log_uncaught(error)


def _log_uncaught(error: BaseException | None) -> None:
    logging.getLogger(__name__).error("uncaught", exc_info=error)


def _where(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Say what went wrong and where, not in which words: an exception's text may quote content."""
    if error := _raised(event.pop("exc_info", None)):
        frames = traceback.extract_tb(error.__traceback__)
        event["exception"] = type(error).__name__
        event["where"] = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
    return event


def _raised(exc_info: object) -> BaseException | None:
    """Return the exception of a record, in whichever of the three forms it came."""
    if isinstance(exc_info, BaseException):
        return exc_info
    if isinstance(exc_info, tuple):
        return exc_info[1] if isinstance(exc_info[1], BaseException) else None
    return sys.exc_info()[1] if exc_info else None
