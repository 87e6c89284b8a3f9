"""Compaction items stand for what they replaced, for their tenant only."""

import pytest

from service.closed import MOST_OPENED
from service.compaction import Compactions, Conversation, estimate, threshold
from service.conversation import Segment
from service.errors import ModelError, Refusal
from service.sealing import Seal
from tests.service.compacting import prompt
from turnwire.v1 import items_pb2, responses_pb2

COMPACTIONS = Compactions(Seal([bytes(range(32))]))
ELSEWHERE = Compactions(Seal([bytes(32)]))
TRIGGER = items_pb2.Item(compaction_trigger=items_pb2.CompactionTrigger())


def said(role: str, text: str) -> items_pb2.Item:
    return items_pb2.Item(message=items_pb2.Message(role=role, content_text=text))


def thought(text: str) -> items_pb2.Item:
    part = items_pb2.ContentPart(reasoning_text=items_pb2.Text(text=text))
    return items_pb2.Item(reasoning=items_pb2.Reasoning(id="rs_1", content=[part]))


def unshown(item: items_pb2.Item) -> items_pb2.Item:
    sent = items_pb2.Item()
    sent.CopyFrom(item)
    sent.reasoning.ClearField("content")
    return sent


HI, HO, SUMMARY = said("user", "hi"), said("assistant", "ho"), said("developer", "a summary")


def compaction(*items: items_pb2.Item) -> items_pb2.Item:
    return COMPACTIONS.item("alice", "cmp_1", items)


def legible(*items: items_pb2.Item) -> list[items_pb2.Item]:
    return list(COMPACTIONS.legible("alice", items))


def refused(compactions: Compactions, tenant: str, item: items_pb2.Item) -> Refusal:
    with pytest.raises(Refusal) as refusal:
        compactions.legible(tenant, [item])
    return refusal.value


def test_a_compaction_has_its_id_and_shows_nothing_of_what_it_stands_for() -> None:
    item = compaction(SUMMARY, HI)
    assert item.compaction.id == "cmp_1"
    assert b"summary" not in item.SerializeToString()


def test_a_compaction_stands_for_all_that_is_before_it() -> None:
    item = compaction(SUMMARY, HI)
    assert legible(HO, HO, item, HO, HI) == [SUMMARY, HI, HO, HI]
    assert legible(item) == [SUMMARY, HI]


def test_the_last_compaction_supersedes_those_before() -> None:
    unreadable = items_pb2.Item(compaction=items_pb2.Compaction(encrypted_content="?"))
    assert legible(compaction(HI), HO, unreadable, compaction(SUMMARY), HO) == [SUMMARY, HO]


def test_where_nothing_is_sealed_the_very_same_items_come_back() -> None:
    foreign = items_pb2.Item(reasoning=items_pb2.Reasoning(encrypted_content="gAAAA"))
    for items in ([], [HI, HO], [HI, thought("hm"), foreign]):
        assert COMPACTIONS.legible("alice", items) is items


def test_what_asks_for_a_compaction_is_not_told_to_models() -> None:
    assert legible(HI, TRIGGER, HO) == [HI, HO]
    assert legible(compaction(SUMMARY), HI, TRIGGER) == [SUMMARY, HI]


def test_a_compaction_that_cannot_be_read_is_refused_with_the_same_words() -> None:
    item = compaction(SUMMARY)
    changed = items_pb2.Item()
    changed.CopyFrom(item)
    changed.compaction.encrypted_content += "A"
    refusals = [
        refused(COMPACTIONS, "bob", item),
        refused(ELSEWHERE, "alice", item),
        refused(COMPACTIONS, "alice", changed),
    ]
    assert {refusal.message for refusal in refusals} == {refusals[0].message}
    assert "could not be read here" in refusals[0].message
    assert {(r.status, r.code, r.param) for r in refusals} == {(400, "invalid_value", "input")}


def test_what_is_too_long_even_when_compacted_is_refused() -> None:
    compactions = Compactions(Seal([bytes(32)], most_bytes=10))
    with pytest.raises(Refusal) as refusal:
        compactions.item("alice", "cmp_1", [said("user", "long" * 10)])
    assert refusal.value.code == "context_length_exceeded"


def test_reasoning_comes_back_as_it_was_thought() -> None:
    item = thought("the third door")
    sealed = COMPACTIONS.sealed_reasoning("alice", item)
    assert not item.reasoning.encrypted_content
    assert sealed.reasoning.content == item.reasoning.content
    assert b"door" not in unshown(sealed).SerializeToString()
    [read] = legible(unshown(sealed))
    assert read == sealed


def test_reasoning_in_what_was_compacted_is_read_too() -> None:
    sealed = COMPACTIONS.sealed_reasoning("alice", thought("the third door"))
    assert legible(compaction(SUMMARY, unshown(sealed))) == [SUMMARY, sealed]


def test_reasoning_that_cannot_be_read_stays_as_it_is() -> None:
    foreign = unshown(ELSEWHERE.sealed_reasoning("alice", thought("the third door")))
    another = unshown(COMPACTIONS.sealed_reasoning("bob", thought("the third door")))
    confused = items_pb2.Item(
        reasoning=items_pb2.Reasoning(
            encrypted_content=compaction(SUMMARY).compaction.encrypted_content
        )
    )
    assert legible(foreign, another, confused) == [foreign, another, confused]


def test_reasoning_that_a_model_server_sealed_or_did_not_show_is_not_sealed_by_us() -> None:
    theirs = thought("hm")
    theirs.reasoning.encrypted_content = "gAAAA"
    for item in (theirs, items_pb2.Item(reasoning=items_pb2.Reasoning(id="rs_1"))):
        assert COMPACTIONS.sealed_reasoning("alice", item) is item


def test_small_texts_cannot_be_opened_to_fill_the_memory() -> None:
    sealed = unshown(COMPACTIONS.sealed_reasoning("alice", thought("a" * (MOST_OPENED // 3))))
    assert sealed.ByteSize() < 100_000
    assert len(legible(*[sealed] * 2)) == 2
    for items in ([*[sealed] * 3], [compaction(*[sealed] * 3)]):
        with pytest.raises(Refusal) as refusal:
            legible(*items)
        assert refusal.value.code == "context_length_exceeded"


def test_what_would_open_to_too_much_is_not_sealed() -> None:
    with pytest.raises(Refusal) as refusal:
        compaction(said("user", "a" * MOST_OPENED))
    assert refusal.value.code == "context_length_exceeded"
    with pytest.raises(ModelError):
        COMPACTIONS.sealed_reasoning("alice", thought("a" * MOST_OPENED))


def test_before_a_turn_its_input_stays_whole() -> None:
    history = [Segment(None, [HI, HO]), Segment(None, [HI, HO])]
    conversation = Conversation.before_turn(prompt(HI, HI, history=history))
    assert conversation.older == [HI, HO, HI, HO]
    assert conversation.recent == (HI, HI)


def test_a_conversation_sent_in_one_piece_is_divided_like_one_that_was_continued() -> None:
    whole = Conversation.before_turn(prompt(HI, HO, HI, HI))
    continued = Conversation.before_turn(prompt(HI, HI, history=[Segment(None, [HI, HO])]))
    assert list(whole.older) == list(continued.older)
    assert list(whole.recent) == list(continued.recent)


def test_before_a_model_said_anything_there_is_nothing_to_compact() -> None:
    assert not Conversation.before_turn(prompt(HI, HI)).older


def test_without_a_turn_nothing_has_to_stay_whole() -> None:
    conversation = Conversation.whole(prompt(HI, history=[Segment(None, [HI, HO])]))
    assert conversation.older == [HI, HO, HI]
    assert not conversation.recent


def test_a_history_that_was_compacted_before_is_read_as_what_it_stands_for() -> None:
    history = [Segment(None, [HI, HO]), Segment(None, [HI, compaction(SUMMARY, HI), HO])]
    conversation = Conversation.whole(prompt(HO, history=history, compactions=COMPACTIONS))
    assert conversation.older == [SUMMARY, HI, HO, HO]


def settings(*thresholds: int | None, kind: str = "compaction") -> responses_pb2.Settings:
    management = [
        responses_pb2.ContextManagement(type=kind, compact_threshold=number)
        for number in thresholds
    ]
    return responses_pb2.Settings(context_management=management)


def test_a_conversation_is_compacted_by_itself_only_where_the_client_wants_it() -> None:
    assert threshold(settings()) is None
    assert threshold(settings(1000)) == 1000
    assert threshold(settings(5000, 2000, 3000)) == 2000


def test_a_client_may_leave_the_threshold_to_the_server() -> None:
    assert threshold(settings(None)) == 24_000


@pytest.mark.parametrize(
    "wrong", [settings(999), settings(0), settings(-1), settings(2000, kind="forgetting")]
)
def test_what_cannot_be_honoured_is_refused(wrong: responses_pb2.Settings) -> None:
    with pytest.raises(Refusal) as refusal:
        threshold(wrong)
    assert refusal.value.param == "context_management"


def test_four_bytes_are_taken_for_a_token() -> None:
    assert estimate([]) == 0
    assert estimate([HI, HO]) == (HI.ByteSize() + HO.ByteSize()) // 4
