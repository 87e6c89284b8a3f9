"""The rules of docs/protocol.md, and the tests that say by `@pytest.mark.rule` that they prove them.

`python -m tests.conformance.rules` prints which tests prove which rule.
"""

import ast
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

_ROOT = Path(__file__).parents[2]
_PAGE = _ROOT / "docs" / "protocol.md"
_ROW = re.compile(r"\| ([A-Z]{2}-\d+) \| ")
_CODE = re.compile(r"`([a-z_]+)`")
_Test = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def rules() -> Sequence[str]:
    """Return the ids of all rules, in the order of the page."""
    return [row[1] for line in _PAGE.read_text().splitlines() if (row := _ROW.match(line))]


def codes() -> frozenset[str]:
    """Return the error codes that the page lists."""
    _, _, errors = _PAGE.read_text().partition("| code | ")
    table, _, _ = errors.partition("## ")
    rows = [line for line in table.splitlines() if line.startswith("| `")]
    return frozenset(code for row in rows for code in _CODE.findall(row.split("|")[1]))


def proofs() -> Mapping[str, Sequence[str]]:
    """Return the tests by the rule they are marked with."""
    proofs: dict[str, list[str]] = {}
    for path in sorted((_ROOT / "tests").rglob("test_*.py")):
        place = path.relative_to(_ROOT).as_posix()
        for rule, name in marks(path.read_text()):
            proofs.setdefault(rule, []).append(f"{place}::{name}")
    return proofs


def marks(source: str) -> Iterator[tuple[str, str]]:
    """Find the marks in a test file: each rule with the test that bears it, or the class of tests."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, _Test):
            yield from ((rule, node.name) for rule in _rules_of(node))


def _rules_of(test: _Test) -> Iterator[str]:
    for decorator in test.decorator_list:
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.rule":
            yield from map(ast.literal_eval, decorator.args)


def _table() -> Iterator[str]:
    found = proofs()
    for rule in rules():
        yield f"{rule:6} {'  '.join(found.get(rule, ['NO TEST']))}"


if __name__ == "__main__":
    sys.stdout.writelines(f"{row}\n" for row in _table())
