"""The rules of prompt cache diagnostics, and of when two items say the same."""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.responses.response import PromptCacheDiagnostics
from pydantic import TypeAdapter

from service.conversation import Fingerprint, Node, Segment
from service.requests.diagnostics import diagnose, fingerprint
from service.requests.meaning import same
from service.sealing import Seal
from turnwire.v1 import items_pb2, responses_pb2
from turnwire.v1.items_pb2 import ContentPart, FunctionCall, Item, Message, OutputText, Reasoning
from turnwire.v1.responses_pb2 import Settings

PRINT = Fingerprint(*range(8))
_SHAPE: TypeAdapter[Any] = TypeAdapter(PromptCacheDiagnostics)


def as_it_is(items: Sequence[Item]) -> Sequence[Item]:
    """A conversation in which nothing is sealed."""
    return items


def user(text: str) -> Item:
    return Item(message=Message(role="user", content_text=text))


def answer(text: str, item_id: str = "msg_1") -> Item:
    part = ContentPart(output_text=OutputText(text=text))
    message = Message(id=item_id, role="assistant", status="completed", content=[part])
    return Item(message=message)


def compaction(sealed: str) -> Item:
    return Item(compaction=items_pb2.Compaction(encrypted_content=sealed))


def node(
    parent: Node | None,
    said: Sequence[Item],
    answered: Sequence[Item],
    *,
    tokens: int = 0,
    told: Fingerprint | None = PRINT,
) -> Node:
    items = [*said, *answered]
    begins = any(item.HasField("compaction") for item in items)
    segment = Segment(parent.segment if parent and not begins else None, items)
    return Node(
        tenant="t",
        id=f"resp_{id(segment)}",
        parent_id=parent.id if parent else None,
        segment=segment,
        inputs=len(said),
        pending_calls=frozenset(),
        tokens=tokens,
        fingerprint=told,
    )


def diagnosis(
    compared: Node | None,
    parent: Node | None,
    items: Sequence[Item],
    told: Fingerprint = PRINT,
    legible: Callable[[Sequence[Item]], Sequence[Item]] = as_it_is,
) -> Any:
    """Diagnose, in a shape that a released client reads without loss."""
    members = json.loads(diagnose(compared, parent, items, told, legible))
    read = _SHAPE.validate_python(members).model_dump(exclude_unset=True)
    assert read == members
    return members


def hits(compared: Node, parent: Node | None, items: Sequence[Item]) -> bool:
    return bool(diagnosis(compared, parent, items) == {"type": "cache_hit"})


# Settings


def test_a_response_that_is_not_there_is_said_not_to_be() -> None:
    assert diagnosis(None, None, [user("a")]) == {"type": "comparison_response_not_found"}


def test_a_response_without_a_fingerprint_cannot_be_compared() -> None:
    compared = node(None, [user("a")], [answer("b")], told=None)
    assert diagnosis(compared, None, [user("a")]) == {"type": "unavailable"}


@pytest.mark.parametrize(
    ("part", "reason", "changed"),
    [
        ("model", "model_changed", "model"),
        ("prompt_cache_key", "prompt_cache_key_changed", "prompt_cache_key"),
        ("tools", "tools_changed", "tools"),
        ("instructions", "input_changed", "instructions"),
        ("text_format", "text_format_changed", "text.format"),
        ("verbosity", "verbosity_changed", "text.verbosity"),
        ("reasoning_effort", "reasoning_effort_changed", "reasoning.effort"),
        ("service_tier", "service_tier_changed", "service_tier"),
    ],
)
def test_a_changed_setting_misses_the_whole_prompt(part: str, reason: str, changed: str) -> None:
    compared = node(None, [user("a")], [answer("b")], tokens=1000)
    told = PRINT._replace(**{part: 99})
    miss = diagnosis(compared, compared, [user("x" * 400)], told)
    assert (miss["reason"], miss["changed"]) == (reason, changed)
    assert miss["comparison_reusable_tokens"] == 0
    assert 1100 <= miss["cache_missed_tokens"] <= 1110


def test_the_first_of_several_changes_is_told() -> None:
    compared = node(None, [user("a")], [answer("b")])
    told = PRINT._replace(service_tier=99, tools=99, text_format=99)
    assert diagnosis(compared, None, [user("other")], told)["reason"] == "tools_changed"


# Items


@pytest.fixture
def first() -> Node:
    return node(None, [user("question"), user("more")], [answer("answer")], tokens=500)


def test_what_continues_the_compared_response_hits(first: Node) -> None:
    assert hits(first, first, [user("next")])
    assert hits(first, node(first, [user("next")], [answer("then")]), [user("third")])


def test_a_client_that_replays_everything_hits(first: Node) -> None:
    assert hits(first, None, [user("question"), user("more"), answer("answer"), user("next")])


def test_ids_statuses_and_ways_to_write_text_make_no_difference(first: Node) -> None:
    plain = Item(message=Message(role="assistant", content_text="answer"))
    parts = [ContentPart(input_text=items_pb2.Text(text="question"))]
    question = Item(message=Message(id="msg_mine", role="user", content=parts))
    assert hits(first, None, [question, user("more"), plain, user("next")])


def test_a_changed_item_is_named_by_its_place_in_the_request(first: Node) -> None:
    miss = diagnosis(first, None, [user("question"), user("changed " * 40), user("next")])
    assert (miss["reason"], miss["changed"]) == ("input_changed", "input[1]")
    assert miss["comparison_reusable_tokens"] == user("question").ByteSize() // 4
    assert (
        miss["cache_missed_tokens"]
        == sum(item.ByteSize() for item in (user("changed " * 40), user("next"))) // 4
    )


def test_a_difference_in_what_came_before_names_the_previous_response(first: Node) -> None:
    other = node(None, [user("question"), user("else")], [answer("answer")])
    miss = diagnosis(first, other, [user("next")])
    assert (miss["reason"], miss["changed"]) == ("input_changed", "previous_response_id")


def test_siblings_share_what_the_model_server_counted_for_their_parent(first: Node) -> None:
    sibling = node(first, [user("left")], [answer("l")])
    miss = diagnosis(sibling, first, [user("right")])
    assert (miss["changed"], miss["comparison_reusable_tokens"]) == ("input[0]", 500)


def test_an_answer_that_was_not_replayed_is_no_difference(first: Node) -> None:
    assert hits(first, None, [user("question"), user("more"), user("something else")])
    assert hits(first, None, [user("question"), user("more")])


def test_an_answer_told_otherwise_is_a_difference(first: Node) -> None:
    miss = diagnosis(first, None, [user("question"), user("more"), answer("forged")])
    assert miss["changed"] == "input[2]"


def test_reasoning_that_a_client_leaves_out_of_an_answer_is_a_difference() -> None:
    thought = Item(
        reasoning=Reasoning(content=[ContentPart(reasoning_text=items_pb2.Text(text="t"))])
    )
    call = Item(function_call=FunctionCall(call_id="c", name="f", arguments="{}"))
    compared = node(None, [user("a")], [thought, call])
    assert hits(compared, None, [user("a"), thought, call, user("b")])
    assert diagnosis(compared, None, [user("a"), call, user("b")])["changed"] == "input[1]"


def test_a_prompt_that_ends_early_hits(first: Node) -> None:
    assert hits(first, None, [user("question")])


def test_items_that_were_sealed_are_opened_before_they_are_called_different() -> None:
    text = [ContentPart(reasoning_text=items_pb2.Text(text="t"))]
    opened = Item(reasoning=Reasoning(content=text))
    sealed = Item(reasoning=Reasoning(id="rs_1", encrypted_content="sealed"))

    def legible(items: Sequence[Item]) -> Sequence[Item]:
        return [opened if item.reasoning.encrypted_content == "sealed" else item for item in items]

    compared = node(None, [user("a")], [opened])
    prompt = [user("a"), sealed, user("b")]
    assert diagnosis(compared, None, prompt, legible=legible) == {"type": "cache_hit"}
    assert diagnosis(compared, None, prompt)["changed"] == "input[1]"


def test_no_more_is_opened_than_is_little_work() -> None:
    seal = Seal.ephemeral()
    texts = [seal.seal("t", "reasoning", bytes(1_000_000)) for _ in range(2)]
    told, new = (Item(reasoning=Reasoning(encrypted_content=text)) for text in texts)
    opened = list[int]()

    def legible(items: Sequence[Item]) -> Sequence[Item]:
        opened.append(len(items))
        return [user("the same")]

    compared = node(None, [told] * 9, [])
    assert diagnosis(compared, None, [new] * 2, legible=legible) == {"type": "cache_hit"}
    opened.clear()
    assert diagnosis(compared, None, [new] * 9, legible=legible) == {"type": "unavailable"}
    assert len(opened) == 4


# Compaction


def test_a_compaction_in_the_request_is_why_nothing_can_be_used_again(first: Node) -> None:
    miss = diagnosis(first, first, [compaction("s"), user("next")])
    assert (miss["reason"], miss["changed"]) == ("context_compacted", "input[0]")
    assert miss["comparison_reusable_tokens"] == 0


def test_a_compaction_in_what_came_before_is_told_too(first: Node) -> None:
    compacted = node(first, [user("next")], [compaction("s"), answer("n")])
    miss = diagnosis(first, compacted, [user("third")])
    assert (miss["reason"], miss["changed"]) == ("context_compacted", "previous_response_id")


def test_what_a_compaction_supersedes_is_not_compared(first: Node) -> None:
    compacted = node(first, [user("next")], [compaction("s"), answer("n")])
    assert hits(compacted, None, [user("whatever"), compaction("s"), answer("n"), user("third")])
    assert hits(compacted, None, [compaction("s"), user("third")])


def test_the_same_compaction_is_no_difference_and_what_follows_may_be(first: Node) -> None:
    compacted = node(first, [compaction("s"), user("a")], [answer("n")])
    miss = diagnosis(compacted, None, [compaction("s"), user("b")])
    assert (miss["reason"], miss["changed"]) == ("input_changed", "input[1]")


# Bounds


def test_long_conversations_without_a_common_segment_are_not_compared() -> None:
    long = user("x" * 5_000_000)
    compared = node(None, [long], [answer("b")])
    assert diagnosis(compared, None, [long]) == {"type": "unavailable"}
    assert hits(compared, compared, [user("next")])


def test_many_items_without_a_common_segment_are_not_compared() -> None:
    many = [user("x")] * 9000
    compared = node(None, many, [answer("b")])
    assert diagnosis(compared, None, many) == {"type": "unavailable"}
    assert diagnosis(compared, None, [user("y"), *many])["changed"] == "input[0]"


# Properties: a conversation is a list of turns, each of some things said and some answered.

_TEXTS = st.text(alphabet="ab", max_size=3)
_TURNS = st.lists(
    st.tuples(
        st.lists(_TEXTS.map(user), min_size=1, max_size=3),
        st.lists(_TEXTS.map(answer), max_size=2),
    ),
    min_size=1,
    max_size=4,
)
Turns = list[tuple[list[Item], list[Item]]]


def tip(turns: Turns) -> Node:
    """The last response of a conversation."""
    last: Node | None = None
    for said, answered in turns:
        last = node(last, said, answered)
    assert last is not None
    return last


def replay(turns: Turns) -> list[Item]:
    return [item for said, answered in turns for item in (*said, *answered)]


@given(_TURNS, st.lists(_TEXTS.map(user), max_size=2))
def test_whatever_follows_a_replayed_conversation_hits(turns: Turns, new: list[Item]) -> None:
    assert hits(tip(turns), None, [*replay(turns), *new])


@given(_TURNS, _TURNS, st.lists(_TEXTS.map(user), max_size=2))
def test_how_a_prompt_was_cut_into_turns_makes_no_difference(
    before: Turns, now: Turns, new: list[Item]
) -> None:
    compared = tip(before)
    replayed = diagnosis(compared, None, [*replay(now), *new])
    continued = diagnosis(compared, tip(now), new)
    assert continued["type"] == replayed["type"]
    assert continued.get("reason") == replayed.get("reason")


@given(_TURNS, _TURNS, _TURNS)
def test_segments_in_common_are_what_they_hold(shared: Turns, before: Turns, now: Turns) -> None:
    trunk = tip(shared)
    left, right = trunk, trunk
    for said, answered in before:
        left = node(left, said, answered)
    for said, answered in now:
        right = node(right, said, answered)
    apart = diagnosis(tip([*shared, *before]), right, [user("n")])
    assert diagnosis(left, right, [user("n")])["type"] == apart["type"]


@given(_TURNS, st.data())
def test_a_changed_prompt_item_is_always_found(turns: Turns, data: st.DataObject) -> None:
    prompt = replay(turns)[: len(replay(turns)) - len(turns[-1][1])]
    at = data.draw(st.integers(0, len(prompt) - 1))
    changed = [*prompt[:at], user("something else"), *prompt[at + 1 :]]
    miss = diagnosis(tip(turns), None, changed)
    assert miss["changed"] == f"input[{at}]"
    assert miss["comparison_reusable_tokens"] == sum(i.ByteSize() for i in prompt[:at]) // 4


# Fingerprints


def tool(name: str) -> items_pb2.Tool:
    return items_pb2.Tool(function=items_pb2.FunctionTool(name=name))


def test_defaults_and_what_is_left_open_have_one_fingerprint() -> None:
    explicit = Settings(
        model="m",
        service_tier="auto",
        text=responses_pb2.TextSettings(
            format=responses_pb2.TextFormat(text=responses_pb2.PlainTextFormat()),
            verbosity="medium",
        ),
    )
    assert fingerprint(explicit, []) == fingerprint(Settings(model="m"), [])


@pytest.mark.parametrize(
    ("part", "settings"),
    [
        ("model", Settings(model="n")),
        ("prompt_cache_key", Settings(prompt_cache_key="k")),
        ("instructions", Settings(instructions="i")),
        ("instructions", Settings(instruction_items=[user("i")])),
        ("verbosity", Settings(text=responses_pb2.TextSettings(verbosity="low"))),
        ("reasoning_effort", Settings(reasoning=responses_pb2.ReasoningSettings(effort="low"))),
        ("service_tier", Settings(service_tier="flex")),
        (
            "text_format",
            Settings(
                text=responses_pb2.TextSettings(
                    format=responses_pb2.TextFormat(json_object=responses_pb2.JsonObjectFormat())
                )
            ),
        ),
    ],
)
def test_each_setting_has_its_part_of_the_fingerprint(part: str, settings: Settings) -> None:
    nothing, something = fingerprint(Settings(), []), fingerprint(settings, [])
    assert {
        name for name in PRINT._fields if getattr(nothing, name) != getattr(something, name)
    } == {part}


def test_the_order_of_tools_matters() -> None:
    forwards = fingerprint(Settings(), [tool("a"), tool("b")])
    assert forwards.tools != fingerprint(Settings(), [tool("b"), tool("a")]).tools
    assert forwards == fingerprint(Settings(), [tool("a"), tool("b")])


def test_fingerprints_are_the_same_in_another_process() -> None:
    script = (
        "from service.requests.diagnostics import fingerprint\n"
        "from turnwire.v1 import items_pb2 as i, responses_pb2 as r\n"
        "tools = [i.Tool(function=i.FunctionTool(name='a'))]\n"
        "print(list(fingerprint(r.Settings(model='m', instructions='i'), tools)))"
    )
    other = subprocess.run(
        [sys.executable, "-c", script],
        env={"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": "7"},
        capture_output=True,
        check=True,
        timeout=60,
    )
    here = fingerprint(Settings(model="m", instructions="i"), [tool("a")])
    assert json.loads(other.stdout) == list(here)


# Meaning


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Item(other_json='{"type":"t","id":"1","a":1}'), Item(other_json='{"a":1,"type":"t"}')),
        (
            Item(function_call_output=items_pb2.FunctionCallOutput(call_id="c", output_text="o")),
            Item(
                function_call_output=items_pb2.FunctionCallOutput(
                    call_id="c", output=[ContentPart(input_text=items_pb2.Text(text="o"))]
                )
            ),
        ),
        (
            Item(function_call=FunctionCall(id="1", call_id="c", name="f", status="completed")),
            Item(function_call=FunctionCall(call_id="c", name="f")),
        ),
    ],
)
def test_items_that_tell_a_model_the_same_are_the_same(one: Item, other: Item) -> None:
    assert same(one, other, as_it_is)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (user("a"), answer("a")),
        (user("a"), Item(message=Message(role="system", content_text="a"))),
        (Item(other_json='{"a":1}'), Item(other_json='{"a":2}')),
        (Item(other_json="[" * 9), Item(other_json="[" * 8)),
        (
            Item(item_reference=items_pb2.ItemReference(id="a")),
            Item(item_reference=items_pb2.ItemReference(id="b")),
        ),
    ],
)
def test_items_that_tell_a_model_something_else_are_not_the_same(one: Item, other: Item) -> None:
    assert not same(one, other, as_it_is)
