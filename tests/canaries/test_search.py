"""Canaries are found in every form they may take: else it would mean nothing that none was found."""

import gzip
from pathlib import Path

import pytest

from tests.canaries.canary import FORMS, Canaries
from tests.canaries.sinks import Files, search

FILLING = bytes(range(256)) * 40


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("before", ["", "a", "ab"])
def test_a_canary_is_found_in_every_form(form: str, before: str) -> None:
    canaries = Canaries()
    said = f"{before} it said {canaries.word('here')} and went on"
    assert canaries.find(FILLING + FORMS[form](said) + FILLING)
    assert canaries.find(FILLING) == set()


def test_it_is_told_where_a_canary_was_said_and_in_which_form_it_was_found() -> None:
    canaries = Canaries()
    canaries.word("elsewhere")
    word = canaries.word("here")
    [(place, form)] = canaries.find(f"it said {word.upper()}.".encode())
    assert (place, form) == ("here", "plain")


def test_a_canary_that_was_cut_short_is_found() -> None:
    canaries = Canaries()
    [(place, _)] = canaries.find(canaries.word("here")[:-4].encode())
    assert place == "cut short"


def test_a_canary_in_base64_for_urls_is_found() -> None:
    canaries = Canaries()
    encoded = FORMS["base64, one byte on"](f"?>{canaries.word('here')}?>")
    assert canaries.find(encoded.replace(b"+", b"-").replace(b"/", b"_"))


def test_a_canary_is_found_in_what_was_compressed() -> None:
    canaries = Canaries()
    packed = gzip.compress(f'{{"input": "{canaries.word("here")}"}}'.encode())
    [(place, form)] = canaries.find(FILLING + packed + FILLING)
    assert (place, form) == ("here", "compressed, plain")


def test_other_runs_canaries_are_not_found() -> None:
    assert Canaries().find(Canaries().text("another run").encode()) == set()


def test_a_sink_that_is_not_what_it_should_be_is_told(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("nothing")
    [searched] = search([Files("log", [log], witness=b"serving")], Canaries())
    assert not searched.live
    assert searched.proved
