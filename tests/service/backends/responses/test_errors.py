import orjson
import pytest

from service.backends.responses.errors import Forgotten, failure, refusal
from service.errors import Unavailable

SECRET = "sk-secret and what was said"


@pytest.mark.parametrize(
    ("status", "error", "code"),
    [
        (400, {"code": "context_length_exceeded"}, "context_length_exceeded"),
        (400, {"type": "exceed_context_size_error", "code": 400}, "context_length_exceeded"),
        (400, {"message": "The maximum context length is 9."}, "context_length_exceeded"),
        (404, {"code": "model_not_found"}, "model_not_found"),
        (404, {"type": "NotFoundError", "param": "model"}, "model_not_found"),
        (400, {"type": "invalid_request_error"}, "invalid_prompt"),
        (422, {}, "invalid_prompt"),
        (401, {"code": "invalid_api_key"}, "server_error"),
        (500, {}, "server_error"),
        (0, {"code": "server_error"}, "server_error"),
        (200, {"code": ["odd"], "type": {"odd": 1}}, "server_error"),
    ],
)
def test_an_error_has_our_code_and_our_words(
    status: int, error: dict[str, object], code: str
) -> None:
    told = failure({"message": SECRET} | error, status)
    assert told.code == code
    assert not isinstance(told, Unavailable)
    assert SECRET not in told.message


@pytest.mark.parametrize(
    ("status", "error", "code"),
    [
        (429, {}, "rate_limit_exceeded"),
        (400, {"code": "rate_limit_exceeded"}, "rate_limit_exceeded"),
        (503, {"code": "server_is_overloaded"}, "rate_limit_exceeded"),
        (502, {}, "server_error"),
        (503, {}, "server_error"),
        (504, {}, "server_error"),
    ],
)
def test_another_server_may_be_asked_where_one_is_busy_or_away(
    status: int, error: dict[str, object], code: str
) -> None:
    told = failure(error, status)
    assert isinstance(told, Unavailable)
    assert told.code == code


@pytest.mark.parametrize(
    "error",
    [
        {"code": "previous_response_not_found"},
        {"code": "websocket_connection_limit_reached"},
        {"type": "invalid_request_error", "code": 404, "param": "response_id"},
    ],
)
def test_a_lost_conversation_is_told_from_other_refusals(error: dict[str, object]) -> None:
    assert isinstance(failure(error, 404), Forgotten)


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b"[]", b'"x"', orjson.dumps({"error": SECRET}), b'{"error":null}'],
)
def test_an_answer_that_explains_nothing_is_known_by_its_status(body: bytes) -> None:
    told = refusal(400, body)
    assert told.code == "invalid_prompt"
    assert SECRET not in told.message
