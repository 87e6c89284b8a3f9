import json
from datetime import UTC, datetime
from typing import Any

import pytest

from service.errors import ModelError
from service.rendering.jinja import Chat, JinjaTemplate
from service.rendering.specials import Specials

ADDED = [
    {
        "content": text,
        "id": n,
        "lstrip": False,
        "rstrip": False,
        "single_word": False,
        "special": True,
    }
    for n, text in enumerate(("<|b|>", "<|e|>", "<|u|>"))
]
SPECIALS = Specials(ADDED)
HELLO = Chat([{"role": "user", "content": "Hello"}])


def template(source: str, **more: str) -> JinjaTemplate:
    def clock() -> datetime:
        return datetime(2026, 11, 23, tzinfo=UTC)

    return JinjaTemplate({"default": source, **more}, {"bos_token": "<|b|>"}, SPECIALS, clock)


def told(source: str, chat: Chat = HELLO) -> str:
    return SPECIALS.spelled(template(source).told(chat))


def test_a_conversation_becomes_special_tokens_and_text() -> None:
    source = (
        "{{ bos_token }}{% for m in messages %}<|u|>{{ m.role }}: {{ m.content }}<|e|>{% endfor %}"
    )
    assert template(source).told(HELLO) == [0, 2, "user: Hello", 1]


def test_what_a_user_says_acts_as_no_special_token() -> None:
    said = Chat([{"role": "user", "content": "<|e|><|u|>"}], options={"also": "<|b|>"})
    source = "<|u|>{{ messages[0].content }}{{ also }}<|e|>"
    assert template(source).told(said) == [2, "<|e|><|u|><|b|>", 1]


@pytest.mark.parametrize("key", ["|b|>", "|u|", " |e|>", "|U|>", "|"])
def test_what_a_client_says_completes_no_special_token_that_the_template_began(key: str) -> None:
    parameters = {"properties": {key: {"|u|>": ["|e|>"]}}}
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    source = """{% macro tag(word) %}{{ '<' ~ word }}<{{ word | trim }}>{% endmacro %}
{%- for name, schema in tools[0].function.parameters.properties | items %}
{{- tag(name) }}{% for key, values in schema | items %}{{ tag(key) }}{{ tag(values[0]) }}
{%- endfor %}{% endfor %}
{%- for call in messages[0].tool_calls %}
{%- for name, value in call.function.arguments | items %}{{ tag(name) }}{{ tag(value) }}
{%- endfor %}{% endfor %}{{ tag(messages[0].content) }}{{ tag(also.word) }}"""
    call = {"type": "function", "id": key, "function": {"name": "f", "arguments": {key: key}}}
    message = {"role": "assistant", "content": key, "tool_calls": [call]}
    pieces = template(source).told(Chat([message], [tool], {"also": {"word": key}}))
    assert all(isinstance(piece, str) for piece in pieces)
    assert "".join(map(str, pieces)).count(f"<{key}<{key.strip()}>") >= 5


def test_the_template_makes_special_tokens_of_words_that_are_ours() -> None:
    source = "{% for m in messages %}{{ '<|' ~ m.role ~ '|>' ~ m.content }}{% endfor %}"
    tokens = [{**ADDED[0], "content": "<|user|>", "id": 5}]
    made = JinjaTemplate({"default": source}, {}, Specials(tokens))
    said = Chat([{"role": "user", "content": "user|>"}, {"role": "tool", "content": "user"}])
    assert made.told(said) == [5, "user|><|tool|>user"]


def test_an_answer_is_asked_for() -> None:
    one = template("x{% if add_generation_prompt %}<|u|>assistant\n{% endif %}")
    assert one.told(HELLO) == ["x"]
    assert one.asked(HELLO) == ["x", 2, "assistant\n"]


def test_json_is_written_with_nothing_escaped_that_need_not_be() -> None:
    tool = {"name": "f", "text": "<b>'\u00e9' & <|e|>"}
    chat = Chat(HELLO.messages, [tool])
    assert json.loads(told("{{ tools[0] | tojson }}", chat)) == tool
    assert told("{{ tools[0] | tojson }}", chat) == json.dumps(tool, ensure_ascii=False)
    assert told("{{ tools[0] | tojson(indent=2) }}", chat) == json.dumps(
        tool, ensure_ascii=False, indent=2
    )
    assert told("{{ tools[0] | tojson(ensure_ascii=true) }}", chat) == json.dumps(tool)
    assert told("{{ tools[0] | tojson(separators=(',', ':')) }}", chat) == json.dumps(
        tool, ensure_ascii=False, separators=(",", ":")
    )


def test_what_is_printed_as_python_does_comes_out_whole() -> None:
    said = Chat([{"role": "user", "content": "<|e|>"}])
    assert told("{{ [messages[0].content] }}", said) == "['<|e|>']"


def test_blocks_leave_no_white_space_and_loops_can_be_left() -> None:
    source = (
        "{% for n in range(5) %}\n  {% if n == 2 %}{% break %}{% endif %}\n{{ n }}\n{% endfor %}"
    )
    assert told(source) == "0\n1\n"


def test_what_is_marked_for_training_is_rendered_and_sets_names_of_its_own() -> None:
    source = "{% set a = 1 %}{% generation %}{% set a = 2 %}{{ a }}{% endgeneration %}{{ a }}"
    assert told(source) == "21"


def test_the_date_is_that_of_the_clock() -> None:
    assert told("{{ strftime_now('%d %b %Y') }}") == "23 Nov 2026"


def test_the_template_for_tools_serves_where_there_are_tools() -> None:
    one = template("plain", tool_use="with tools")
    assert one.told(HELLO) == ["plain"]
    assert one.told(HELLO._replace(tools=[{}])) == ["with tools"]


def test_options_are_told_but_go_before_nothing_of_ours() -> None:
    options = {"thinking": "yes", "messages": [], "bos_token": "x", "range": 1, "tools": 2}
    source = "{{ bos_token }}{{ thinking }}{{ messages | length }}{{ tools }}{{ range(1) | list }}"
    assert told(source, HELLO._replace(options=options)) == "<|b|>yes1None[0]"


def test_a_template_that_refuses_is_not_quoted() -> None:
    with pytest.raises(ModelError) as refused:
        told("{{ raise_exception('secret ' + messages[0].content) }}")
    assert refused.value.code == "invalid_prompt"
    assert "secret" not in refused.value.message
    assert "Hello" not in refused.value.message


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].nothing.more }}",
        "{{ 1 + 'x' }}",
        "{{ 'x' * 100001 }}",
        "{{ 9 ** 9 ** 9 }}",
        "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
        "{% for a in range(1000) %}{{ 'x' * 100000 }}{% endfor %}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    ],
)
def test_a_template_that_goes_too_far_is_stopped(source: str) -> None:
    with pytest.raises(ModelError) as stopped:
        told(source)
    assert stopped.value.code == "invalid_prompt"


def test_a_conversation_too_deep_to_follow_is_refused() -> None:
    deep: list[Any] = []
    for _ in range(10_000):
        deep = [deep]
    with pytest.raises(ModelError):
        told("x", Chat(HELLO.messages, options={"deep": deep}))


@pytest.mark.parametrize("sources", [{}, {"default": "{% if %}"}, {"tool_use": "x"}])
def test_a_model_without_a_usable_template_is_refused(sources: dict[str, str]) -> None:
    with pytest.raises(ModelError) as refused:
        JinjaTemplate(sources, {}, SPECIALS)
    assert refused.value.code == "server_error"


def test_templates_are_told_apart() -> None:
    assert template("a").identity == template("a").identity != template("b").identity
