"""What an adapter makes of an answer: text in pieces, its form, its end, and what it cost."""

import json
from typing import Any

import pytest

from service.backends import Finished, ScoredText, Text
from service.errors import ModelError
from tests.adapters.front import WORDS, Front, outcome, said
from tests.service.backends.llama_cpp.conversing import user
from tests.service.backends.responses.chatting import text
from turnwire.v1 import items_pb2, responses_pb2


def formatted(schema: Any) -> responses_pb2.TextSettings:
    form = responses_pb2.JsonSchemaFormat(
        name="answer", schema_json=json.dumps(schema), strict=True
    )
    return responses_pb2.TextSettings(format=responses_pb2.TextFormat(json_schema=form))


async def test_text_comes_in_pieces_and_ends_once(adapter: Front) -> None:
    chat = adapter.chat()
    await chat.say(user(f"{WORDS} {WORDS}"), max_output_tokens=30)
    assert all(chat.batches)
    assert sum(isinstance(batch[0], Text) for batch in chat.batches) > 1
    produced = [piece for batch in chat.batches for piece in batch]
    assert [piece for piece in produced if isinstance(piece, Finished)] == [produced[-1]]


async def test_a_limit_on_output_ends_an_answer(adapter: Front) -> None:
    chat = adapter.chat(max_output_tokens=9)
    await chat.say(user(WORDS))
    assert chat.finished
    assert (chat.finished.reason, chat.finished.output_tokens) == ("length", 9)


async def test_usage_grows_by_what_was_said(adapter: Front) -> None:
    chat = adapter.chat()
    await chat.say(user(WORDS))
    assert (first := chat.finished)
    fork = chat.fork()
    await chat.say(user("Go on."))
    await fork.say(user("Go on." + "." * 40))
    assert (second := chat.finished)
    assert (longer := fork.finished)
    assert second.input_tokens > first.input_tokens + first.output_tokens
    assert 10 <= longer.input_tokens - second.input_tokens <= 40
    assert 0 < second.output_tokens <= 12


@pytest.mark.asks("prefixes")
async def test_the_second_turn_finds_the_first_one_cached(adapter: Front) -> None:
    chat = adapter.chat()
    await chat.say(user("cached " * 30))
    assert (first := chat.finished)
    await chat.say(user("Go on."))
    assert chat.finished
    assert chat.finished.cached_tokens >= first.input_tokens - 20
    assert chat.finished.cached_tokens < chat.finished.input_tokens


@pytest.mark.asks("prompts")
async def test_instructions_and_developers_are_heard_in_their_places(adapter: Front) -> None:
    chat = adapter.chat(instructions="Obey the instructions.")
    message = items_pb2.Message(role="developer", content_text="A developer speaks.")
    await chat.say(user("First."), items_pb2.Item(message=message), user("Then."))
    told = adapter.prompted().text
    said = ["Obey the instructions.", "First.", "A developer speaks.", "Then."]
    places = [told.index(words) for words in said]
    assert places == sorted(places)
    assert [told.count(words) for words in said] == [1, 1, 1, 1]


@pytest.mark.parametrize("answer", ["<tool_call>", "</tool_call>\n{"])
async def test_a_schema_is_kept_to_also_where_it_looks_like_a_call(
    adapter: Front, answer: str
) -> None:
    chat = adapter.chat(text=formatted({"enum": [answer]}), max_output_tokens=90)
    output = await chat.say(user("Answer."))
    assert json.loads(text(output)) == answer
    assert chat.finished
    assert chat.finished.reason == "stop"


@pytest.mark.asks("characters")
async def test_a_character_of_several_tokens_comes_whole(adapter: Front) -> None:
    chat = adapter.chat(text=formatted({"enum": ["aü🚀b"]}), max_output_tokens=90)
    await chat.say(user("Answer."))
    pieces = [piece for batch in chat.batches for piece in batch if isinstance(piece, Text)]
    assert not [piece for piece in pieces if "\N{REPLACEMENT CHARACTER}" in piece.text]
    assert json.loads(said(pieces)) == "aü🚀b"


@pytest.mark.asks("stop words")
async def test_a_stop_word_ends_an_answer_and_is_not_told(adapter: Front) -> None:
    plain = text(await adapter.chat().say(user(WORDS)))
    word = plain[4:6]
    chat = adapter.chat(max_output_tokens=60)
    output = await chat.say(user(WORDS), extra=json.dumps({"stop": [word]}))
    assert text(output) == plain[: plain.index(word)]
    assert chat.finished
    assert chat.finished.reason == "stop"
    assert text(await chat.say(user("Go on.")))


@pytest.mark.asks("scores")
async def test_tokens_are_scored_where_that_is_wanted(adapter: Front) -> None:
    chat = adapter.chat(top_logprobs=2)
    await chat.say(user(WORDS))
    pieces = [piece for batch in chat.batches for piece in batch]
    scored = [piece for piece in pieces if isinstance(piece, ScoredText)]
    assert not [piece for piece in pieces if isinstance(piece, Text)]
    scores = [score for piece in scored for score in piece.logprobs]
    assert b"".join(bytes(score.bytes) for score in scores).decode() == said(pieces)
    assert all(score.logprob <= 0 and len(score.top_logprobs) == 2 for score in scores)


async def test_without_chance_the_same_is_said_twice(adapter: Front) -> None:
    asked = adapter.chat().prompt(user(WORDS), extra='{"seed": 7}')
    answers = [await outcome(adapter.backend, asked) for _ in range(2)]
    assert answers[0].text == answers[1].text != ""


async def test_what_is_too_long_is_said_to_be_so(adapter: Front) -> None:
    with pytest.raises(ModelError) as caught:
        await adapter.chat().say(user("x" * 20_000))
    assert caught.value.code == "context_length_exceeded"
    assert "xxx" not in caught.value.message
    assert await adapter.chat().say(user("x"))


@pytest.mark.asks("models")
async def test_a_model_that_is_not_there_is_named_as_that(adapter: Front) -> None:
    chat = adapter.chat()
    chat.model = "no-such-model"
    with pytest.raises(ModelError) as caught:
        await chat.say(user("Hello."))
    assert caught.value.code == "model_not_found"
