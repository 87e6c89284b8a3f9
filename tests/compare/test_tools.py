import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from compare.tools import ToolError, calculate, calculator, file_lister, list_files, sandbox


@pytest.fixture
def folder() -> Iterator[Path]:
    with sandbox() as root:
        yield root.resolve()


@pytest.mark.parametrize(
    ("expression", "result"),
    [
        ("(17 + 23) * 3", "120"),
        (" 2 ** 10 ", "1024"),
        ("-3 - -4", "1"),
        ("1 / 4", "0.25"),
        ("0.1 + 0.2", "0.3"),
        ("2 ** -1", "0.5"),
        ("+.5", "0.5"),
    ],
)
def test_arithmetic_is_worked_out(expression: str, result: str) -> None:
    assert calculate(expression) == result


@pytest.mark.parametrize(
    "expression",
    [
        "",
        "1 / 0",
        "9 ** 9 ** 9 ** 9",
        "10 ** 31",
        "(10 ** 30) ** 64",
        "9" * 150,
        "(" * 150,
        "-" * 199 + "(",
        "1" * 201,
        "(-1) ** 0.5",
        "...",
        "2 // 1",
        "2 +",
        "2 2",
        "3(4)",
        "()",
        "__import__('os')",
        "x",
        "1j",
        "True",
        "1\n2",
    ],
)
def test_what_is_no_small_arithmetic_is_refused_quickly(expression: str) -> None:
    with pytest.raises(ToolError):
        calculate(expression)


def test_a_deeply_nested_expression_is_worked_out() -> None:
    assert calculate("-" * 199 + "1") == "-1"


def test_a_folder_is_listed(folder: Path) -> None:
    assert list_files(folder, "notes") == "ideas.txt (23 bytes), todo.txt (52 bytes)"
    assert list_files(folder, ".") == "notes/, reports/"


@pytest.mark.parametrize(
    "name",
    [
        "..",
        "notes/../..",
        "/etc",
        "/",
        "../" * 40,
        "link",
        "nowhere",
        "notes/todo.txt",
        "a\0b",
        "~",
    ],
)
def test_what_is_outside_or_no_folder_is_refused(folder: Path, name: str) -> None:
    (folder / "link").symlink_to("/etc")
    with pytest.raises(ToolError):
        list_files(folder, name)


def test_a_folder_beside_it_with_the_same_beginning_is_outside(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root-other").mkdir()
    with pytest.raises(ToolError, match="outside"):
        list_files(tmp_path / "root", "../root-other")


@pytest.mark.parametrize(
    "arguments", ["", "no json", "[]", "3", "{}", '{"expression": 3}', '{"other": "1"}', "[" * 9999]
)
def test_arguments_that_make_no_sense_are_an_error_for_the_model_to_read(arguments: str) -> None:
    assert calculator().run(arguments).startswith("error: the arguments must be")


def test_what_goes_wrong_is_returned_and_not_raised() -> None:
    assert calculator().run('{"expression": "1 / 0"}') == "error: division by zero"
    assert calculator().run('{"expression": "6 * 7"}') == "42"


def test_a_tool_is_declared_with_a_schema_whose_examples_it_runs(folder: Path) -> None:
    for tool in (calculator(), file_lister(folder)):
        function = tool.definition.function
        schema = json.loads(function.parameters_json)
        assert function.name == tool.name
        assert schema["required"] == [tool.argument]
        for example in schema["properties"][tool.argument]["examples"]:
            assert not tool.run(json.dumps({tool.argument: example})).startswith("error")


def test_the_sandbox_is_gone_afterwards() -> None:
    with sandbox() as root:
        assert (root / "notes" / "todo.txt").is_file()
    assert not root.exists()
