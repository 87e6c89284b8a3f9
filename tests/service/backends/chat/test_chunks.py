"""What servers stream: real shapes where they were recorded, odd ones that are known of."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from service.backends import (
    CallText,
    CustomCallBegins,
    Finished,
    FunctionCallBegins,
    Produced,
    ReasoningText,
    RefusalText,
    ScoredText,
    Text,
)
from service.backends.chat.chunks import Chunks
from service.backends.tools import Toolbox
from service.errors import ModelError, Unavailable
from tests.service.backends.chat.conftest import delta
from tests.service.backends.chat.conversing import prompt
from tests.service.backends.llama_cpp.conversing import custom, function, namespace, user

BOX = Toolbox([function("add"), custom("run"), namespace("crm", function("find"))])
RECORDED = Path(__file__).parents[3] / "recorded" / "vllm"
USAGE = {"prompt_tokens": 7, "completion_tokens": 2}


def read(*said: Any, box: Toolbox = BOX, **settings: Any) -> tuple[Chunks, list[Produced]]:
    chunks = Chunks(prompt(user("?"), **settings), box)
    events = [
        chunk.encode() if isinstance(chunk, str) else json.dumps(chunk).encode() for chunk in said
    ]
    return chunks, chunks.read(events)


def piece(index: int | None, name: str | None, arguments: Any, **members: Any) -> dict[str, Any]:
    call = {"function": {"name": name, "arguments": arguments}, **members}
    return delta(tool_calls=[call if index is None else {"index": index, **call}])


def recorded(name: str) -> tuple[Chunks, list[Produced]]:
    exchange = json.loads((RECORDED / f"{name}.json").read_text())
    tools = [tool["function"]["name"] for tool in exchange["request"]["body"].get("tools", [])]
    chunks = Chunks(prompt(user("?"), top_logprobs=2), Toolbox(map(function, tools)))
    events = [e if isinstance(e, str) else json.dumps(e) for e in exchange["events"]]
    return chunks, chunks.read(event.encode() for event in events)


def joined(produced: Sequence[Produced], kind: type) -> str:
    return "".join(part.text for part in produced if isinstance(part, kind))  # type: ignore[union-attr]


def test_vllm_tells_text_and_ids() -> None:
    chunks, produced = recorded("chat_ids")
    assert joined(produced, Text) == "I'm so glad you're"
    assert chunks.sampled == [57, 5248, 588, 18948, 346, 2316]
    assert chunks.finished({}) == Finished("length", 12, 0, 6)
    assert chunks.done


@pytest.mark.parametrize(
    "name", ["chat_tool_required", "chat_tool_named", "chat_ids_tool_required"]
)
def test_vllm_tells_calls(name: str) -> None:
    chunks, produced = recorded(name)
    assert produced[0] == FunctionCallBegins("get_weather")
    assert json.loads(joined(produced, CallText))["city"] in {"Tokyo", "Oslo"}
    assert chunks.finished({}).reason == "stop"


def test_vllm_tells_thoughts() -> None:
    chunks, produced = recorded("chat_reasoning")
    assert joined(produced, ReasoningText)
    assert chunks.thought
    assert chunks.sampled


def test_vllm_tells_scores() -> None:
    _, produced = recorded("chat_logprobs")
    assert all(isinstance(part, ScoredText) for part in produced)
    first = produced[0]
    assert isinstance(first, ScoredText)
    assert (first.text, len(first.logprobs[0].top_logprobs)) == ("I", 2)


def test_vllm_tells_what_it_found_cached_and_which_word_stopped_it() -> None:
    chunks, _ = recorded("chat_cached")
    assert chunks.finished({}).cached_tokens == 256
    stopped, produced = recorded("chat_stop")
    assert joined(produced, Text) == "I'm so "
    assert stopped.sampled == ()


def test_thoughts_have_one_name_or_the_other_and_are_told_once() -> None:
    for said in ({"reasoning": "Hm."}, {"reasoning_content": "Hm."}):
        assert read(delta(**said))[1] == [ReasoningText("Hm.")]
    assert read(delta(reasoning="Hm.", reasoning_content="Hm."))[1] == [ReasoningText("Hm.")]


def test_a_refusal_is_one() -> None:
    assert read(delta(refusal="No."))[1] == [RefusalText("No.")]


def test_nothing_is_made_of_nothing() -> None:
    empty = [
        delta(role="assistant", content=""),
        delta(content=None, tool_calls=None),
        {"choices": []},
    ]
    assert (
        read(*empty, {"choices": None}, {"choices": [{"index": 1, "delta": {"content": "x"}}]})[1]
        == []
    )


def test_calls_come_in_pieces_with_tools_of_every_kind() -> None:
    _, produced = read(
        delta(content="Well."),
        piece(0, "add", "", id="a"),
        piece(0, None, '{"x"'),
        piece(0, None, ":1}"),
        piece(1, "crm__find", "{}", id="b"),
        piece(2, "run", '{"input": "ls\\n', id="c"),
        piece(2, None, '-l"}'),
        piece(3, "unheard_of", "{}"),
        delta("tool_calls"),
    )
    assert produced == [
        Text("Well."),
        FunctionCallBegins("add"),
        CallText('{"x"'),
        CallText(":1}"),
        FunctionCallBegins("find", "crm"),
        CallText("{}"),
        CustomCallBegins("run"),
        CallText("ls\n"),
        CallText("-l"),
        FunctionCallBegins("unheard_of"),
        CallText("{}"),
    ]


def test_calls_may_come_whole_and_numbered_alike() -> None:
    """As Ollama sent them: all of them number 0, told apart by their ids."""
    whole = [
        {"index": 0, "id": "a", "function": {"name": "add", "arguments": {"x": 1}}},
        {"index": 0, "id": "b", "function": {"name": "add", "arguments": "{}"}},
    ]
    assert read(delta(tool_calls=whole), delta("tool_calls"))[1] == [
        FunctionCallBegins("add"),
        CallText('{"x":1}'),
        FunctionCallBegins("add"),
        CallText("{}"),
    ]


def test_pieces_may_repeat_the_calls_name_or_have_no_number() -> None:
    repeated = [piece(0, "add", "{", id="a"), piece(0, "add", "}", id="a")]
    assert len(read(*repeated)[1]) == 3
    assert len(read(piece(None, "add", "{"), piece(None, None, "}"))[1]) == 3


def test_a_call_without_arguments_has_none() -> None:
    assert read(piece(0, "add", ""), delta("tool_calls"))[1][-1] == CallText("{}")
    assert read(piece(0, "add", None), piece(1, "add", "{}"))[1][1] == CallText("{}")
    assert read(piece(0, "add", ""), delta("length"))[1] == [FunctionCallBegins("add")]


def test_arguments_without_a_call_are_no_answer() -> None:
    with pytest.raises(ModelError, match="without their call"):
        read(piece(0, None, "{}"))
    with pytest.raises(ModelError, match="without their call"):
        read(piece(0, "add", "{"), piece(1, "add", "{"), piece(0, None, "}"))


def test_a_model_that_is_not_held_to_one_call_is_stopped_after_it() -> None:
    calls = [piece(0, "run", "ls", id="a"), piece(1, "add", "{}", id="b"), delta(content="more")]
    chunks, produced = read(*calls, parallel_tool_calls=False)
    assert produced == [CustomCallBegins("run"), CallText("ls")]
    assert chunks.over
    assert chunks.finished({}).reason == "stop"


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("stop", "stop"),
        ("tool_calls", "stop"),
        ("eos", "stop"),
        ("length", "length"),
        ("content_filter", "content_filter"),
    ],
)
def test_an_answer_ends_for_a_reason(said: str, reason: str) -> None:
    chunks, _ = read(delta(said), {"choices": [], "usage": USAGE})
    assert chunks.finished({}) == Finished(reason, 7, 0, 2)  # type: ignore[arg-type]


@pytest.mark.parametrize("said", [[delta(content="a")], [delta("abort")], [delta("error")], []])
def test_an_answer_without_an_end_was_broken_off(said: list[Any]) -> None:
    with pytest.raises(Unavailable, match="broke off"):
        read(*said)[0].finished({})


def test_an_end_may_be_said_in_either_way() -> None:
    assert read(delta(content="a"), "[DONE]")[0].finished({}).reason == "stop"
    assert read(delta("length"))[0].finished({}).reason == "length"


def test_where_nobody_counts_pieces_are_counted() -> None:
    said = [delta(content="a"), delta(content="b"), delta("stop")]
    assert read(*said)[0].finished({}) == Finished("stop", 0, 0, 2)


def test_what_was_counted_has_many_forms() -> None:
    usage = {
        "prompt_tokens": 9,
        "completion_tokens": 4,
        "prompt_tokens_details": None,
        "prompt_cache_hit_tokens": 5,
        "reasoning_tokens": 3,
    }
    chunks, _ = read({**delta("stop"), "usage": usage}, {"choices": [], "usage": None})
    assert chunks.finished({}) == Finished("stop", 9, 5, 4, 3)


def test_sglang_tells_ids_at_the_end() -> None:
    extension = {"choices": [], "sglext": {"input_ids": None, "output_ids": [[4, 5]]}}
    chunks, _ = read(delta(content="ab"), delta("stop"), extension, {"choices": [], "usage": USAGE})
    assert chunks.sampled == [4, 5]


def test_ids_that_are_not_all_are_none() -> None:
    said = {"choices": [{"index": 0, "delta": {"content": "a"}, "token_ids": [4]}]}
    assert read(said, {"choices": [], "usage": USAGE})[0].sampled == ()
    assert read(said, said)[0].sampled == ()


def test_scores_wait_for_the_text_they_are_of() -> None:
    scored = {"content": [{"token": "a", "logprob": -1.0, "bytes": None, "top_logprobs": []}]}
    held, shown = delta(), delta(content="aa")
    for chunk in (held, shown):
        chunk["choices"][0]["logprobs"] = scored
    _, produced = read(held, shown, top_logprobs=0)
    (text,) = produced
    assert isinstance(text, ScoredText)
    assert [bytes(score.bytes) for score in text.logprobs] == [b"a", b"a"]
    assert read(held, shown)[1] == [Text("aa")]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        ({"error": {"message": "boom", "type": "BadRequestError", "code": 400}}, "invalid_prompt"),
        ({"error": {"message": "boom", "type": "server_error", "code": 500}}, "server_error"),
        ({"error": "boom"}, "server_error"),
        (
            {"error": {"message": "maximum context length is 5 tokens", "code": 400}},
            "context_length_exceeded",
        ),
    ],
)
def test_an_error_may_come_in_the_middle(error: dict[str, Any], code: str) -> None:
    with pytest.raises(ModelError) as caught:
        read(delta(content="a"), error)
    assert caught.value.code == code
    assert "boom" not in caught.value.message


@pytest.mark.parametrize(
    "nonsense",
    [
        "no json",
        "[1]",
        '{"choices": 5}',
        '{"choices": [5]}',
        '{"choices": [{"delta": "x"}]}',
        '"x"',
    ],
)
def test_nonsense_is_no_answer(nonsense: str) -> None:
    with pytest.raises(ModelError) as caught:
        read(nonsense)
    assert caught.value.code == "server_error"


@pytest.mark.parametrize(
    "said",
    [
        delta(content=5),
        delta(content=["x"]),
        delta(reasoning={"a": 1}),
        delta(refusal=True),
        {"choices": [{"delta": {}, "finish_reason": ["stop"]}]},
        piece(0, 5, ""),  # type: ignore[arg-type]
        {"choices": [], "usage": {"prompt_tokens": "7"}},
        {"choices": [], "sglext": {"output_ids": [["1],2"]]}},
        {"choices": [{"delta": {}, "token_ids": ["1"]}]},
        {"choices": [{"delta": {}, "token_ids": [-1]}]},
    ],
    ids=str,
)
def test_what_is_of_another_type_is_an_error(said: Any) -> None:
    with pytest.raises(ModelError) as raised:
        read(said)
    assert raised.value.code == "server_error"


def test_no_count_is_below_zero() -> None:
    details = {"cached_tokens": -5}
    counted = {"prompt_tokens": -7, "completion_tokens": -1, "prompt_tokens_details": details}
    chunks, _ = read(delta("stop", content="x"), {"choices": [], "usage": counted})
    assert chunks.finished({}) == Finished("stop", 0, 0, 0)
