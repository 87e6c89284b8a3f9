"""A text is the same message whichever way it was sent."""

import pytest

from service.requests.messages import put_in_parts, text_message
from turnwire.v1 import items_pb2


@pytest.mark.parametrize("role", ["user", "developer", "assistant"])
def test_a_text_that_was_sent_plainly_is_the_message_of_that_text(role: str) -> None:
    sent = items_pb2.Message(role=role, content_text="hello")
    put_in_parts(sent)
    assert sent == text_message(role, "hello").message


def test_what_is_in_parts_stays_as_it_is() -> None:
    message = text_message("user", "hello").message
    put_in_parts(message)
    assert message == text_message("user", "hello").message


def test_an_assistants_text_is_output() -> None:
    (part,) = text_message("assistant", "hello").message.content
    assert part.output_text.text == "hello"
