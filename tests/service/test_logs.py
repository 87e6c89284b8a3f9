"""Logs say what went wrong and where, never in a client's words."""

import json
import logging

import pytest
import structlog

from service import logs


def logged(capsys: pytest.CaptureFixture[str], form: logs.Format) -> str:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        logs.configure("info", form)
        try:
            raise ValueError("canary")
        except ValueError:
            structlog.get_logger("somewhere").exception("it broke", transport="grpc")
            logging.getLogger("elsewhere").exception("this too")
    finally:
        root.handlers[:], root.level = handlers, level
        structlog.reset_defaults()
    return capsys.readouterr().err


def test_json_lines_hold_the_place_of_a_failure_and_not_its_words(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = [json.loads(line) for line in logged(capsys, "json").splitlines()]
    assert [line["event"] for line in lines] == ["it broke", "this too"]
    assert lines[0]["transport"] == "grpc"
    for line in lines:
        assert line["exception"] == "ValueError"
        assert line["where"]
        assert "canary" not in json.dumps(line)


def test_the_console_form_holds_no_words_either(capsys: pytest.CaptureFixture[str]) -> None:
    said = logged(capsys, "console")
    assert "it broke" in said
    assert "canary" not in said
