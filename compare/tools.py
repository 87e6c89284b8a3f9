"""Two real tools for the agent of the demo: a calculator and a look into a folder.

What goes wrong in a tool is for the model to read: it is returned as text, never raised.
"""

import ast
import json
import operator
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from turnwire.v1 import items_pb2

Number = int | float

_LONGEST_EXPRESSION = 200
_LARGEST_NUMBER = 1e30
_LARGEST_EXPONENT = 64
_ARITHMETIC = re.compile(r"[0-9.\s+\-*/()]+")
_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}
_UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
}
_FILES = {
    "notes/ideas.txt": "Send only what is new.\n",
    "notes/todo.txt": "Measure both transports.\nWrite down what was found.\n",
    "reports/june.csv": "day,turns\n1,17\n2,23\n",
    "reports/july.csv": "day,turns\n1,40\n",
}


class ToolError(Exception):
    """A tool was asked for something it does not do. The message is for the model."""


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that a model may call."""

    name: str
    description: str
    argument: str
    """The name of its one argument, a string."""
    examples: Sequence[str]
    function: Callable[[str], str]

    @property
    def definition(self) -> items_pb2.Tool:
        """The tool as a request declares it."""
        schema = {
            "type": "object",
            "properties": {self.argument: {"type": "string", "examples": list(self.examples)}},
            "required": [self.argument],
            "additionalProperties": False,
        }
        function = items_pb2.FunctionTool(
            name=self.name,
            description=self.description,
            parameters_json=json.dumps(schema, separators=(",", ":")),  # as JSON frames carry it
        )
        return items_pb2.Tool(function=function)

    def run(self, arguments: str) -> str:
        """Run the tool with arguments as a model wrote them; return what the model is to read."""
        try:
            return self.function(self._argument_of(arguments))
        except ToolError as error:
            return f"error: {error}"

    def _argument_of(self, arguments: str) -> str:
        try:
            value = json.loads(arguments)[self.argument]
        except (LookupError, TypeError, ValueError, RecursionError):
            value = None
        if not isinstance(value, str):
            raise ToolError(f'the arguments must be {{"{self.argument}": "..."}}')
        return value


def calculator() -> Tool:
    """Make the tool that works out arithmetic."""
    return Tool(
        name="calculate",
        description="Work out an arithmetic expression of numbers, + - * / ** and parentheses.",
        argument="expression",
        examples=["(17 + 23) * 3"],
        function=calculate,
    )


def calculate(expression: str) -> str:
    """Work out an expression. Raises `ToolError`, and quickly, for whatever is no arithmetic."""
    if len(expression) > _LONGEST_EXPRESSION or not _ARITHMETIC.fullmatch(expression):
        raise ToolError("only numbers, + - * / ** and parentheses, 200 characters at most")
    try:
        value = _value(ast.parse(expression.strip(), mode="eval").body)
    except SyntaxError:
        raise ToolError("the expression is not complete") from None
    except ArithmeticError as error:
        raise ToolError(str(error)) from None
    return f"{value:.12g}" if isinstance(value, float) else str(value)


def _value(node: ast.expr) -> Number:
    match node:
        case ast.Constant(int() | float() as number):
            return _bounded(number)
        case ast.UnaryOp(sign, operand) if type(sign) in _UNARY:
            return _bounded(_UNARY[type(sign)](_value(operand)))
        case ast.BinOp(left, sign, right) if type(sign) in _BINARY:
            operands = _value(left), _value(right)
            if isinstance(sign, ast.Pow) and abs(operands[1]) > _LARGEST_EXPONENT:
                raise ToolError(f"exponents go to {_LARGEST_EXPONENT}")
            return _bounded(_BINARY[type(sign)](*operands))
    raise ToolError("only numbers, + - * / ** and parentheses")


def _bounded(value: object) -> Number:
    """Refuse what is no real number or too large, so that every step is small."""
    if not isinstance(value, int | float) or abs(value) > _LARGEST_NUMBER:
        raise ToolError("the result is no real number, or too large")
    return value


def file_lister(root: Path) -> Tool:
    """Make the tool that looks into the folders below `root`, and nowhere else."""
    root = root.resolve()
    return Tool(
        name="list_files",
        description="List the files of a folder.",
        argument="folder",
        examples=[".", *sorted(path.name for path in root.iterdir() if path.is_dir())],
        function=lambda folder: list_files(root, folder),
    )


def list_files(root: Path, folder: str) -> str:
    """List a folder below `root`. Raises `ToolError` for whatever is elsewhere or no folder."""
    try:
        path = (root / folder).resolve()
    except (OSError, RuntimeError, ValueError):
        raise ToolError("that is no name of a folder") from None
    if not path.is_relative_to(root):
        raise ToolError("that is outside of the folders to look at")
    if not path.is_dir():
        raise ToolError("there is no such folder")
    return ", ".join(_described(entry) for entry in sorted(path.iterdir())) or "nothing"


def _described(entry: Path) -> str:
    return f"{entry.name}/" if entry.is_dir() else f"{entry.name} ({entry.stat().st_size} bytes)"


@contextmanager
def sandbox() -> Iterator[Path]:
    """Make a folder with a few files to look at, and remove it afterwards."""
    with tempfile.TemporaryDirectory(prefix="turnwire-demo-") as folder:
        for name, text in _FILES.items():
            path = Path(folder, name)
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        yield Path(folder)
