import os
import subprocess
import sys
from pathlib import Path

import orjson

_TOP = Path(__file__).parents[3]
_DEADLINE = 120.0


def bench(*options: str) -> subprocess.CompletedProcess[bytes]:
    """Run the command as an operator does."""
    order = [sys.executable, "-m", "service", "bench", "render", *options]
    paths = {"PYTHONPATH": os.pathsep.join([str(_TOP), str(_TOP / "proto")])}
    return subprocess.run(
        order, env={**os.environ, **paths}, capture_output=True, timeout=_DEADLINE, check=False
    )


def test_the_command_prints_json_and_nothing_else() -> None:
    done = bench("--renderer", "chat_ml", "--turns", "4", "--tokens", "1000", "--json")
    assert done.returncode == 0
    assert [row["renderer"] for row in orjson.loads(done.stdout)["renderers"]] == ["chat_ml"]
    assert b"chat_ml" in done.stderr


def test_a_name_that_nothing_has_is_an_error() -> None:
    done = bench("--renderer", "nothing")
    assert done.returncode == 1
    assert b"no renderer of that name" in done.stderr
