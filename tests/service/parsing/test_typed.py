from typing import Any

import pytest

from service.parsing.typed import as_json


@pytest.mark.parametrize(
    ("written", "schema", "meant"),
    [
        ("5", {"type": "string"}, '"5"'),
        ("5", {"type": "integer"}, "5"),
        (" 1.50\n", {"type": "number"}, "1.50"),
        ("True", {"type": "boolean"}, "true"),
        ("True", {"type": "string"}, '"True"'),
        ("None", {"type": ["integer", "null"]}, "null"),
        ("null", {"type": ["string", "null"]}, "null"),
        ("5", {"type": ["string", "null"]}, '"5"'),
        ("5", {"anyOf": [{"type": "string"}, {"type": "integer"}]}, "5"),
        ("5", {"enum": ["5", "6"]}, '"5"'),
        ('{"a": [1]}', {"type": "object"}, '{"a": [1]}'),
        ("{'a': 1}", {"type": "object"}, "\"{'a': 1}\""),
        ("NaN", {"type": "number"}, '"NaN"'),
        ("[" * 1000 + "]" * 1000, {}, '"' + "[" * 1000 + "]" * 1000 + '"'),
        ("a", {}, '"a"'),
        ("[1]", None, "[1]"),
        ("", {}, '""'),
        ("5", {"type": 7, "enum": 8}, "5"),
    ],
)
def test_a_value_has_the_type_that_its_schema_says(written: str, schema: Any, meant: str) -> None:
    assert as_json(written, schema) == meant
