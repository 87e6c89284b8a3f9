import json
from pathlib import Path
from typing import Any

import pytest

from service.backends.chat.errors import error_of
from service.errors import ModelError, Unavailable

RECORDED = Path(__file__).parents[3] / "recorded" / "vllm"


def meant(status: int, body: Any) -> ModelError:
    return error_of(status, body if isinstance(body, bytes) else json.dumps(body).encode())


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("error_context_length", "context_length_exceeded"),
        ("error_context_length_ids", "context_length_exceeded"),
        ("error_max_tokens", "invalid_prompt"),
        ("error_model", "model_not_found"),
        ("error_parameter", "invalid_prompt"),
        ("error_type", "invalid_prompt"),
        ("error_ids", "invalid_prompt"),
        ("error_route", "server_error"),
    ],
)
def test_what_vllm_complains_of_is_understood(name: str, code: str) -> None:
    exchange = json.loads((RECORDED / f"{name}.json").read_text())
    assert meant(exchange["status"], exchange["answer"]).code == code


@pytest.mark.parametrize(
    "error",
    [
        {"code": "context_length_exceeded", "message": "?"},
        {"type": "exceed_context_size_error", "message": "?"},
        {"message": "The input (9 tokens) is longer than the model's context length (8 tokens)."},
        {
            "message": "Requested token count exceeds the model's maximum context length of 8 tokens."
        },
        {"message": "request (10 tokens) exceeds the available context size (8 tokens)"},
        {
            "message": '{"error":{"message":"request (9 tokens) exceeds the available context size"}}'
        },
        {"message": "Trying to keep the first 9 tokens when context the overflows."},
        {"message": "Prompt length (9) should not exceed max_seq_len (8)."},
        {"message": "This model's maximum prompt length is 8 but the request contains 9 tokens"},
        {"message": "Please reduce the length of the messages or completion."},
    ],
)
@pytest.mark.parametrize("status", [400, 413, 500])
def test_what_is_too_long_is_said_in_many_ways(error: dict[str, str], status: int) -> None:
    assert meant(status, {"error": error}).code == "context_length_exceeded"


@pytest.mark.parametrize(
    ("status", "body", "code", "elsewhere"),
    [
        (400, {"object": "error", "message": "x", "code": 400}, "invalid_prompt", False),
        (422, {"detail": [{"loc": ["body"], "msg": "x"}]}, "invalid_prompt", False),
        (401, b"", "server_error", False),
        (403, {"error": "x"}, "server_error", False),
        (404, {"error": {"message": "model 'x' not found"}}, "model_not_found", False),
        (404, b"404 page not found", "server_error", False),
        (405, b"", "server_error", False),
        (429, {"error": {"message": "maximum context length"}}, "rate_limit_exceeded", True),
        (500, b"<html>", "server_error", True),
        (502, b"", "server_error", True),
        (503, {"error": {"message": "Loading model"}}, "server_error", True),
        (301, b"", "server_error", False),
    ],
)
def test_a_status_has_a_meaning(status: int, body: Any, code: str, elsewhere: bool) -> None:
    error = meant(status, body)
    assert (error.code, isinstance(error, Unavailable)) == (code, elsewhere)


def test_foreign_words_are_not_repeated_but_known_parameters_are_named() -> None:
    error = {"message": "secret words", "param": "body.temperature"}
    assert meant(400, {"error": error}).message == "The model server refused 'temperature'."
    error["param"] = "secret"
    assert "secret" not in meant(400, {"error": error}).message
