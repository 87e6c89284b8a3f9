"""Over both transports, against Turnwire itself as the upstream."""

from collections.abc import AsyncIterator

import pytest

from service.backends import Finished
from service.backends.http import Deadlines
from service.backends.responses.backend import Responses
from service.backends.responses.terms import Terms
from service.errors import ModelError
from tests.service.backends.llama_cpp.conversing import call_output, custom, function, user
from tests.service.backends.responses.chatting import Chat, text
from tests.service.backends.responses.conftest import Upstream
from turnwire.v1 import items_pb2

DEADLINES = Deadlines(connect=5, slot=5, answer=10, read=10)
TERMS = {
    "http": Terms(),
    "http-stored": Terms(state="stored"),
    "websocket": Terms(transport="websocket"),
    "websocket-stored": Terms(transport="websocket", state="stored"),
    "websocket-connection": Terms(transport="websocket", state="connection"),
}


@pytest.fixture(params=TERMS)
def terms(request: pytest.FixtureRequest) -> Terms:
    return TERMS[request.param]


@pytest.fixture
async def backend(upstream: Upstream, terms: Terms) -> AsyncIterator[Responses]:
    started = Responses(upstream.url, upstream.key, terms=terms, deadlines=DEADLINES)
    await started.start()
    yield started
    await started.stop()


@pytest.fixture
def chat(backend: Responses) -> Chat:
    return Chat(backend, settings={"store": True})


async def test_the_upstream_is_asked_for_its_models(backend: Responses) -> None:
    assert list(backend.models) == ["simulator"]
    await backend.check()


async def test_headers_go_with_every_request(upstream: Upstream, terms: Terms) -> None:
    backend = Responses(upstream.url, headers=upstream.headers, terms=terms, deadlines=DEADLINES)
    await backend.start()
    assert text(await Chat(backend).say(user("hello"))) == "hello"
    await backend.stop()


async def test_text_and_usage_come_through(chat: Chat) -> None:
    assert text(await chat.say(user("#sim text 5"))) == "every turn carries only what"
    assert chat.finished
    assert (chat.finished.reason, chat.finished.output_tokens) == ("stop", 5)
    assert chat.finished.input_tokens > 0


async def test_a_conversation_is_the_same_wherever_it_is_kept(chat: Chat) -> None:
    for turn in range(1, 4):
        said = text(await chat.say(user("#sim history")))
        assert said == str(2 * turn - 1)
    assert chat.finished
    assert chat.finished.cached_tokens > 0


async def test_a_call_is_answered_under_the_upstreams_id(chat: Chat) -> None:
    tools = [function("add", a={"type": "integer"}), custom("write")]
    said = '#sim call add {"a":1} ; custom write some text'
    called = await chat.say(user(said), tools=tools)
    ours = [called[0].function_call.call_id, called[1].custom_tool_call.call_id]
    assert called[0].function_call.arguments == '{"a":1}'
    assert called[1].custom_tool_call.input == "some text"
    written = items_pb2.CustomToolCallOutput(call_id=ours[1], output_text="done")
    outputs = [call_output("3", ours[0]), items_pb2.Item(custom_tool_call_output=written)]
    assert text(await chat.say(*outputs, tools=tools)) == "done"
    assert text(await chat.say(user("#sim history"))) == "7"


async def test_reasoning_summaries_and_refusals_come_through(chat: Chat) -> None:
    output = await chat.say(user("#sim summary 2 ; reasoning 3 ; refuse not that"))
    kinds = [item.WhichOneof("kind") for item in output]
    assert kinds == ["reasoning", "message"]
    assert output[0].reasoning.summary[0].summary_text.text == "every turn"
    assert output[0].reasoning.content[0].reasoning_text.text == "every turn carries"
    assert output[1].message.content[0].refusal.refusal == "not that"
    assert chat.finished
    assert chat.finished.reasoning_tokens == 5
    await chat.say(user("go on"))


async def test_two_messages_stay_two(chat: Chat) -> None:
    assert len(await chat.say(user("#sim text 2 ; text 2"))) == 2


async def test_what_was_cut_short_is_incomplete(chat: Chat) -> None:
    output = await chat.say(user("#sim text 9"), max_output_tokens=4)
    assert chat.finished
    assert chat.finished.reason == "length"
    assert output[-1].message.status == "incomplete"


async def test_scores_come_through_where_they_are_wanted(chat: Chat) -> None:
    output = await chat.say(user("#sim text 2"), top_logprobs=2)
    scores = output[0].message.content[0].output_text.logprobs
    assert len(scores) == 2
    assert len(scores[0].top_logprobs) == 2


async def test_the_clients_settings_reach_the_upstream(chat: Chat) -> None:
    tools = [function("one"), function("two")]
    output = await chat.say(user("hello"), tools=tools, tool_choice_mode="required")
    assert output[0].function_call.name == "one"
    assert text(await chat.say(user("#sim tools"), tools=tools)) == "one two"


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("server_error", "server_error"),
        ("rate_limit_exceeded", "rate_limit_exceeded"),
        ("context_length_exceeded", "context_length_exceeded"),
        ("invalid_prompt", "invalid_prompt"),
        ("something_else", "server_error"),
    ],
)
async def test_a_failure_is_told_in_our_words(chat: Chat, code: str, told: str) -> None:
    with pytest.raises(ModelError) as failed:
        await chat.say(user(f"#sim fail {code}"))
    assert failed.value.code == told
    assert "simulator" not in failed.value.message


async def test_what_came_before_a_failure_is_told(backend: Responses) -> None:
    chat = Chat(backend)
    with pytest.raises(ModelError):
        await chat.say(user("#sim text 3 ; fail server_error after 2 words"))
    assert chat.batches


async def test_a_model_that_the_upstream_does_not_have_is_named_as_that(chat: Chat) -> None:
    chat.model = "other"
    with pytest.raises(ModelError) as failed:
        await chat.say(user("hello"))
    assert failed.value.code == "model_not_found"


async def test_a_wrong_key_is_told_without_the_key(upstream: Upstream, terms: Terms) -> None:
    chat = Chat(Responses(upstream.url, "wrong", terms=terms, deadlines=DEADLINES))
    with pytest.raises(ModelError, match="API key") as failed:
        await chat.say(user("hello"))
    assert "wrong" not in failed.value.message
    await chat.backend.stop()


async def test_finished_is_last_and_alone_of_its_kind(chat: Chat) -> None:
    await chat.say(user("#sim text 3"))
    pieces = [piece for batch in chat.batches for piece in batch]
    assert [isinstance(piece, Finished) for piece in pieces].count(True) == 1
    assert isinstance(pieces[-1], Finished)
