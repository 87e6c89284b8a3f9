from collections.abc import Sequence
from typing import ClassVar

import pytest

from service.backends import (
    CallText,
    FunctionCallBegins,
    ItemEnds,
    Produced,
    ReasoningText,
    ScoredText,
    Text,
)
from service.backends.engines import Ended, Likely, Sampled, Score
from service.backends.engines.answer import Answer, Limits
from service.parsing import Scores
from service.parsing.texts import ScoredTextReader, TextReader
from service.rendering.detokenizer import StreamDetokenizer

END = 258


def detokenizer() -> StreamDetokenizer:
    return StreamDetokenizer(lambda token: bytes([token]), frozenset({END}))


class Marked:
    """Reads `?` as a thought, `(` and `)` as a call, and everything else as text."""

    _SAYS: ClassVar[dict[str, list[Produced]]] = {
        "(": [FunctionCallBegins("f"), CallText("{}")],
        ")": [ItemEnds()],
    }

    def push(self, text: str, scores: Scores = ()) -> list[Produced]:
        del scores
        produced: list[Produced] = []
        for letter in text:
            other: Produced = ReasoningText(letter) if letter == "?" else Text(letter)
            produced += self._SAYS.get(letter, [other])
        return produced

    def end(self) -> list[Produced]:
        return [Text("[end]")]

    def cut(self) -> list[Produced]:
        return [Text("[cut]")]


def ids(text: str) -> list[int]:
    return list(text.encode())


def told(answer: Answer, *events: Sampled | Ended) -> str:
    produced = [piece for event in events for piece in answer.take(event)] + answer.end()
    return "".join(piece.text for piece in produced if isinstance(piece, Text | ScoredText))


def plain(*words: str) -> Answer:
    return Answer(detokenizer, TextReader(), Limits(frozenset({END}), words))


def in_pieces(text: str, size: int) -> list[Sampled]:
    sampled = ids(text)
    return [Sampled(sampled[at : at + size]) for at in range(0, len(sampled), size)]


def test_what_was_sampled_is_kept_without_the_end_of_turn() -> None:
    answer = plain()
    assert told(answer, Sampled(ids("Hé")), Sampled([END]), Ended(by_length=False)) == "Hé"
    assert answer.kept == ids("Hé")
    assert answer.output_tokens == len(ids("Hé")) + 1
    assert not answer.by_length


def test_a_character_is_told_when_its_last_byte_is_there() -> None:
    answer = plain()
    assert answer.take(Sampled(ids("é")[:1])) == []
    assert answer.take(Sampled(ids("é")[1:])) == [Text("é")]


def test_half_a_character_at_the_end_is_kept_as_it_was_sampled() -> None:
    answer = plain()
    half = ids("aé")[:-1]
    assert told(answer, Sampled(half), Ended(by_length=True)) == "a\ufffd"
    assert answer.kept == half
    assert answer.by_length


@pytest.mark.parametrize("size", [1, 2, 3, 50])
@pytest.mark.parametrize(
    ("sampled", "words", "left"),
    [
        ("one two three", ["two"], "one "),
        ("one two three", ["three", "two"], "one "),
        ("aaab", ["aab"], "a"),
        ("stop", ["stop"], ""),
        ("one two", ["twos", "x"], "one two"),
        ("né\N{ROCKET}x", ["\N{ROCKET}"], "né"),
    ],
)
def test_a_stop_word_ends_an_answer_wherever_it_is_cut(
    sampled: str, words: Sequence[str], left: str, size: int
) -> None:
    answer = plain(*words)
    assert told(answer, *in_pieces(sampled, size), Ended(by_length=False)) == left
    assert answer.kept == ids(left)
    assert answer.complete


def test_a_token_that_a_stop_word_cuts_in_two_is_kept_as_text() -> None:
    words = {1: b"Hello", 2: b" wor", 3: b"ld!"}
    spelling = lambda: StreamDetokenizer(words.__getitem__, frozenset())  # noqa: E731
    answer = Answer(spelling, TextReader(), Limits(words=["orld"]))
    assert told(answer, Sampled([1, 2]), Sampled([3])) == "Hello w"
    assert answer.kept == [1, " w"]


def test_text_is_held_back_only_while_it_may_become_a_stop_word() -> None:
    answer = plain("##")
    assert answer.take(Sampled(ids("a#"))) == [Text("a")]
    assert answer.take(Sampled(ids("b"))) == [Text("#"), Text("b")]


def test_nothing_is_taken_after_the_last_call_that_there_may_be() -> None:
    answer = Answer(detokenizer, Marked(), Limits(calls=1))
    produced = answer.take(Sampled(ids("a()b()")))
    assert produced == [Text("a"), FunctionCallBegins("f"), CallText("{}"), ItemEnds()]
    assert answer.complete
    assert answer.end() == []
    assert answer.kept == ids("a()")


def test_thoughts_are_counted_in_tokens() -> None:
    answer = Answer(detokenizer, Marked(), Limits())
    told(answer, Sampled(ids("??a")), Ended(by_length=False, cached_tokens=9))
    assert answer.thought
    assert answer.reasoning_tokens == 2
    assert answer.cached_tokens == 9


@pytest.mark.parametrize(
    ("by_length", "words", "last"),
    [(True, [], "[cut]"), (False, [], "[end]"), (False, ["b"], "[cut]")],
)
def test_a_reader_is_told_whether_the_model_had_finished(
    by_length: bool, words: list[str], last: str
) -> None:
    answer = Answer(detokenizer, Marked(), Limits(words=words))
    assert told(answer, Sampled(ids("ab")), Ended(by_length=by_length)).endswith(last)


def scored(text: str, *words: str) -> list[tuple[str, float, list[str]]]:
    answer = Answer(detokenizer, ScoredTextReader(), Limits(frozenset({END}), words))
    scores = [Score(-1.0, [Likely(token, -1.0), Likely(120, -2.0)]) for token in ids(text)]
    produced = answer.take(Sampled(ids(text), scores)) + answer.end()
    texts = [piece for piece in produced if isinstance(piece, ScoredText)]
    for piece in texts:
        assert b"".join(bytes(score.bytes) for score in piece.logprobs) == piece.text.encode()
    return [
        (score.token, score.logprob, [likely.token for likely in score.top_logprobs])
        for piece in texts
        for score in piece.logprobs
    ]


def test_text_comes_with_how_likely_its_tokens_were() -> None:
    assert scored("ab") == [("a", -1.0, ["a", "x"]), ("b", -1.0, ["b", "x"])]


def test_tokens_of_one_character_are_scored_as_one() -> None:
    assert scored("aé") == [("a", -1.0, ["a", "x"]), ("é", -2.0, [])]


def test_what_a_stop_word_took_away_is_not_scored() -> None:
    assert [token for token, *_ in scored("a stop", "st")] == ["a", " "]


def test_scores_that_belong_to_other_ids_are_left_out() -> None:
    answer = Answer(detokenizer, ScoredTextReader(), Limits())
    assert answer.take(Sampled(ids("ab"), [Score(-1.0)])) == [
        ScoredText("a", ()),
        ScoredText("b", ()),
    ]


@pytest.mark.parametrize(("said", "cut"), [("a(bX", True), ("a(b)X", False), ("aX", False)])
def test_a_stop_word_in_a_call_leaves_it_cut_off(said: str, cut: bool) -> None:
    answer = Answer(detokenizer, Marked(), Limits(words=["X"]))
    told(answer, Sampled(ids(said)), Ended(by_length=False))
    assert answer.by_length == cut
