"""What is kept between turns, for whom and for how long (docs/protocol.md, "Lanes and state")."""

import itertools
import json

import pytest

from service.errors import NotFound
from tests.conformance.clients import ROWS
from tests.conformance.conftest import Talk
from tests.conformance.conversation import Conversation
from tests.conformance.server import Server
from turnwire import json_codec


@pytest.mark.rule("SS-1")
@pytest.mark.parametrize("store", [True, pytest.param(False, marks=pytest.mark.connection)])
async def test_a_turn_continues_another_and_carries_only_what_is_new(
    talk: Talk, store: bool
) -> None:
    async with talk() as chat:
        first = await chat.ask("one " * 200, store=store)
        second = await chat.ask("two", store=store, previous_response_id=first.id)
        third = await chat.ask("three", store=store, previous_response_id=second.id)
    usage = third.response.usage
    assert usage.input_tokens > first.response.usage.input_tokens
    assert usage.input_tokens_details.cached_tokens > 0.9 * second.response.usage.input_tokens
    assert third.response.settings.previous_response_id == second.id
    assert third.response.settings.store is store


@pytest.mark.rule("SS-5")
@pytest.mark.connection
async def test_a_conversation_can_be_forked_at_any_held_response(talk: Talk) -> None:
    async with talk() as chat:
        root = await chat.ask(store=False)
        left = await chat.ask("left", store=False, previous_response_id=root.id)
        right = await chat.ask("right", store=False, previous_response_id=root.id)
        deeper = await chat.ask("on", store=False, previous_response_id=left.id)
    assert len({root.id, left.id, right.id, deeper.id}) == 4
    assert right.kinds[-1] == deeper.kinds[-1] == "completed"


@pytest.mark.rule("SS-2")
async def test_what_is_not_stored_dies_with_its_connection(talk: Talk) -> None:
    async with talk() as chat:
        first = await chat.ask(store=False)
    async with talk() as chat:
        heard = await chat.ask(previous_response_id=first.id)
        assert heard.error.error.code == "previous_response_not_found"
        assert heard.error.error.param == "previous_response_id"
        assert heard.error.status == 400
        assert (await chat.ask()).kinds[-1] == "completed"


@pytest.mark.rule("SS-3")
async def test_what_is_stored_outlives_its_connection(talk: Talk) -> None:
    async with talk() as chat:
        first = await chat.ask("remember")
    async with talk() as chat:
        second = await chat.ask("and?", previous_response_id=first.id)
    assert second.response.usage.input_tokens_details.cached_tokens > 0


@pytest.mark.rule("SS-3")
@pytest.mark.parametrize(("begun", "continued"), [*itertools.permutations(ROWS, 2)])
async def test_begun_on_one_transport_it_continues_on_another(
    server: Server, begun: str, continued: str
) -> None:
    async with ROWS[begun](server, server.alice) as client:
        first = await Conversation(client).sim("call f {}")
    async with ROWS[continued](server, server.alice) as client:
        call_id = first.response.output[0].function_call.call_id
        output = {"type": "function_call_output", "call_id": call_id, "output": "42"}
        second = await Conversation(client).ask(input=[output], previous_response_id=first.id)
    assert second.text == "42"


@pytest.mark.rule("SS-4")
async def test_a_strangers_response_is_as_absent_as_one_that_never_was(
    talk: Talk, server: Server
) -> None:
    async with talk() as chat:
        first = await chat.ask()
    async with talk(server.bob) as chat:
        foreign = await chat.ask(previous_response_id=first.id)
        absent = await chat.ask(previous_response_id=first.id[:-1] + "!")
    assert foreign.error.error.message.replace(first.id, "") == absent.error.error.message.replace(
        first.id[:-1] + "!", ""
    )
    foreign.error.error.message = absent.error.error.message = ""
    assert foreign == absent


@pytest.mark.rule("RV-4", "SS-4")
async def test_what_is_deleted_can_no_longer_be_continued_anywhere(
    talk: Talk, server: Server
) -> None:
    async with talk() as chat:
        first = await chat.ask()
        await server.engine.responses.delete("alice", first.id)
        with pytest.raises(NotFound):
            await server.engine.responses.get("alice", first.id)
        heard = await chat.ask(previous_response_id=first.id)
        assert heard.error.error.code == "previous_response_not_found"


@pytest.mark.rule("SS-8")
@pytest.mark.connection
async def test_what_was_said_unstored_is_never_stored_later(talk: Talk) -> None:
    async with talk() as chat:
        first = await chat.ask(store=False)
        second = await chat.ask(previous_response_id=first.id)
        assert second.response.settings.store is False
        refused = await chat.ask(previous_response_id=second.id, store=True)
        assert refused.error.error.param == "store"


@pytest.mark.rule("CR-9", "CX-2")
async def test_a_conversation_replayed_in_full_just_works(talk: Talk) -> None:
    async with talk() as chat:
        first = await chat.sim("reasoning 2 ; call f {}")
        replay = [json_codec.encode(item) for item in first.response.output]
        call_id = first.response.output[1].function_call.call_id
        output = {"type": "function_call_output", "call_id": call_id, "output": "42"}
        question = {"role": "user", "content": "hello"}
        items = [question, *map(json.loads, replay), output]
        for _ in range(2):
            assert (await chat.ask(input=items)).text == "42"
        assert (await chat.ask(input=items + items)).text == "42"


@pytest.mark.rule("SS-6")
@pytest.mark.connection
async def test_a_failed_turn_evicts_the_parent_it_named(talk: Talk) -> None:
    async with talk() as chat:
        first = await chat.ask(store=False)
        failed = await chat.sim("fail server_error", previous_response_id=first.id)
        assert failed.kinds[-1] == "failed"
        heard = await chat.ask(previous_response_id=first.id)
        assert heard.error.error.code == "previous_response_not_found"


@pytest.mark.rule("CR-8", "SS-6")
@pytest.mark.connection
async def test_a_refused_output_evicts_the_parent_too(talk: Talk) -> None:
    orphan = {"type": "function_call_output", "call_id": "nope", "output": ""}
    async with talk() as chat:
        first = await chat.ask(store=False)
        await chat.ask(input=[orphan], previous_response_id=first.id)
        heard = await chat.ask(previous_response_id=first.id)
        assert heard.error.error.code == "previous_response_not_found"


@pytest.mark.rule("SS-6")
async def test_a_stored_parent_survives_a_failed_turn(talk: Talk) -> None:
    async with talk() as chat:
        first = await chat.ask()
        await chat.sim("fail server_error", previous_response_id=first.id)
        assert (await chat.ask(previous_response_id=first.id)).kinds[-1] == "completed"


@pytest.mark.rule("SS-7")
@pytest.mark.connection
async def test_a_fork_that_fails_leaves_the_lane_it_came_from(talk: Talk) -> None:
    async with talk() as chat:
        first = await chat.ask(store=False, stream_id="main")
        await chat.sim("fail server_error", previous_response_id=first.id, stream_id="fork")
        heard = await chat.ask(previous_response_id=first.id, stream_id="main", store=False)
        assert heard.kinds[-1] == "completed"


@pytest.mark.rule("SS-9")
async def test_a_failed_response_is_no_parent(talk: Talk) -> None:
    async with talk() as chat:
        failed = await chat.sim("fail server_error")
        heard = await chat.ask(previous_response_id=failed.id)
        assert heard.error.error.code == "previous_response_not_found"


@pytest.mark.rule("CR-10", "SS-4", "ER-4")
@pytest.mark.parametrize("unknown", ["", "resp_", "x" * 5000, "resp_ünïcödé"])
async def test_a_parent_that_never_was_is_not_found(talk: Talk, unknown: str) -> None:
    async with talk() as chat:
        heard = await chat.ask(previous_response_id=unknown)
        assert heard.error.error.code == "previous_response_not_found"
        assert len(heard.error.error.message) < 200
        assert (await chat.ask(previous_response_id=None)).kinds[-1] == "completed"


@pytest.mark.rule("CR-11")
@pytest.mark.connection
async def test_a_warm_up_says_two_things_and_can_be_continued(talk: Talk) -> None:
    async with talk() as chat:
        warm = await chat.ask("prefix " * 100, generate=False, store=False)
        assert warm.kinds == ["created", "completed"]
        assert list(warm.response.output) == []
        heard = await chat.ask("hello", previous_response_id=warm.id, store=False)
        assert heard.text == "hello"
        assert heard.response.usage.input_tokens_details.cached_tokens > 100


@pytest.mark.rule("CR-11", "CX-1")
async def test_a_warm_up_without_input_can_be_continued(talk: Talk) -> None:
    async with talk() as chat:
        warm = await chat.ask(input=[], generate=False)
        assert (await chat.ask(previous_response_id=warm.id)).kinds[-1] == "completed"


@pytest.mark.rule("SS-1", "EV-10")
@pytest.mark.connection
async def test_a_tool_loop_of_twenty_turns_prefills_only_what_is_new(talk: Talk) -> None:
    async with talk() as chat:
        heard = await chat.sim("call f {}", store=False)
        for turn in range(20):
            call_id = heard.response.output[0].function_call.call_id
            output = {
                "type": "function_call_output",
                "call_id": call_id,
                "output": f"result {turn}",
            }
            ask = {"role": "user", "content": "#sim call f {}"}
            before = heard.response.usage
            heard = await chat.ask(input=[output, ask], previous_response_id=heard.id, store=False)
            usage = heard.response.usage
            assert usage.input_tokens_details.cached_tokens >= before.input_tokens
            assert usage.input_tokens - usage.input_tokens_details.cached_tokens < 30
    assert heard.kinds[-1] == "completed"
