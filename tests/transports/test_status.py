"""The table of endings is total, and documented as it is."""

from pathlib import Path

from service.errors import Ending
from transports.status import STATUS

ROOT = Path(__file__).parents[2]


def test_every_ending_can_be_said() -> None:
    assert set(STATUS) == set(Ending)


def test_the_documentation_says_every_ending_as_it_is() -> None:
    text = (ROOT / "docs/endings.md").read_text()
    for ending, status in STATUS.items():
        assert f"| `{ending.value}` | {status.close_code} | {status.grpc_code.name} |" in text
