from typing import Any

import orjson
import pytest

from service.backends.hints import cache_key, salt
from service.backends.responses.request import http_body, request_of, websocket_message
from service.backends.responses.terms import Terms
from tests.service.backends.llama_cpp.conversing import custom, function, namespace, prompt, user
from turnwire.v1 import items_pb2, responses_pb2


def body(terms: Terms | None = None, extra: str = "", **settings: Any) -> dict[str, Any]:
    asked = prompt(user("hi"), extra=extra, **settings)
    request = request_of(asked, terms or Terms())
    parsed: dict[str, Any] = orjson.loads(b"".join(http_body(request, asked.tools, [b'{"x":1}'])))
    return parsed


def test_what_the_client_left_open_is_left_open() -> None:
    assert body(max_output_tokens=7) == {
        "model": "",
        "store": False,
        "stream": True,
        "max_output_tokens": 7,
        "input": [{"x": 1}],
    }


def test_what_the_client_set_is_passed_on() -> None:
    said = body(
        temperature=0.5,
        reasoning=responses_pb2.ReasoningSettings(effort="low"),
        safety_identifier="someone",
        prompt_cache_key="key",
        truncation="auto",
        parallel_tool_calls=False,
        service_tier="flex",
        instructions="Be brief.",
    )
    assert said["reasoning"]["effort"] == "low"
    assert said["temperature"] == 0.5
    assert said["parallel_tool_calls"] is False
    kept = ("safety_identifier", "prompt_cache_key", "truncation", "service_tier", "instructions")
    key = cache_key(prompt(user("?")).tenant, "key")
    assert [said[name] for name in kept] == ["someone", key, "auto", "flex", "Be brief."]


def test_what_is_for_this_server_is_not_passed_on() -> None:
    options = responses_pb2.PromptCacheOptions(prewarm=True, comparison_response_id="resp_1")
    said = body(
        previous_response_id="resp_ours",
        conversation_id="conv_ours",
        background=True,
        metadata={"a": "b"},
        context_management=[responses_pb2.ContextManagement(type="compaction")],
        prompt_cache_options=options,
    )
    assert said.keys() == {"model", "store", "stream", "max_output_tokens", "input"}


def test_members_that_nobody_knows_are_passed_on_and_never_twice() -> None:
    extra = '{"seed":1,"input":null,"store":null,"stream":null,"new":{"x":[2.50]}}'
    said = body(extra=extra)
    assert (said["seed"], said["new"]) == (1, {"x": [2.5]})
    assert said["input"] == [{"x": 1}]
    assert said["stream"] is True


def test_tools_go_up_as_they_were_declared() -> None:
    hosted = items_pb2.Tool(other_json='{"type":"web_search","filters":null}')
    tools = [namespace("n", function("f")), custom("c"), hosted]
    said = body(tools=tools)["tools"]
    assert [tool["type"] for tool in said] == ["namespace", "custom", "web_search"]
    assert "strict" not in said[0]["tools"][0]
    assert said[0]["tools"][0]["parameters"]["type"] == "object"


@pytest.mark.parametrize("state", ["none", "stored"])
@pytest.mark.parametrize("store", [None, False, True])
def test_only_what_the_client_has_stored_is_stored_upstream(state: Any, store: bool | None) -> None:
    settings: dict[str, Any] = {} if store is None else {"store": store}
    stored = state == "stored" and store is True
    assert body(Terms(state=state), **settings)["store"] is stored


def test_thoughts_come_sealed_where_nobody_keeps_them() -> None:
    thinking: dict[str, Any] = {"reasoning": responses_pb2.ReasoningSettings(effort="low")}
    sealed = ["reasoning.encrypted_content"]
    assert body(**thinking)["include"] == sealed
    assert "include" not in body(Terms(state="stored"), store=True, **thinking)
    assert body(Terms(include=sealed))["include"] == sealed
    assert body(top_logprobs=2)["include"] == ["message.output_text.logprobs"]


def test_tenants_are_told_apart_without_being_named() -> None:
    said = body(Terms(salt="tenant"))
    assert said["cache_salt"] == salt("tenant")
    assert "tenant" not in said["cache_salt"]


def test_a_websocket_message_is_an_event() -> None:
    asked = prompt(user("hi"))
    request = request_of(asked, Terms())
    said = orjson.loads(b"".join(websocket_message(request, [], [b"", b'{"x":1}'])))
    assert (said["type"], said["input"]) == ("response.create", [{"x": 1}])
    assert "stream" not in said


def test_state_on_a_connection_needs_a_connection() -> None:
    with pytest.raises(ValueError, match="WebSocket"):
        Terms(state="connection")
