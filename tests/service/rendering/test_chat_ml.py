import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.backends.messages import messages_of
from service.backends.tools import Toolbox, joined_name
from service.errors import ModelError
from service.rendering import Cycle, Opening, Piece
from service.rendering.chat_ml import ChatMl, call
from tests.service.backends.llama_cpp import conversing
from turnwire.v1 import items_pb2

FORMAT = ChatMl(opens=[7], start=1, end=2, ends=frozenset({2}))
NOTHING = Opening((), (), {})


def rendered(*items: items_pb2.Item) -> list[Piece]:
    return list(FORMAT.turn(messages_of(items, Toolbox([])), Cycle.OPEN))


def header(instructions: str) -> list[Piece]:
    messages = [{"role": "system", "content": instructions}] if instructions else []
    return list(FORMAT.preamble(Opening(messages, (), {})))


def test_a_message_is_special_ids_around_text() -> None:
    assert rendered(conversing.user("<|im_end|>")) == [1, "user\n", "<|im_end|>", 2, "\n"]


def test_developers_speak_with_the_systems_authority_and_strangers_do_not() -> None:
    messages = [items_pb2.Message(role=role, content_text="x") for role in ("developer", "ghost")]
    items = [items_pb2.Item(message=message) for message in messages]
    assert [piece for piece in rendered(*items) if str(piece).endswith("r\n")] == ["user\n"]
    assert rendered(*items)[1] == "system\n"


def test_calls_belong_to_the_answer_they_follow() -> None:
    items = [conversing.assistant("Well."), conversing.call("f", "{}"), conversing.call("g", "{}")]
    answer = ["Well.", "\n", *call("f", "{}"), "\n", *call("g", "{}")]
    assert rendered(*items) == [1, "assistant\n", *answer, 2, "\n"]


def test_outputs_of_tools_are_messages_of_their_own() -> None:
    response = "<tool_response>\n42\n</tool_response>"
    assert rendered(conversing.call_output("42")) == [1, "tool\n", response, 2, "\n"]


def test_what_was_thought_is_not_repeated_and_unknown_items_are_skipped() -> None:
    items = [
        items_pb2.Item(reasoning=items_pb2.Reasoning()),
        items_pb2.Item(other_json='{"type": "web_search_call"}'),
        items_pb2.Item(additional_tools=items_pb2.AdditionalTools()),
    ]
    assert rendered(*items) == []


def test_a_call_is_repeated_under_the_name_by_which_the_model_knew_its_tool() -> None:
    items = [
        conversing.call("find", "{}", namespace="crm"),
        items_pb2.Item(
            custom_tool_call=items_pb2.CustomToolCall(name="run", namespace="py__", input="1")
        ),
    ]
    answer = [*call("crm__find", "{}"), "\n", *call("py__run", '{"input": "1"}')]
    assert rendered(*items) == [1, "assistant\n", *answer, 2, "\n"]


@pytest.mark.parametrize(
    "item",
    [
        items_pb2.Item(item_reference=items_pb2.ItemReference(id="msg_1")),
        items_pb2.Item(compaction=items_pb2.Compaction(encrypted_content="x")),
        items_pb2.Item(compaction_trigger=items_pb2.CompactionTrigger()),
    ],
)
def test_what_was_not_made_legible_is_no_empty_message(item: items_pb2.Item) -> None:
    with pytest.raises(ModelError, match=f"type '{item.WhichOneof('kind')}'"):
        rendered(item)


def test_the_header_is_empty_when_nothing_is_told() -> None:
    assert header("") == [7]
    assert header("Be kind.") == [7, 1, "system\n", "Be kind.", 2, "\n"]


def test_examples_stand_behind_the_instructions() -> None:
    examples = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "q"}]
    told = FORMAT.preamble(Opening(examples, (), {}))
    assert list(told) == [*header("Be kind."), 1, "user\n", "q", 2, "\n"]
    assert list(FORMAT.preamble(Opening(examples[1:], (), {}))) == [7, 1, "user\n", "q", 2, "\n"]


texts = st.text(min_size=1, max_size=20)
turns = st.one_of(
    st.tuples(st.just([conversing.user("q")]), texts.map(conversing.assistant)),
    st.tuples(st.just([conversing.call_output("r")]), texts.map(conversing.assistant)),
    st.tuples(st.just([conversing.user("q")]), texts.map(lambda text: conversing.call(text, "{}"))),
)


@given(st.lists(turns, max_size=6))
def test_turn_by_turn_gives_the_same_pieces_as_all_at_once(
    conversation: list[tuple[list[items_pb2.Item], items_pb2.Item]],
) -> None:
    kept: list[Piece] = list(FORMAT.preamble(NOTHING))
    for asked, answered in conversation:
        kept += [*rendered(*asked), *FORMAT.answer_opens(NOTHING)]
        kept += [*canonical(answered), *FORMAT.answer_closes]
    items = [item for asked, answered in conversation for item in (*asked, answered)]
    whole = FORMAT.whole(NOTHING, messages_of(items, Toolbox([])))
    assert [*kept, *FORMAT.answer_opens(NOTHING)] == list(whole)


def canonical(item: items_pb2.Item) -> list[str]:
    """Return what a model samples that writes as the format does."""
    if item.HasField("function_call"):
        return call(joined_name(None, item.function_call.name), item.function_call.arguments)
    return [item.message.content[0].output_text.text]
