import json
from typing import Any

import pytest

from service.backends.chat.fragments import Fragments
from service.backends.chat.kinds import KINDS
from service.backends.chat.openings import Openings
from service.backends.chat.options import options_of
from service.backends.hints import salt, session
from service.errors import ModelError
from tests.service.backends.chat.conversing import prompt
from tests.service.backends.llama_cpp.conversing import assistant, custom, function, namespace, user
from turnwire.v1 import items_pb2, responses_pb2

TOOLS = [function("add"), custom("run", description="Runs."), namespace("crm", function("find"))]


def body(kind: str = "chat", **settings: Any) -> dict[str, Any]:
    """The body that a prompt comes to, beside its messages."""
    asked, known = prompt(user("?"), **settings), KINDS[kind]
    opening = Openings(Fragments(known.thoughts)).of(asked)
    parts = options_of(asked, known, opening).body([b'"messages":[]'], {})
    parsed: dict[str, Any] = json.loads(b"".join(parts))
    del parsed["messages"]
    return parsed


def named(*names: str, mode: str = "required") -> responses_pb2.ToolChoice:
    tools = [json.dumps({"type": "function", "name": name}) for name in names]
    allowed = responses_pb2.AllowedTools(mode=mode, tools_json=tools)
    return responses_pb2.ToolChoice(allowed_tools=allowed)


def told(body: dict[str, Any]) -> list[str]:
    return [tool["function"]["name"] for tool in body.get("tools", [])]


def test_what_was_left_open_is_not_sent() -> None:
    assert body() == {
        "model": "tiny",
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_what_was_set_is_sent_also_where_it_is_zero() -> None:
    sent = body(temperature=0, top_p=0.5, presence_penalty=0, frequency_penalty=1, top_logprobs=0)
    assert sent["temperature"] == sent["presence_penalty"] == sent["top_logprobs"] == 0
    assert (sent["top_p"], sent["frequency_penalty"], sent["logprobs"]) == (0.5, 1, True)


def test_tools_have_the_form_of_chat() -> None:
    sent = body(tools=TOOLS)
    assert told(sent) == ["add", "run", "crm__find"]
    run = sent["tools"][1]["function"]
    assert run["description"] == "Runs."
    assert run["parameters"]["required"] == ["input"]
    assert "tool_choice" not in sent


def test_strictness_is_told_where_it_was_said() -> None:
    strict = function("exact")
    strict.function.strict = True
    sent = body(tools=[strict, function("free"), namespace("crm", strict)])
    said = [tool["function"].get("strict") for tool in sent["tools"]]
    assert said == [True, None, True]


ONE, EVERY = ["add"], ["add", "run", "crm__find"]
NAMED = {"type": "function", "function": {"name": "add"}}
TWO = [{"type": "function", "function": {"name": name}} for name in ("add", "crm__find")]


@pytest.mark.parametrize(
    ("kind", "choice", "tools", "sent"),
    [
        ("chat", {"tool_choice_mode": "auto"}, EVERY, None),
        ("chat", {"tool_choice_mode": "none"}, EVERY, "none"),
        ("chat", {"tool_choice_mode": "required"}, EVERY, "required"),
        ("chat", {"tool_choice": named("add")}, EVERY, NAMED),
        ("chat", {"tool_choice": named("add", "find")}, ["add", "crm__find"], "required"),
        ("chat", {"tool_choice": named("add", mode="auto")}, ONE, None),
        ("llama.cpp-chat", {"tool_choice": named("add")}, ONE, "required"),
        (
            "openai",
            {"tool_choice": named("add", "find", mode="auto")},
            EVERY,
            {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": TWO}},
        ),
        ("openai", {"tool_choice": named("add")}, EVERY, NAMED),
        ("ollama", {"tool_choice_mode": "none"}, [], None),
        ("ollama", {"tool_choice": named("add", mode="auto")}, ONE, None),
    ],
)
def test_a_choice_is_told_as_the_server_can_be_told(
    kind: str, choice: dict[str, Any], tools: list[str], sent: Any
) -> None:
    asked = body(kind, tools=TOOLS, **choice)
    assert told(asked) == tools
    assert asked.get("tool_choice") == sent


def test_a_choice_that_a_server_cannot_be_held_to_is_refused() -> None:
    with pytest.raises(ModelError, match="tool_choice") as caught:
        body("ollama", tools=TOOLS, tool_choice_mode="required")
    assert caught.value.code == "invalid_prompt"


def test_parallel_calls_are_spoken_of_only_where_there_are_tools() -> None:
    assert "parallel_tool_calls" not in body(parallel_tool_calls=False)
    assert body(tools=TOOLS, parallel_tool_calls=False)["parallel_tool_calls"] is False
    assert "parallel_tool_calls" not in body("trtllm", tools=TOOLS, parallel_tool_calls=False)


@pytest.mark.parametrize(
    ("kind", "effort", "sent"),
    [
        ("vllm", "low", {"reasoning_effort": "low"}),
        ("vllm", "none", {"chat_template_kwargs": {"enable_thinking": False, "a": 1}}),
        ("ollama", "none", {"reasoning_effort": "none"}),
        (
            "llama.cpp-chat",
            "high",
            {
                "chat_template_kwargs": {
                    "reasoning_effort": "high",
                    "enable_thinking": True,
                    "a": 1,
                }
            },
        ),
    ],
)
def test_effort_is_told_as_the_server_knows_it(kind: str, effort: str, sent: Any) -> None:
    extra = json.dumps({"chat_template_kwargs": {"a": 1}})
    asked = body(kind, reasoning=responses_pb2.ReasoningSettings(effort=effort), extra=extra)
    assert sent.items() <= asked.items()


def text(**form: Any) -> responses_pb2.TextSettings:
    return responses_pb2.TextSettings(format=responses_pb2.TextFormat(**form))


def test_a_texts_form_is_a_response_format() -> None:
    form = responses_pb2.JsonSchemaFormat(name="a", schema_json='{"type": "string"}', strict=True)
    sent = body(text=text(json_schema=form))["response_format"]
    schema = {"name": "a", "schema": {"type": "string"}, "strict": True}
    assert sent == {"type": "json_schema", "json_schema": schema}
    sent = body(text=text(json_object=responses_pb2.JsonObjectFormat()))
    assert sent["response_format"] == {"type": "json_object"}
    with pytest.raises(ModelError, match=r"text\.format"):
        body(text=text(other_json='{"type": "grammar"}'))


def test_unknown_members_are_passed_on_but_never_those_that_concern_others() -> None:
    extra = {"seed": 1, "top_k": 2, "unheard_of": 3, "n": 4, "rid": "x", "kv_transfer_params": {}}
    assert {"seed": 1, "top_k": 2, "unheard_of": 3}.items() <= body(extra=json.dumps(extra)).items()
    assert not {"n", "rid", "kv_transfer_params"} & body(extra=json.dumps(extra)).keys()


@pytest.mark.parametrize(("kind", "known"), [("openai", {"seed"}), ("trtllm", {"seed", "top_k"})])
def test_servers_that_refuse_what_they_do_not_know_are_not_sent_it(
    kind: str, known: set[str]
) -> None:
    extra = {"seed": 1, "top_k": 2, "unheard_of": 3}
    assert body(kind, extra=json.dumps(extra)).keys() & extra.keys() == known


def test_hints_say_whose_and_where_and_stay_the_same() -> None:
    sent = body("vllm", tenant="t", conversation="c", extra='{"cache_salt": "x"}')
    assert (sent["cache_salt"], sent["session_id"]) == (salt("t"), session("c"))
    assert body("openai", conversation="c")["prompt_cache_key"] == session("c")
    assert not {"cache_salt", "session_id"} & body("ollama").keys()


def test_hosted_servers_are_told_what_concerns_their_accounts() -> None:
    settings = {"service_tier": "flex", "safety_identifier": "s"}
    assert settings.items() <= body("openai", **settings).items()
    assert not settings.keys() & body("vllm", **settings).keys()


def test_instructions_and_tools_are_read_once_while_there_is_room() -> None:
    openings = Openings(Fragments(None), budget=20_000)
    asked = prompt(user("?"), instructions="x" * 100, tools=TOOLS)
    first = openings.of(asked)
    assert openings.of(prompt(user("!"), instructions="x" * 100, tools=TOOLS)) is first
    assert openings.of(prompt(user("?"), instructions="y" * 6000)) is not first
    assert openings.of(asked) is not first


def test_instructions_may_be_examples() -> None:
    items = [user("Ping?"), assistant("Pong.")]
    asked = prompt(user("?"), instructions="Be brief.", instruction_items=items)
    told = json.loads(b"[" + Openings(Fragments(None)).of(asked).instructions + b"]")
    assert [message["role"] for message in told] == ["system", "user", "assistant"]


@pytest.mark.parametrize(
    ("thoughts", "member"), [("reasoning", "reasoning"), ("reasoning_content",) * 2, (None, None)]
)
def test_earlier_thoughts_are_told_under_the_name_that_the_server_reads(
    thoughts: str | None, member: str | None
) -> None:
    thought = items_pb2.ContentPart(reasoning_text=items_pb2.Text(text="Hm."))
    reasoning = items_pb2.Item(reasoning=items_pb2.Reasoning(content=[thought]))
    asked = prompt(user("?"), tools=TOOLS)
    toolbox = Openings(Fragments(None)).of(asked).toolbox
    told = json.loads(Fragments(thoughts).of([reasoning, assistant("Yes.")], toolbox).data)
    expected = {"role": "assistant", "content": "Yes.", **({member: "Hm."} if member else {})}
    assert told == expected


@pytest.mark.parametrize("kind", ["openai", "chat"])
def test_a_clients_own_cache_key_is_its_tenants_and_not_told(kind: str) -> None:
    keys = [
        body(kind, tenant=tenant, prompt_cache_key=key)["prompt_cache_key"]
        for tenant, key in (("a", "mine"), ("a", "mine"), ("a", "other"), ("b", "mine"))
    ]
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3
    assert "mine" not in keys


def test_what_a_shared_server_runs_or_loads_is_not_a_clients_to_choose() -> None:
    extra = {
        "priority": -9,
        "prompt_logprobs": 20,
        "custom_logit_processor": "x",
        "chat_template": "x",
        "lora_path": "/",
        "lora_request": {},
        "vllm_xargs": {},
    }
    for kind in KINDS:
        assert not body(kind, extra=json.dumps(extra)).keys() & extra.keys()


@pytest.mark.parametrize("stop", [["x"] * 65, "x" * 257, [""], 5, {"a": 1}])
def test_stop_words_are_few_and_short(stop: object) -> None:
    with pytest.raises(ModelError, match="'stop'") as raised:
        body(extra=json.dumps({"stop": stop}))
    assert raised.value.code == "invalid_prompt"
    assert body(extra='{"stop": ["a", "b"]}')["stop"] == ["a", "b"]
