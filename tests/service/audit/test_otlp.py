"""Entries reach a collector: a real HTTP server that reads OpenTelemetry's own messages."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.semconv._incubating.attributes import error_attributes, gen_ai_attributes

from service.audit import otlp
from service.audit.otlp import Otlp
from tests.service.audit.entries import ENTRY, entry


class Collector(ThreadingHTTPServer):
    """Takes log records, or answers what the test says."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Exchange)
        self.answers: list[int] = []
        self.paths: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.services: list[str] = []
        self.records: list[LogRecord] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def take(self, body: bytes) -> None:
        for logs in ExportLogsServiceRequest.FromString(body).resource_logs:
            self.services += [
                attribute.value.string_value
                for attribute in logs.resource.attributes
                if attribute.key == "service.name"
            ]
            for scope in logs.scope_logs:
                self.records += scope.log_records


class _Exchange(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.paths.append(self.path)
        self.server.headers.append(dict(self.headers))
        status = self.server.answers.pop(0) if self.server.answers else 200
        if status == 200:
            self.server.take(body)
        self.send_response(status)
        self.send_header("content-length", "0")
        self.send_header("location", "/elsewhere")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        serving = threading.Thread(target=collector.serve_forever, args=(0.01,))
        serving.start()
        yield collector
        collector.shutdown()
        serving.join()


def attributes(record: LogRecord) -> dict[str, object]:
    found = {}
    for attribute in record.attributes:
        kind = attribute.value.WhichOneof("value")
        assert kind
        found[attribute.key] = getattr(attribute.value, kind)
    return found


def test_an_entry_arrives_whole_under_the_names_there_are(collector: Collector) -> None:
    sink = Otlp(collector.url)
    sink.write([ENTRY])
    sink.close()
    (record,) = collector.records
    assert collector.paths == ["/v1/logs"]
    assert collector.services == ["turnwire"]
    assert record.event_name == "turnwire.turn"
    assert record.time_unix_nano == 1_795_408_600_250_000_000
    assert attributes(record) == {
        "turnwire.tenant": "acme",
        "turnwire.credential": "k1",
        "turnwire.transport": "websocket",
        "gen_ai.response.id": "resp_1",
        "gen_ai.request.model": "simulator",
        "turnwire.outcome": "completed",
        "turnwire.stored": True,
        "turnwire.seconds": 1.5,
        "gen_ai.usage.input_tokens": 100,
        "gen_ai.usage.cache_read.input_tokens": 90,
        "gen_ai.usage.output_tokens": 20,
        "gen_ai.usage.reasoning.output_tokens": 5,
        "turnwire.input_items": 2,
    }


def test_the_names_are_opentelemetrys() -> None:
    known = {error_attributes.ERROR_TYPE, *map(str, vars(gen_ai_attributes).values())}
    assert set(otlp._NAMES.values()) <= known


def test_entries_arrive_together(collector: Collector) -> None:
    sink = Otlp(collector.url)
    sink.write([entry(number) for number in range(1000)])
    sink.close()
    assert len(collector.paths) == 1
    assert len(collector.records) == 1000


def test_a_busy_collector_is_asked_again(collector: Collector) -> None:
    collector.answers = [503]
    sink = Otlp(collector.url)
    sink.write([ENTRY])
    sink.close()
    assert len(collector.paths) == 2
    assert len(collector.records) == 1


@pytest.mark.parametrize("status", [301, 307, 400, 401, 404, 500])
def test_what_was_not_taken_is_told(
    collector: Collector, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    collector.answers = [status]
    sink = Otlp(collector.url)
    with pytest.raises(ConnectionError):
        sink.write([ENTRY])
    sink.close()
    assert len(collector.paths) == 1
    assert caplog.records == []


def test_a_collector_that_is_away_is_told_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.2")
    with Collector() as away:
        url = away.url
    sink = Otlp(url)
    with pytest.raises(ConnectionError):
        sink.write([ENTRY])
    sink.close()


def test_path_and_headers_are_the_operators(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-team=agents")
    sink = Otlp(f"{collector.url}/otlp/logs")
    sink.write([ENTRY])
    sink.close()
    assert collector.paths == ["/otlp/logs"]
    assert collector.headers[0]["x-team"] == "agents"
