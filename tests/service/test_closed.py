"""How much sealed items open to is known before they are opened."""

from service.closed import is_closed, opened_bytes
from service.sealing import Seal
from turnwire.v1 import items_pb2

SEAL = Seal.ephemeral()


def reasoning(length: int) -> items_pb2.Item:
    text = SEAL.seal("alice", "reasoning", bytes(length))
    return items_pb2.Item(reasoning=items_pb2.Reasoning(encrypted_content=text))


def compaction(length: int) -> items_pb2.Item:
    text = SEAL.seal("alice", "compaction", bytes(length))
    return items_pb2.Item(compaction=items_pb2.Compaction(encrypted_content=text))


def test_all_reasoning_counts_and_of_compactions_the_last() -> None:
    assert opened_bytes([reasoning(3), reasoning(4)]) == 7
    assert opened_bytes([reasoning(3), compaction(50), compaction(60), reasoning(4)]) == 64


def test_reasoning_that_is_shown_too_is_not_opened() -> None:
    shown = reasoning(3)
    shown.reasoning.content.add().reasoning_text.text = "hm"
    assert not is_closed(shown)
    assert opened_bytes([shown]) == 0


def test_what_others_sealed_is_not_opened_here() -> None:
    foreign = items_pb2.Item(reasoning=items_pb2.Reasoning(encrypted_content="gAAAA"))
    assert not is_closed(foreign)
    assert opened_bytes([foreign, items_pb2.Item()]) == 0


def test_what_asks_for_a_compaction_is_not_for_models_and_opens_to_nothing() -> None:
    trigger = items_pb2.Item(compaction_trigger=items_pb2.CompactionTrigger())
    assert is_closed(trigger)
    assert opened_bytes([trigger]) == 0
