import dataclasses
from collections.abc import Sequence

from service.backends.tools import Toolbox
from service.conversation import Segment
from service.rendering.turns import Turns
from tests.service.backends.llama_cpp.conversing import call, call_output, prompt, user
from turnwire.v1 import items_pb2


class Read:
    """Notes which items are read."""

    def __init__(self) -> None:
        self.turns = 0

    def legible(self, items: Sequence[items_pb2.Item]) -> Sequence[items_pb2.Item]:
        self.turns += 1
        return items


def turns_of(read: Read, history: list[Segment]) -> Turns:
    asked = prompt(call_output("sunny"), history=history)
    return Turns(dataclasses.replace(asked, legible=read.legible), Toolbox([]))


def test_an_output_has_the_name_of_its_call() -> None:
    history = [Segment(None, [call("look", "{}")]), Segment(None, [user("well?")])]
    read = Read()
    (output,) = turns_of(read, history).messages(len(history))
    assert output["name"] == "look"
    assert read.turns == 2


def test_the_call_of_an_output_is_not_looked_for_in_all_that_was_ever_said() -> None:
    history = [Segment(None, [user("well?")]) for _ in range(300)]
    read = Read()
    (output,) = turns_of(read, history).messages(len(history))
    assert "name" not in output
    assert read.turns <= 16
