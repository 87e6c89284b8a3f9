from service.rendering import Message
from service.rendering.manners import Manners


def says(role: str, *texts: str) -> list[Message]:
    return [{"role": role, "content": text} for text in texts]


SAID = [
    *says("system", "a", "b"),
    *says("user", "c", "d", "e"),
    *says("assistant", "f", "g"),
    *says("tool", "h", "i"),
    *says("user", "j"),
]


def test_messages_of_the_user_in_a_row_become_one_where_the_template_wants_it() -> None:
    assert Manners(neighbours="joined").joined(SAID) == [
        *says("system", "a\n\nb"),
        *says("user", "c\n\nd\n\ne"),
        *says("assistant", "f", "g"),
        *says("tool", "h", "i"),
        *says("user", "j"),
    ]


def test_they_stay_apart_where_it_does_not() -> None:
    assert Manners().joined(SAID) == SAID
