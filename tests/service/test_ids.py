"""Ids: long enough not to be guessed, and of one conversation recognisable to us only."""

import pytest

from service import ids


@pytest.mark.rule("RO-6")
def test_ids_are_many_random_characters() -> None:
    drawn = {ids.response_id(None) for _ in range(1000)}
    assert len(drawn) == 1000
    assert all(len(one) == len("resp_") + 32 for one in drawn)
    assert all(one[5:].isalnum() for one in drawn)


def test_children_share_the_root_of_their_conversation() -> None:
    parent = ids.response_id(None)
    child, other = ids.response_id(parent), ids.response_id(None)
    assert ids.root_of(child) == ids.root_of(parent) != ids.root_of(other)
    assert child != parent


def test_a_strange_parent_still_makes_a_child() -> None:
    assert ids.response_id("x").startswith("resp_")
