"""The embedded classifier: that it says what its original says, of long texts too, and lets others work."""

import asyncio
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from service.moderation import Failure, Verdict
from service.moderation.embedded import OFFENSIVE, EmbeddedClassifier
from service.moderation.offensive import WEIGHTS, OffensiveLanguage, pieces
from tests.service.moderation.drawn import drawn

RECORDED = Path(__file__).parents[2] / "recorded" / "offensive.json"
INSULT = "Shut up, you stupid idiot."
FILLER = "The quarterly report lists revenue by region, with a table for each product line.\n"


@pytest.fixture(scope="module")
def model() -> OffensiveLanguage:
    return OffensiveLanguage.read(WEIGHTS.read_bytes())


@pytest.fixture(scope="module")
def recorded() -> Mapping[str, Any]:
    found: Mapping[str, Any] = json.loads(RECORDED.read_text())
    return found


@pytest.fixture
def classifier() -> EmbeddedClassifier:
    return EmbeddedClassifier("embedded")


async def judged(classifier: EmbeddedClassifier, *texts: str) -> list[Verdict]:
    verdicts = await classifier.classify(texts)
    assert not isinstance(verdicts, Failure)
    return list(verdicts)


def scores(verdicts: Iterable[Verdict]) -> list[float]:
    return [verdict.scores[OFFENSIVE] for verdict in verdicts]


def test_sentences_have_the_probabilities_that_the_original_gives_them(
    model: OffensiveLanguage, recorded: Mapping[str, Any]
) -> None:
    for text, probability in recorded["written"].items():
        assert model.score(text) == pytest.approx(probability, abs=1e-5), text


def test_texts_of_all_its_words_have_the_probabilities_that_the_original_gives_them(
    model: OffensiveLanguage, recorded: Mapping[str, Any]
) -> None:
    scored = [model.score(text) for text in drawn(model.words)]
    assert len(scored) == 300
    assert max(scored) - min(scored) > 0.9
    assert scored == pytest.approx(recorded["drawn"], abs=1e-5)


def test_the_licence_of_who_trained_it_is_kept_beside_the_weights(
    recorded: Mapping[str, Any],
) -> None:
    assert recorded["source"] == "alt-profanity-check 1.9.1"
    licence = WEIGHTS.with_name("LICENSE").read_text()
    assert "MIT License" in licence
    assert "Victor Zhou" in licence


async def test_what_is_offensive_is_flagged_as_that_and_as_nothing_else(
    classifier: EmbeddedClassifier,
) -> None:
    offensive, clean = await judged(classifier, INSULT, "Good morning.")
    assert offensive.categories == {OFFENSIVE}
    assert offensive.flagged
    assert not offensive.passes
    assert clean.passes
    assert set(clean.scores) == {OFFENSIVE}


@pytest.mark.parametrize(
    "text",
    [
        "kill the process with pid 42",
        "kill -9 the zombie child process",
        "abort the fork and kill its children",
        "the terminal is dumb",
        "what a damn nice day",
    ],
)
async def test_what_only_sounds_rough_passes(classifier: EmbeddedClassifier, text: str) -> None:
    (verdict,) = await judged(classifier, text)
    assert verdict.passes


async def test_of_a_long_text_the_gravest_piece_counts(classifier: EmbeddedClassifier) -> None:
    harmless = FILLER * 200
    clean, begins, ends = await judged(classifier, harmless, INSULT + harmless, harmless + INSULT)
    assert (clean.flagged, begins.flagged, ends.flagged) == (False, True, True)


async def test_many_short_texts_are_judged_as_if_alone(classifier: EmbeddedClassifier) -> None:
    texts = [INSULT, "Good morning.", "kill the process with pid 42", ""]
    alone = [score for text in texts for score in scores(await judged(classifier, text))]
    assert scores(await judged(classifier, *texts * 200)) == alone * 200


def test_short_texts_are_in_one_piece_and_long_ones_lose_nothing() -> None:
    short, long = "w" * 100, "some words, " * 1000
    assert list(pieces(short, 16)) == [[short]]
    batches = list(pieces(long, 16))
    assert "".join(piece for batch in batches for piece in batch) == long
    assert max(map(len, batches)) == 16
    assert max(len(piece) for batch in batches for piece in batch) <= 164


def test_no_word_is_cut_in_two() -> None:
    cut = [piece for batch in pieces("x " * 48 + "assignment " * 50, 4) for piece in batch]
    words = {word for piece in cut for word in piece.split()}
    assert len(cut) > 4
    assert words == {"x", "assignment"}


async def test_the_loop_goes_round_after_each_bit_of_work_whoever_asks(
    classifier: EmbeddedClassifier,
) -> None:
    rounds = 0

    async def others() -> None:
        nonlocal rounds
        while True:
            rounds += 1
            await asyncio.sleep(0)

    ticking = asyncio.create_task(others())
    long = FILLER * 1000
    bits = sum(1 for _ in pieces(long, 64))
    async with asyncio.timeout(30):
        await asyncio.gather(*(judged(classifier, long + "." * who) for who in range(3)))
    ticking.cancel()
    assert rounds >= 3 * bits


async def test_a_screening_that_is_given_up_holds_nobody_up(
    classifier: EmbeddedClassifier,
) -> None:
    endless = asyncio.create_task(judged(classifier, FILLER * 20_000))
    async with asyncio.timeout(30):
        await asyncio.sleep(0)
        endless.cancel()
        await asyncio.wait([endless])
        (verdict,) = await judged(classifier, FILLER * 100)
    assert endless.cancelled()
    assert verdict.passes


async def test_what_takes_too_long_is_no_verdict() -> None:
    failure = await EmbeddedClassifier("embedded", deadline=0).classify([FILLER * 1000])
    assert isinstance(failure, Failure)
    assert failure.code == "classifier_unavailable"


def test_its_version_is_that_of_its_weights(classifier: EmbeddedClassifier) -> None:
    assert classifier.version == EmbeddedClassifier("other").version
    assert len(classifier.version) > 16
    classifier.close()
