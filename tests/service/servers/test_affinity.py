"""The memory of where conversations are."""

from service.conversation import Segment
from service.servers.affinity import Affinity, key_of
from tests.service.backends.llama_cpp.conversing import assistant, prompt, user
from turnwire.v1 import items_pb2


def developer(text: str) -> items_pb2.Item:
    return items_pb2.Item(message=items_pb2.Message(role="developer", content_text=text))


def test_the_last_answer_counts() -> None:
    affinity = Affinity(8)
    affinity.answered(prompt(), "a")
    affinity.answered(prompt(), "b")
    assert affinity.last(prompt()) == "b"
    assert affinity.last(prompt(conversation="other")) is None


def test_it_forgets_what_was_answered_longest_ago() -> None:
    affinity = Affinity(2)
    for conversation in ("one", "two", "one", "three"):
        affinity.answered(prompt(conversation=conversation), "a")
    assert len(affinity) == 2
    assert affinity.last(prompt(conversation="one")) == "a"
    assert affinity.last(prompt(conversation="two")) is None


def test_tenants_share_nothing() -> None:
    affinity = Affinity(8)
    affinity.answered(prompt(tenant="alice"), "a")
    assert affinity.last(prompt(tenant="bob")) is None
    assert key_of(prompt(tenant="alice")) != key_of(prompt(tenant="bob"))


def test_a_conversation_that_is_sent_anew_has_the_same_key() -> None:
    question, answer = user("Why?"), assistant("Because.")
    first = prompt(developer("Be brief."), question, conversation="1")
    anew = prompt(developer("Be brief."), question, answer, user("Really?"), conversation="2")
    chained = prompt(user("Really?"), history=[Segment(None, [question, answer])])
    assert key_of(first) == key_of(anew) == key_of(chained)
    assert key_of(first) != key_of(prompt(developer("Be brief."), user("What?")))
