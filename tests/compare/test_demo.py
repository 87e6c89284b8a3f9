import asyncio
import io
import sys

import pytest
from rich.console import Console

from compare import demo as module
from compare.agent import Said
from compare.clients import Disconnected
from compare.demo import STEPS, Screen, demo
from tests.compare.servers import grpc_server, websocket_server


def console() -> Console:
    return Console(file=io.StringIO(), width=100, record=True)


async def test_the_same_agent_runs_over_both_and_the_figures_stand_side_by_side() -> None:
    screen = console()
    async with (
        asyncio.timeout(30),
        websocket_server([]) as url,
        grpc_server([]) as target,
    ):
        await demo(url, target, None, console=screen)
    shown = screen.export_text()
    for step in STEPS:
        assert shown.count(f"> {step.prompt}") == 2
    assert shown.count("  two words\n") == 2 * len(STEPS)
    assert shown.index("WebSocket") < shown.index("gRPC")
    for row in ("turns", "total time", "of these cached", "all turns as full replays"):
        assert row in shown


async def test_it_fails_where_nothing_listens() -> None:
    with pytest.raises(Disconnected, match="Nothing answers"):
        await demo("ws://127.0.0.1:1/v1/responses", "127.0.0.1:1", None, console=console())


def test_what_a_model_says_cannot_steer_the_terminal() -> None:
    screen = console()
    Screen(screen).observe(Said("[red]a\x1b[2Jb\nc"))
    assert screen.export_text() == "  [red]a [2Jb\n  c"


def test_the_command_says_what_is_wrong_and_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["demo", "--websocket", "ws://127.0.0.1:1/v1/responses"])
    with pytest.raises(SystemExit) as ended:
        module.main()
    assert ended.value.code == 1
    assert "Nothing answers at ws://127.0.0.1:1" in capsys.readouterr().out
