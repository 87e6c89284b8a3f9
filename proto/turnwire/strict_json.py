"""JSON text and the values it stands for: strict on the way in, nothing lost on the way out.

Numbers with a fraction stay as they were written, keys are unique, depth is bounded.
"""

import math
from collections.abc import Mapping
from typing import Any, Final

import jiter
import orjson

KINDS: Final[Mapping[type, str]] = {
    str: "a string",
    bool: "a boolean",
    jiter.LosslessFloat: "a number",
    int: "an integer",
    list: "an array",
    dict: "an object",
    type(None): "null",
}
"""The types that parsed values have, and what clients call them."""


class InvalidJson(ValueError):
    """JSON that is none, or not what the contract expects. Its words never repeat the content."""

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(code, sentence)
        self.code = code
        self.param: str | None = None
        self._sentence = sentence

    def __str__(self) -> str:
        return self._sentence.replace("{param}", self.param or "")

    def locate(self, step: str) -> None:
        """Put one more step before the path: a member's key, or an index in brackets."""
        if self.param and not self.param.startswith("["):
            step += "."
        self.param = step + (self.param or "")


def parse_object(data: bytes | str) -> dict[str, Any]:
    """Parse a JSON object. Raises `InvalidJson`, and nothing else, whatever the data."""
    value = _parse(data)
    if type(value) is not dict:
        kind = KINDS[type(value)]
        raise InvalidJson("invalid_json", f"Invalid JSON: expected an object, got {kind}.")
    return value


def dump(value: Any) -> bytes:
    """Write what was parsed. Refuses numbers that others could not read: 64 bits are the bound."""
    try:
        return orjson.dumps(value, default=_as_written)
    except orjson.JSONEncodeError:
        raise InvalidJson("invalid_json", "Invalid JSON: a number is out of range.") from None


def _parse(data: bytes | str) -> Any:
    try:
        return jiter.from_json(
            data.encode() if isinstance(data, str) else data,
            allow_inf_nan=False,
            cache_mode="keys",
            catch_duplicate_keys=True,
            float_mode="lossless-float",
        )
    except UnicodeEncodeError:
        raise InvalidJson("invalid_json", "Invalid JSON: a lone surrogate.") from None
    except ValueError as error:
        raise InvalidJson("invalid_json", f"Invalid JSON: {_reason(error)}.") from None


def _reason(error: ValueError) -> str:
    # The parser names the key that is there twice, and nothing else of the content.
    words = str(error)
    if words.startswith("Detected duplicate key"):
        return "a key appears twice" + words[words.rindex(" at line") :]
    return words


def _as_written(number: jiter.LosslessFloat) -> orjson.Fragment:
    if math.isinf(float(number)):
        raise OverflowError
    return orjson.Fragment(bytes(number))
