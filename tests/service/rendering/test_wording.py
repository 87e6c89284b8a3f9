import pytest

from service.parsing.syntax import JsonCalls, Syntax, TaggedCalls
from service.rendering.learning import LearnedTemplate
from service.rendering.tokenizer import LocalTokenizer
from tests.vocabularies import TEMPLATES, real_files, real_tokenizer, tiny_files


def syntax(source: str) -> Syntax:
    files = tiny_files(source)
    return LearnedTemplate.of(files, LocalTokenizer.of(files).specials).syntax


def test_calls_in_json_and_thoughts_are_read_off() -> None:
    assert syntax(TEMPLATES["keeps thoughts"]) == Syntax(
        thought_opens="<think>",
        thought_closes="</think>",
        calls=JsonCalls('<call>{"name": "', '", "arguments": ', "}</call>"),
    )


def test_calls_between_tags_are_read_off() -> None:
    tagged = TaggedCalls("<call>", "\n<key>", "</key>\n<value>", "</value>", "\n</call>")
    assert syntax(TEMPLATES["tagged calls"]).calls == tagged


def test_a_thought_that_the_prompt_opens_is_known() -> None:
    tagged = syntax(TEMPLATES["tagged calls"])
    assert (tagged.thought_opens, tagged.thought_closes) == ("<think>", "</think>")


def test_an_empty_thought_that_a_prompt_ends_with_is_no_part_of_the_answer() -> None:
    source = TEMPLATES["keeps thoughts"].replace("enable_thinking is false", "not enable_thinking")
    assert syntax(source) == syntax(TEMPLATES["keeps thoughts"])


def test_a_template_without_calls_has_none() -> None:
    assert syntax(TEMPLATES["strict"]).calls is None


@pytest.mark.parametrize("arguments", ["c.function.arguments | tojson", "c.function.arguments"])
def test_what_stands_around_several_calls_is_no_part_of_one(arguments: str) -> None:
    source = (
        "{% for m in messages %}<|turn|>{{ m.role }}\n{{ m.content }}"
        "{% for c in m.tool_calls or [] %}{% if loop.first %}[calls]{% endif %}"
        "{{ '{' + c.function.name + ': ' + ARGUMENTS + '};' }}"
        "{% if loop.last %}[end]{% endif %}{% endfor %}<|over|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
    )
    found = syntax(source.replace("ARGUMENTS", arguments)).calls
    assert found == JsonCalls("{", ": ", "};")


def test_the_syntax_of_a_real_model_is_read_off() -> None:
    files = real_files("qwen3")
    found = LearnedTemplate.of(files, real_tokenizer("qwen3").specials).syntax
    calls = JsonCalls('<tool_call>\n{"name": "', '", "arguments": ', "}\n</tool_call>")
    assert found == Syntax(thought_opens="<think>", thought_closes="</think>", calls=calls)
