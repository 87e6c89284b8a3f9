"""Entries as log records of OpenTelemetry, sent to a collector over HTTP.

Needs the packages of the extra `otlp`: nothing else imports this module. Headers, certificates and time
limits are set as OpenTelemetry says it, by `OTEL_EXPORTER_OTLP_*` variables.
"""

import logging
from collections.abc import Sequence
from urllib.parse import urlsplit

from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk._logs.export import LogRecordExportResult
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from requests import Response, Session

from service.audit import Entry
from service.audit.lines import members

_PATH = "/v1/logs"
_EVENT = "turnwire.turn"
_SCOPE = InstrumentationScope("turnwire")
_NAMES = {
    "response_id": "gen_ai.response.id",
    "model": "gen_ai.request.model",
    "error": "error.type",
    "input_tokens": "gen_ai.usage.input_tokens",
    "cached_tokens": "gen_ai.usage.cache_read.input_tokens",
    "output_tokens": "gen_ai.usage.output_tokens",
    "reasoning_tokens": "gen_ai.usage.reasoning.output_tokens",
}
"""What OpenTelemetry has a name for; the rest is `turnwire.*`."""


class Otlp:
    """A collector. A request whose answer was lost is sent again: an entry may arrive twice."""

    def __init__(self, url: str) -> None:
        """Take a collector's address; without a path, it is the usual one."""
        # It would tell of each attempt, in the collector's words; outages are told by the journal.
        logging.getLogger("opentelemetry.exporter.otlp").setLevel(logging.CRITICAL)
        session = Session()
        session.hooks["response"] = [_refuse_redirection]
        self._exporter = OTLPLogExporter(endpoint=_endpoint(url), session=session)
        self._resource = Resource.create({"service.name": "turnwire"})

    def write(self, entries: Sequence[Entry]) -> None:
        """Send all of them. Raises `OSError` if the collector has not taken them in time."""
        records = [self._record(entry) for entry in entries]
        if self._exporter.export(records) is not LogRecordExportResult.SUCCESS:
            raise ConnectionError(None, "the collector did not take them")

    def close(self) -> None:
        """Close the connections."""
        self._exporter.shutdown()  # type: ignore[no-untyped-call]

    def _record(self, entry: Entry) -> ReadableLogRecord:
        record = LogRecord(
            timestamp=round(entry.ended_at * 1e6) * 1000,
            context=Context(),
            severity_number=SeverityNumber.INFO,
            event_name=_EVENT,
            attributes=_attributes(entry),
        )
        return ReadableLogRecord(record, self._resource, _SCOPE)


def _attributes(entry: Entry) -> dict[str, str | int | float | bool]:
    return {
        _NAMES.get(name, f"turnwire.{name}"): value
        for name, value in members(entry).items()
        if value is not None
    }


def _refuse_redirection(answer: Response, **_: object) -> None:
    """Raise `ConnectionError`: the exporter takes an address elsewhere for "it was taken"."""
    if answer.is_redirect:
        answer.close()
        raise ConnectionError(None, "the collector is elsewhere")


def _endpoint(url: str) -> str:
    parts = urlsplit(url)
    return url if parts.path.strip("/") else parts._replace(path=_PATH).geturl()
