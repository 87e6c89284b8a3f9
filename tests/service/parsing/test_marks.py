import re
from dataclasses import fields

import pytest

from service.parsing.marks import form_of
from service.parsing.syntax import Calls, JsonCalls, TaggedCalls

_BACKTRACKS = re.compile(r"\\s\*(?!\+)")


@pytest.mark.parametrize(
    "calls",
    [
        JsonCalls('<tool_call>\n{"name": "', '", "arguments": ', "}\n</tool_call>"),
        JsonCalls('[TOOL_CALLS][{"name": "', '", "arguments": ', "}]"),
        JsonCalls('{"name": "', '", "parameters": ', "}"),
        JsonCalls("<|begin|><|call|>f.", ":0<|args|>", "<|end|>"),
        TaggedCalls("<call>\n<f=", ">\n<k=", ">\n", "\n</k>\n", "</f>\n</call>"),
    ],
)
def test_white_space_is_never_looked_through_in_more_than_one_way(calls: Calls) -> None:
    """Two runs side by side would be cut in every way there is, for every token that a model writes."""
    form = form_of(calls)
    assert form
    values = [getattr(form, one.name) for one in fields(form)]
    patterns = [value.pattern for value in values if isinstance(value, re.Pattern)]
    assert patterns
    assert not [pattern for pattern in patterns if _BACKTRACKS.search(pattern)]
