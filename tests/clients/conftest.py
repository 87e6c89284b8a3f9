"""A service for released clients to talk to."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from service.backends.simulator.backend import Simulator
from service.backends.simulator.script import Script
from tests.conformance.server import Server, serving

TURNS = 20
STEPS = [f'call look {{"step": {number}}}' for number in range(TURNS - 1)]


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    """Serve a model that calls a tool nineteen times and then answers."""
    async with serving(Simulator(script=Script(*STEPS, "text 5")), tmp_path) as started:
        yield started
