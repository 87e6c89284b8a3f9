from collections.abc import Sequence

from service.bench.conversation import Conversation
from service.bench.subjects import Subject, candidates
from service.bench.turns import Bench, Point
from service.rendering import Cycle, Message, Opening, Piece
from service.rendering.chat_ml import ChatMl


async def points(subject: Subject, *measured: int) -> list[Point]:
    return [p async for p in Bench(subject).points(Conversation(12, 12_000), measured)]


def chat_ml() -> Subject:
    (candidate,) = candidates([], ["chat_ml"])
    return candidate.load()


async def test_prompts_are_the_same_turn_by_turn_and_at_once() -> None:
    found = await points(chat_ml(), 1, 5, 11, 12)
    assert [point.turn for point in found] == [1, 5, 11, 12]
    assert {point.outcome for point in found} == {"identical"}
    assert found[0].tokens < found[1].tokens < found[-1].tokens


async def test_thoughts_that_are_forgotten_do_not_make_a_difference() -> None:
    (candidate,) = candidates([], ["jinja"])
    found = await points(candidate.load(), 10, 11)
    assert {point.outcome for point in found} == {"identical"}


async def test_a_template_that_does_not_add_up_is_found_out() -> None:
    class Counting(ChatMl):
        def whole(self, opening: Opening, messages: Sequence[Message]) -> Sequence[Piece]:
            return [*super().whole(opening, messages), str(len(messages))]

    sound = chat_ml()
    assert isinstance(sound.template, ChatMl)
    counting = Counting([], sound.template.start, sound.template.end, sound.template.ends)
    found = await points(Subject(counting, sound.tokenizer), 3)
    assert [point.outcome for point in found] == ["not_additive"]


async def test_answers_that_are_told_otherwise_later_stay_as_they_were_sampled() -> None:
    class Musing(ChatMl):
        def answer_opens(self, opening: Opening) -> Sequence[Piece]:
            return [*super().answer_opens(opening), "Well:"]

        def whole(self, opening: Opening, messages: Sequence[Message]) -> Sequence[Piece]:
            told = self.turn(messages, Cycle.OPEN)
            return [*self.preamble(opening), *told, *self.answer_opens(opening)]

    sound = chat_ml()
    assert isinstance(sound.template, ChatMl)
    other = Musing([], sound.template.start, sound.template.end, sound.template.ends)
    found = await points(Subject(other, sound.tokenizer), 3)
    assert [point.outcome for point in found] == ["respelled"]
