"""docs/protocol.md and the tests agree: every rule has a test, every mark a rule, every code a row."""

import ast
import inspect
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from service import errors, steering
from tests.conformance.rules import codes, marks, proofs, rules

SERVER = Path(inspect.getfile(errors)).parents[1]
REFUSALS = {
    name
    for name, member in vars(errors).items()
    if inspect.isclass(member) and issubclass(member, errors.Refusal)
}


def test_every_rule_of_the_protocol_has_a_test() -> None:
    proven = proofs()
    unproven = [rule for rule in rules() if rule not in proven]
    assert not unproven, f"without a test: {', '.join(unproven)}"


def test_every_mark_names_a_rule() -> None:
    known = set(rules())
    strange = [f"{rule} of {tests}" for rule, tests in proofs().items() if rule not in known]
    assert not strange, f"without a rule: {', '.join(strange)}"


def test_a_rule_has_an_id_of_its_own() -> None:
    assert [rule for rule, times in Counter(rules()).items() if times > 1] == []


def test_marks_are_found_on_tests_of_every_form() -> None:
    source = """
@pytest.mark.rule("AA-1", "AA-2")
@pytest.mark.parametrize("x", [1])
async def test_one(x): ...

@pytest.mark.rule("AA-3")
class TestTwo:
    @pytest.mark.rule("AA-4")
    def test_three(self): ...

@pytest.mark.other("AA-5")
def test_four(): ...
"""
    found = [*marks(source)]
    assert found == [
        ("AA-1", "test_one"),
        ("AA-2", "test_one"),
        ("AA-3", "TestTwo"),
        ("AA-4", "test_three"),
    ]


def said(source: str) -> Iterator[str]:
    """The codes of the refusals that a module raises, also those of its own kinds of refusal."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = ast.unparse(node.func)
            if isinstance(node.args[0].value, str) and (
                name.split(".")[-1].lstrip("_") in REFUSALS or name == "super().__init__"
            ):
                yield node.args[0].value


def test_every_code_that_is_said_is_listed() -> None:
    modules = [path for part in ("service", "transports") for path in (SERVER / part).rglob("*.py")]
    spoken = {code for path in modules for code in said(path.read_text()) if code.islower()}
    assert "invalid_value" in spoken
    assert spoken - codes() == set()
    assert set(get_args(steering.Failure)) - codes() == set()
