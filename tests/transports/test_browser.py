"""Web pages in a real Chromium: those that may connect, and those that may not.

A test's site is one server with two names: pages of `localhost` are those of the allowed origin,
the same pages of `127.0.0.1` are another's.
"""

import asyncio
import json
import os
import shutil
import signal
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route
from uvicorn import Config

from service.backends.simulator.backend import Simulator
from service.identity import Anonymous, Identities
from service.limits import Limits
from tests.conformance.server import serving
from transports.endpoint import Endpoint
from transports.http import Address, HttpServer, serve_endpoint, wheel_for

PAGE = Path(__file__).with_name("browser_page.html")
TURN = [
    "response.created",
    "response.in_progress",
    "response.output_item.added",
    "response.content_part.added",
    "response.output_text.done",
    "response.content_part.done",
    "response.output_item.done",
    "response.completed",
]
FLAGS = (
    "--headless",
    "--no-sandbox",  # whoever runs the tests may be root, where there is none
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--no-proxy-server",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1",
)
Report = dict[str, Any]
Attempt = dict[str, Any]


@pytest.fixture(scope="session")
def chromium() -> str:
    for name in ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"):
        if path := shutil.which(name):
            return path
    pytest.skip("no Chromium here: install the package 'chromium'")


@dataclass
class Site:
    """A page, what it is to try, and what it says about it."""

    port: int = 0
    attempts: Sequence[Attempt] = ()
    reports: asyncio.Queue[list[Report]] = field(default_factory=asyncio.Queue)

    @property
    def origin(self) -> str:
        return f"http://localhost:{self.port}"

    @property
    def other_origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def app(self) -> Starlette:
        async def page(request: Request) -> Response:
            return FileResponse(PAGE)

        async def listed(request: Request) -> Response:
            return JSONResponse(list(self.attempts))

        async def report(request: Request) -> Response:
            self.reports.put_nowait(json.loads(await request.body()))
            return Response(status_code=204)

        return Starlette(
            routes=[
                Route("/", page),
                Route("/attempts", listed),
                Route("/reports", report, methods=["POST"]),
            ]
        )


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    site = Site()
    config = Config(site.app(), log_config=None, lifespan="off", ws="none", access_log=False)
    server = await HttpServer.start(config, Address("127.0.0.1", 0))
    site.port = server.port
    yield site
    await server.stop()


@dataclass
class Browser:
    """Opens pages, each in a browser that has never seen any."""

    command: str
    folder: Path
    site: Site

    async def visit(self, origin: str, *attempts: Attempt) -> list[Report]:
        """Return what a page of the site reports of these attempts."""
        self.site.attempts = attempts
        profile = f"--user-data-dir={self.folder / str(time.monotonic_ns())}"
        process = await asyncio.create_subprocess_exec(
            self.command,
            *FLAGS,
            profile,
            f"{origin}/",
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(60):
                return await self.site.reports.get()
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


@pytest.fixture
def browser(chromium: str, site: Site, tmp_path: Path) -> Browser:
    return Browser(chromium, tmp_path / "browser", site)


@dataclass
class Service:
    """A whole service that accepts pages of one origin."""

    port: int
    key: str

    async def ticket(self) -> str:
        """Ask for a ticket, as the page's own backend does."""
        async with httpx.AsyncClient(trust_env=False) as client:
            answer = await client.post(
                f"http://127.0.0.1:{self.port}/v1/responses/tickets",
                headers={"Authorization": f"Bearer {self.key}"},
            )
        assert answer.status_code == 200, answer.text
        return str(answer.json()["ticket"])

    def attempt(self, *protocols: str) -> Attempt:
        return {"url": f"ws://127.0.0.1:{self.port}/v1/responses", "protocols": protocols}

    async def attempt_with_ticket(self) -> Attempt:
        return self.attempt("turnwire", f"turnwire.ticket.{await self.ticket()}")


@asynccontextmanager
async def service_for(
    origin: str, folder: Path, keys: Identities | None = None
) -> AsyncIterator[Service]:
    async with serving(Simulator(), folder) as server:
        limits = Limits(allowed_origins=(origin,))
        endpoint = Endpoint(server.engine, keys or server.identities, limits, wheel_for(limits))
        http = await serve_endpoint(endpoint, Address("127.0.0.1", 0))
        try:
            yield Service(http.port, server.alice)
        finally:
            await server.engine.drain(0)
            await http.stop()


def has_had_a_turn(report: Report) -> bool:
    kinds = [kind for kind in report["types"] if kind != "response.output_text.delta"]
    return bool(kinds == TURN and report["text"] == "every turn carries")


@pytest.mark.rule("BR-2", "BR-3", "BR-4")
async def test_a_page_of_the_allowed_origin_has_a_turn_with_its_ticket_once(
    browser: Browser, site: Site, tmp_path: Path
) -> None:
    async with service_for(site.origin, tmp_path) as service:
        attempt = await service.attempt_with_ticket()
        first, again, without = await browser.visit(
            site.origin, attempt, attempt, service.attempt("turnwire")
        )
    assert first["opened"]
    assert first["protocol"] == "turnwire"
    assert has_had_a_turn(first), first
    assert not again["opened"]
    assert not without["opened"]


@pytest.mark.rule("BR-1")
async def test_a_page_of_another_origin_is_kept_out_whatever_it_has(
    browser: Browser, site: Site, tmp_path: Path
) -> None:
    async with service_for(site.origin, tmp_path) as service:
        attempt = await service.attempt_with_ticket()
        attempts = [attempt, service.attempt("turnwire"), service.attempt()]
        reports = await browser.visit(site.other_origin, *attempts)
        assert [report["opened"] for report in reports] == [False, False, False]
        [report] = await browser.visit(site.origin, attempt)
        assert has_had_a_turn(report), report


async def test_without_keys_a_page_of_the_allowed_origin_needs_no_ticket_and_others_stay_out(
    browser: Browser, site: Site, tmp_path: Path
) -> None:
    async with service_for(site.origin, tmp_path, Anonymous()) as service:
        attempts = [service.attempt(), service.attempt("turnwire")]
        reports = await browser.visit(site.origin, *attempts)
        assert [report["protocol"] for report in reports] == ["", "turnwire"]
        assert all(map(has_had_a_turn, reports)), reports
        reports = await browser.visit(site.other_origin, *attempts)
        assert [report["opened"] for report in reports] == [False, False]
