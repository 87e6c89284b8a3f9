from service.backends.messages import messages_of
from service.backends.tools import Toolbox
from service.bench.conversation import CYCLE, Conversation, places, speaks


def test_the_conversation_is_the_same_every_time() -> None:
    assert Conversation(30, 40_000).turns == Conversation(30, 40_000).turns


def test_it_is_about_as_long_as_it_should_be() -> None:
    texts = Conversation(100, 200_000).texts()
    assert 0.7 < sum(map(len, texts)) / 200_000 < 1.2


def test_every_output_answers_the_call_before_it() -> None:
    conversation = Conversation(2 * CYCLE + 5, 50_000)
    items = [item for turn in conversation.turns for item in (*turn.asked, *turn.answer)]
    messages = messages_of(items, Toolbox([]))
    called = [c["id"] for message in messages for c in message.get("tool_calls", ())]
    assert [m["tool_call_id"] for m in messages if m["role"] == "tool"] == called[:-1]


def test_the_user_speaks_once_in_a_cycle() -> None:
    turns = Conversation(3 * CYCLE, 50_000).turns
    asking = [n for n, turn in enumerate(turns, 1) if turn.asked[0].HasField("message")]
    assert asking == [1, CYCLE + 1, 2 * CYCLE + 1]
    assert asking[1:] == [n for n in range(1, 3 * CYCLE + 1) if speaks(n)]


def test_what_is_measured_says_the_same_in_all_places() -> None:
    conversation = Conversation(50, 50_000)
    early, late = conversation.place(3), conversation.place(50)
    assert early.answer == late.answer
    texts = {t.asked[0].function_call_output.output_text for t in (early, late)}
    assert len(texts) == 1
    assert early.asked[0].function_call_output.call_id == conversation.turns[1].calls


def test_a_conversation_is_looked_at_from_end_to_end_where_tools_answer() -> None:
    assert places(200) == [1, 25, 50, 100, 150, 200]
    assert places(11) == [1, 2, 5, 8, 10]
    assert places(2) == [1, 2]
