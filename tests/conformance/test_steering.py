"""Turns that change their course while they run (docs/protocol.md, "Steering")."""

import json
from typing import Any

import pytest

from service.paging import Page
from tests.conformance.conversation import Conversation, Heard
from tests.conformance.gated import Gated
from tests.conformance.schema import sdk
from tests.conformance.server import Server
from turnwire import json_codec

pytestmark = pytest.mark.connection

TWO_ITEMS = "#sim text 2 ; stall 0 ; text 2"
ONE_CALL = "#sim call f {} ; stall 0"


async def begin(chat: Conversation, text: str, **members: Any) -> Heard:
    """Begin a turn that waits at the gate."""
    await chat.send(input=text, **members)
    heard = await chat.hear_until("in_progress")
    return Heard([*heard, *await chat.hear_until("output_item_added")])


async def steer(chat: Conversation, response_id: str, steered: Any) -> Heard:
    """Steer a response and hear what is said up to the answer."""
    heard = Heard()
    await chat.send(type="response.steer", previous_response_id=response_id, input=steered)
    while not heard or not heard.kinds[-1].startswith("steer_"):
        heard.append(await chat.receive())
    if heard[-1].steer_failed.error.code != "invalid_input":  # which is given back as it came
        sdk.check_event(json.loads(json_codec.encode(heard[-1])))
    return heard


def id_of(heard: Heard) -> str:
    return heard[0].created.response.id


@pytest.mark.rule("ST-1", "ST-2", "ST-3")
async def test_a_steered_response_ends_at_a_boundary_and_another_follows(
    chat: Conversation, model: Gated
) -> None:
    settings: dict[str, Any] = {"instructions": "Be brief.", "metadata": {"a": "b"}}
    heard = await begin(chat, TWO_ITEMS, **settings)
    heard += await steer(chat, id_of(heard), "left")
    assert heard[-1].steer_accepted.steer.id
    assert heard[-1].steer_accepted.steer.previous_response_id == id_of(heard)
    model.gate.set()
    heard += await chat.hear()
    assert heard.kinds[-1] == "incomplete"
    assert heard.response.incomplete_details.reason == "steered"
    assert [item.message.status for item in heard.response.output] == ["completed"]
    assert [event.sequence_number for event in heard] == list(range(len(heard)))
    follows = await chat.hear()
    assert follows.kinds[0] == "created"
    assert follows.response.settings.previous_response_id == heard.id
    assert follows.response.settings.instructions == "Be brief."
    assert follows.response.settings.metadata == {"a": "b"}
    assert follows.text == "left"
    assert [event.sequence_number for event in follows] == list(range(len(follows)))


@pytest.mark.rule("ST-1")
async def test_steering_is_answered_on_the_lane_of_its_response(
    chat: Conversation, model: Gated
) -> None:
    heard = await begin(chat, TWO_ITEMS, stream_id="a")
    heard += await steer(chat, id_of(heard), "left")
    model.gate.set()
    heard += [*await chat.hear(), *await chat.hear()]
    assert {event.stream_id for event in heard} == {"a"}


@pytest.mark.rule("ST-3")
async def test_steering_of_several_kinds_follows_in_order(chat: Conversation, model: Gated) -> None:
    heard = await begin(chat, TWO_ITEMS)
    await steer(chat, id_of(heard), "left")
    await steer(chat, id_of(heard), [{"role": "user", "content": "right"}])
    model.gate.set()
    await chat.hear()
    assert (await chat.hear()).text == "right"


@pytest.mark.rule("ST-4")
async def test_steering_waits_for_the_output_that_the_client_owes(
    chat: Conversation, model: Gated, gated: Server
) -> None:
    heard = await begin(chat, ONE_CALL)
    heard += await steer(chat, id_of(heard), "left")
    assert heard.kinds[-1] == "steer_accepted"
    model.gate.set()
    heard += await chat.hear()
    assert heard.kinds[-1] == "completed"
    told = await chat.receive()
    sdk.check_event(json.loads(json_codec.encode(told)))
    pending = told.steer_pending
    call_id = heard.response.output[0].function_call.call_id
    [owed] = map(json.loads, pending.required_input_json)
    assert pending.reason == "waiting_for_required_input"
    assert owed["call_id"] == call_id
    output = {"type": "function_call_output", "call_id": call_id, "output": "42"}
    answer = await chat.ask(input=[output], previous_response_id=heard.id)
    assert answer.kinds[-1] == "completed"
    page = Page(after="", limit=0, order="asc")
    items = (await gated.engine.responses.input_items("alice", answer.id, page)).items
    assert [item.WhichOneof("kind") for item in items] == ["message", "function_call_output"]


@pytest.mark.rule("ST-5")
async def test_what_is_not_being_made_cannot_be_steered(chat: Conversation, model: Gated) -> None:
    model.gate.set()
    first = await chat.ask()
    for response_id, code in (
        ("resp_1", "response_not_found"),
        (first.id, "response_already_completed"),
    ):
        [refused] = await steer(chat, response_id, "left")
        assert refused.steer_failed.error.code == code
        assert refused.steer_failed.steer.input_text == "left"
        assert refused.steer_failed.steer.previous_response_id == response_id
    assert (await chat.ask()).kinds[-1] == "completed"


@pytest.mark.rule("ST-5")
@pytest.mark.parametrize(
    "steered",
    ["", [], [{"role": "assistant", "content": "x"}], [{"type": "compaction_trigger"}]],
)
async def test_only_users_words_can_steer(
    chat: Conversation, model: Gated, steered: list[Any] | str
) -> None:
    heard = await begin(chat, TWO_ITEMS)
    answer = await steer(chat, id_of(heard), steered)
    assert answer[-1].steer_failed.error.code == "invalid_input"
    model.gate.set()
    assert (await chat.hear()).kinds[-1] == "completed"


@pytest.mark.rule("ST-5")
async def test_only_so_much_steering_may_wait(chat: Conversation, model: Gated) -> None:
    heard = await begin(chat, TWO_ITEMS)
    for _ in range(16):
        answer = await steer(chat, id_of(heard), "left")
        assert answer.kinds[-1] == "steer_accepted"
    answer = await steer(chat, id_of(heard), "left")
    assert answer[-1].steer_failed.error.code == "too_many_pending_steers"
    model.gate.set()
    assert (await chat.hear()).kinds[-1] == "incomplete"


@pytest.mark.rule("ST-6")
async def test_what_compacts_by_itself_is_not_steered(chat: Conversation, model: Gated) -> None:
    managed = [{"type": "compaction", "compact_threshold": 100_000}]
    heard = await begin(chat, TWO_ITEMS, context_management=managed)
    answer = await steer(chat, id_of(heard), "left")
    assert answer[-1].steer_failed.error.code == "steering_not_supported"
    model.gate.set()
    assert (await chat.hear()).kinds[-1] == "completed"


@pytest.mark.rule("ST-7")
async def test_steering_that_comes_to_nothing_is_given_back(
    chat: Conversation, model: Gated
) -> None:
    heard = await begin(chat, "#sim text 2 ; stall 0 ; fail server_error")
    accepted = await steer(chat, id_of(heard), "left")
    model.gate.set()
    assert (await chat.hear()).kinds[-1] == "failed"
    lost = (await chat.hear_until("steer_failed"))[-1].steer_failed
    assert lost.error.code == "successor_creation_failed"
    assert lost.steer.input_text == "left"
    assert lost.steer.id == accepted[-1].steer_accepted.steer.id


@pytest.mark.rule("IN-1", "IN-2")
async def test_an_interrupted_response_drops_what_is_open_and_can_be_continued(
    chat: Conversation, model: Gated
) -> None:
    heard = await begin(chat, "#sim text 3 ; stall 3600")
    await chat.send(
        type="response.interrupt", response_id=id_of(heard), mode="discard_partial_items"
    )
    heard += await chat.hear()
    item_id = next(e for e in heard if e.HasField("output_item_added")).output_item_added.item
    assert heard.kinds[-3:] == ["interrupt_accepted", "output_item_interrupted", "incomplete"]
    assert heard[-2].output_item_interrupted.item_id == item_id.message.id
    assert heard[-2].output_item_interrupted.response_id == heard.id
    assert heard.response.incomplete_details.reason == "interrupted"
    assert list(heard.response.output) == []
    assert [event.sequence_number for event in heard] == list(range(len(heard)))
    assert model.running == 0
    model.gate.set()
    assert (await chat.ask("on", previous_response_id=heard.id)).text == "on"


@pytest.mark.rule("IN-2")
async def test_what_was_finished_before_an_interruption_stays(
    chat: Conversation, model: Gated
) -> None:
    heard = await begin(chat, "#sim reasoning 1 ; text 3 ; stall 0 ; text 1")
    await chat.hear_until("output_text_delta")
    await chat.send(type="response.interrupt", response_id=id_of(heard))
    ended = await chat.hear()
    assert [item.WhichOneof("kind") for item in ended.response.output] == ["reasoning"]
    assert not model.gate.is_set()


@pytest.mark.rule("IN-3")
async def test_what_is_not_being_made_cannot_be_interrupted(chat: Conversation) -> None:
    await chat.send(type="response.interrupt", response_id="resp_1")
    heard = await chat.hear()
    assert (heard.error.status, heard.error.error.code) == (400, "response_not_found")
