import json

import pytest

from service.backends import CallText, ItemEnds, ReasoningText, Text
from service.errors import ModelError
from service.parsing import Reader
from service.parsing.free import FreeReader
from service.parsing.held import Held
from service.parsing.texts import ArgumentsReader, InputReader, JsonReader, TextReader
from tests.service.parsing.reading import QWEN, read, read_cut


@pytest.mark.parametrize("reader", [JsonReader(TextReader()), ArgumentsReader()])
def test_a_schema_that_was_not_enforced_is_noticed(reader: Reader) -> None:
    assert reader.push(" ")
    with pytest.raises(ModelError):
        reader.push("Sure! Here")


@pytest.mark.parametrize("reader", [JsonReader(TextReader()), ArgumentsReader()])
def test_json_that_is_not_whole_is_noticed_at_the_end_unless_it_was_cut(reader: Reader) -> None:
    reader.push('{"a": ')
    assert reader.cut() == []
    with pytest.raises(ModelError):
        reader.end()


def test_thoughts_may_come_before_json() -> None:
    reader = JsonReader(FreeReader({}, Held(), QWEN))
    said = "<think>\nNo JSON.\n</think>\n\n{}"
    assert read(reader, said) == [ReasoningText("No JSON."), Text("{}")]


@pytest.mark.parametrize("cut", range(1, 30))
def test_the_input_of_a_custom_tool_survives_being_cut_off(cut: int) -> None:
    whole = 'print("hi")\n# ü'
    arguments = json.dumps({"input": whole}, ensure_ascii=False)
    (text,) = read_cut(InputReader(), [arguments[:cut]])
    assert isinstance(text, CallText)
    assert whole.startswith(text.text)


def test_the_input_of_a_custom_tool_is_unescaped() -> None:
    pieces = ['{"input": "a\\', 'n\\"b\\""}']
    assert read(InputReader(), pieces) == [CallText('a\n"b"'), ItemEnds()]
