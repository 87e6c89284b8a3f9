"""The memory of where conversations are."""

from service.servers.affinity import Affinity, key_of
from tests.service.backends.llama_cpp.conversing import prompt


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
