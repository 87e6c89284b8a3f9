from collections.abc import Iterable, Sequence
from typing import Any

import pytest

from service.backends import Prompt
from service.backends.messages import messages_of
from service.backends.tools import Toolbox
from service.conversation import Renderings, Segment
from service.rendering import Cycle, Message, Opening, Piece, Uncut
from service.rendering.encodings import Decimal
from service.rendering.proof import Outcome, Proof
from service.rendering.renderer import RenderedPrompt, Renderer
from turnwire.v1 import items_pb2, responses_pb2

START, END, KEPT = 1, 2, 3


class Letters:
    """A vocabulary of characters, which counts what it is asked."""

    identity = "letters"

    def __init__(self) -> None:
        self.characters = 0

    async def encode(self, fragments: Iterable[Sequence[Piece]]) -> list[list[int]]:
        return [
            [token for piece in fragment for token in self._ids(piece)] for fragment in fragments
        ]

    def _ids(self, piece: Piece) -> list[int]:
        if isinstance(piece, int):
            return [piece]
        self.characters += len(piece)
        return [100 + ord(character) for character in piece]


class Plain:
    """A template that tells thoughts until the user speaks again."""

    identity = "plain"
    additive = True
    ends = frozenset({END, KEPT})
    kept_ends = frozenset({KEPT})
    answer_closes: Sequence[Piece] = (END, "\n")

    def answer_opens(self, opening: Opening) -> Sequence[Piece]:
        del opening
        return [START, "assistant\n"]

    def preamble(self, opening: Opening) -> Sequence[Piece]:
        tools = "".join(tool["function"]["name"] for tool in opening.tools)
        return [tools, *self._told(opening.messages, 0)]

    def turn(self, messages: Sequence[Message], cycle: Cycle) -> Sequence[Piece]:
        asked = [n for n, message in enumerate(messages) if message["role"] == "user"]
        last = len(messages) if cycle is Cycle.CLOSED else max(asked, default=0)
        return self._told(messages, last)

    def whole(self, opening: Opening, messages: Sequence[Message]) -> Sequence[Piece]:
        told = self.turn(messages, Cycle.OPEN)
        return [*self.preamble(opening), *told, *self.answer_opens(opening)]

    def _told(self, messages: Sequence[Message], forgotten: int) -> list[Piece]:
        return [
            piece
            for n, message in enumerate(messages)
            for piece in self._message(message, forgotten <= n)
        ]

    def _message(self, message: Message, remembers: bool) -> list[Piece]:
        thought = message.get("reasoning_content", "") if remembers else ""
        calls = str(message.get("tool_calls", ""))
        said = f"{message.get('name', '')}{thought}{message['content']}{calls}"
        return [START, f"{message['role']}\n", *([said] if said else []), END, "\n"]


class Joining(Plain):
    """A template that joins what the same speaker says, also across turns."""

    def whole(self, opening: Opening, messages: Sequence[Message]) -> Sequence[Piece]:
        told: list[dict[str, Any]] = []
        for message in messages:
            if told and told[-1]["role"] == message["role"] == "user":
                told[-1]["content"] += message["content"]
            else:
                told.append(dict(message))
        return super().whole(opening, told)


class Bench:
    """A conversation that is carried on with one renderer."""

    def __init__(self, template: Plain | None = None, every: int = 0) -> None:
        self.letters = Letters()
        self.outcomes: list[Outcome] = []
        proof = Proof(every, self.outcomes.append)
        self.renderer = Renderer(template or Plain(), self.letters, Decimal(), proof)
        self.template = template or Plain()
        self.history: list[Segment] = []

    async def ask(self, *items: items_pb2.Item, **settings: Any) -> RenderedPrompt:
        return await self.renderer.render(prompt(items, self.history, **settings), 100_000)

    async def turn(
        self, asked: Sequence[items_pb2.Item], *answer: items_pb2.Item
    ) -> RenderedPrompt:
        """Have a turn in which the model samples just what its answer is rendered as."""
        rendered = await self.ask(*asked)
        (ids,) = await self.letters.encode([self.sampled(answer)])
        thought = any(item.HasField("reasoning") for item in answer)
        kept = self.renderer.answered(rendered, ids, thought=thought)
        self.history.append(Segment(None, [*asked, *answer], kept))
        return rendered

    def sampled(self, answer: Sequence[items_pb2.Item]) -> Sequence[Piece]:
        told = self.template.turn(messages_of(answer, Toolbox([])), Cycle.OPEN)
        return told[2:-1]

    def ids(self, rendered: RenderedPrompt) -> list[int]:
        return [t for part in rendered.told for t in Decimal().decode(part.data)]

    async def anew(self, *items: items_pb2.Item) -> list[int]:
        """Render the conversation from its items alone."""
        history = [Segment(None, segment.items) for segment in self.history]
        other = Renderer(self.template, Letters(), Decimal(), Proof(0, self.outcomes.append))
        return self.ids(await other.render(prompt(items, history)))


def prompt(items: Sequence[items_pb2.Item], history: Sequence[Segment], **settings: Any) -> Prompt:
    return Prompt(
        history=history,
        input=items,
        legible=list,
        model="model",
        settings=responses_pb2.Settings(**settings),
        tools=(),
        logprobs=False,
        extra_json="",
        conversation="conversation",
        tenant="tenant",
    )


def user(text: str) -> items_pb2.Item:
    return items_pb2.Item(message=items_pb2.Message(role="user", content_text=text))


def said(text: str) -> items_pb2.Item:
    part = items_pb2.ContentPart(output_text=items_pb2.OutputText(text=text))
    return items_pb2.Item(message=items_pb2.Message(role="assistant", content=[part]))


def thought(text: str) -> items_pb2.Item:
    part = items_pb2.ContentPart(reasoning_text=items_pb2.Text(text=text))
    return items_pb2.Item(reasoning=items_pb2.Reasoning(id="rs", content=[part]))


def call(name: str) -> items_pb2.Item:
    called = items_pb2.FunctionCall(call_id=f"call_{name}", name=name, arguments="{}")
    return items_pb2.Item(function_call=called)


def output(name: str, text: str) -> items_pb2.Item:
    output = items_pb2.FunctionCallOutput(call_id=f"call_{name}", output_text=text)
    return items_pb2.Item(function_call_output=output)


async def test_a_turn_that_continues_tokenises_only_what_is_new() -> None:
    bench = Bench()
    for number in range(20):
        await bench.turn([user("x" * 1000)], said(f"answer {number}"))
    before = bench.letters.characters
    await bench.ask(user("next"))
    assert bench.letters.characters - before == len("user\nnext\n")


async def test_a_conversation_is_the_same_turn_by_turn_and_at_once() -> None:
    bench = Bench()
    await bench.turn([user("one")], thought("hm"), call("look"))
    await bench.turn([output("look", "sunny")], thought("so"), said("It is sunny."))
    await bench.turn([user("two")], said("Well."))
    assert bench.ids(await bench.ask(user("three"))) == await bench.anew(user("three"))


async def test_thoughts_are_told_until_the_user_speaks_again() -> None:
    bench = Bench()
    await bench.turn([user("one")], thought("hmhm"), call("look"))
    thinking = bench.ids(await bench.ask(output("look", "sunny")))
    assert contains(thinking, "hmhm")
    asked = bench.ids(await bench.ask(user("never mind")))
    assert not contains(asked, "hmhm")
    again = bench.ids(await bench.ask(output("look", "sunny")))
    assert again == thinking


async def test_a_fork_from_before_the_user_spoke_still_remembers() -> None:
    bench = Bench()
    await bench.turn([user("one")], thought("hmhm"), call("look"))
    bench.history[0] = Segment(None, bench.history[0].items)
    assert not contains(bench.ids(await bench.ask(user("other"))), "hmhm")
    assert contains(bench.ids(await bench.ask(output("look", "sunny"))), "hmhm")


async def test_an_answer_stays_as_it_was_sampled() -> None:
    bench = Bench()
    rendered = await bench.ask(user("one"))
    odd = [7, 7, 8]
    bench.history.append(
        Segment(
            None, [user("one"), said("?")], bench.renderer.answered(rendered, odd, thought=False)
        )
    )
    ids = bench.ids(await bench.ask(user("two")))
    assert "7,7,8,2,110" in ",".join(map(str, ids))


async def test_an_answer_ends_as_the_template_has_it_however_it_ended() -> None:
    bench = Bench()
    rendered = await bench.ask(user("one"))
    ended, cut = (bench.renderer.answered(rendered, ids, thought=False) for ids in ([9, END], [9]))
    assert ended == cut
    called = bench.renderer.answered(rendered, [9, KEPT], thought=False)
    assert kept_of(called).endswith(b"9,3,110")
    assert kept_of(ended).endswith(b"9,2,110")


async def test_an_output_has_the_name_of_the_tool_that_an_earlier_turn_called() -> None:
    bench = Bench()
    await bench.turn([user("one")], call("look"))
    assert contains(bench.ids(await bench.ask(output("look", "sunny"))), "tool\nlooksunny")


async def test_instructions_may_change_without_anything_else_being_rendered() -> None:
    bench = Bench()
    await bench.turn([user("x" * 500)], said("yes"))
    await bench.ask(user("next"), instructions="Be brief.")
    before = bench.letters.characters
    await bench.ask(user("next"), instructions="Be kind.")
    assert bench.letters.characters - before < 100


@pytest.mark.parametrize("spoilt", ["nothing", "turn", "answer"])
async def test_a_proof_finds_and_mends_what_was_kept_wrong(spoilt: str) -> None:
    bench = Bench(every=3)
    await bench.turn([user("one")], said("first"))
    await bench.turn([user("two")], said("second"))
    right = await bench.anew(user("three"))
    spoil(bench, spoilt)
    proven = bench.ids(await bench.ask(user("three")))
    outcome = {"nothing": "identical", "turn": "stale", "answer": "respelled"}[spoilt]
    assert bench.outcomes == [outcome]
    assert (proven == right) == (spoilt != "answer")
    if spoilt == "turn":
        assert bench.ids(await bench.ask(user("three"))) == right


async def test_a_conversation_that_does_not_add_up_is_told_at_once_from_then_on() -> None:
    bench = Bench(Joining(), every=1)
    await bench.turn([user("one")], said("first"))
    bench.history.append(Segment(None, [user("two")]))
    rendered = await bench.ask(user("three"))
    whole = bench.ids(rendered)
    assert contains(whole, "twothree")
    assert bench.outcomes[-1] == "not_additive"
    kept = bench.renderer.answered(rendered, [9], thought=False)
    bench.history.append(Segment(None, [user("three"), said("?")], kept))
    assert contains(bench.ids(await bench.ask(user("four"))), "twothree")
    assert len(bench.outcomes) == 2


async def test_a_turn_that_cannot_be_told_by_itself_is_told_with_the_others() -> None:
    class Shy(Plain):
        def turn(self, messages: Sequence[Message], cycle: Cycle) -> Sequence[Piece]:
            if messages[-1]["content"] == "hush":
                raise Uncut
            return super().turn(messages, cycle)

        def whole(self, opening: Opening, messages: Sequence[Message]) -> Sequence[Piece]:
            told = super().turn(messages, Cycle.OPEN)
            return [*self.preamble(opening), *told, *self.answer_opens(opening)]

    bench = Bench(Shy())
    await bench.turn([user("one")], said("first"))
    rendered = await bench.ask(user("hush"))
    assert contains(bench.ids(rendered), "first")
    assert contains(bench.ids(rendered), "hush")
    kept = bench.renderer.answered(rendered, [9], thought=False)
    bench.history.append(Segment(None, [user("hush"), said("?")], kept))
    before = bench.letters.characters
    await bench.ask(user("more"))
    assert bench.letters.characters - before > len("user\nmore\n")


async def test_a_template_that_does_not_add_up_is_always_told_at_once() -> None:
    class Odd(Joining):
        additive = False

    bench = Bench(Odd(), every=1)
    bench.history = [Segment(None, [user("one")])]
    rendered = await bench.ask(user("two"))
    assert contains(bench.ids(rendered), "onetwo")
    assert bench.renderer.answered(rendered, [9], thought=False) == {}
    assert bench.outcomes == []


@pytest.mark.parametrize("template", [Plain(), Joining()])
async def test_a_conversation_that_is_too_long_loses_its_oldest(template: Plain) -> None:
    template.additive = type(template) is Plain
    bench = Bench(template)
    bench.history = [Segment(None, [user(f"{n} " + "x" * 100), said("ok")]) for n in range(20)]
    asked = prompt([user("last")], bench.history, truncation="auto")
    rendered = await bench.renderer.render(asked, 1000)
    assert rendered.tokens <= 1000
    assert contains(bench.ids(rendered), "last")
    assert not contains(bench.ids(rendered), "user\n0 ")
    assert contains(bench.ids(rendered), "user\n19 ")


def spoil(bench: Bench, what: str) -> None:
    (key, kept), *_ = bench.history[1].rendered.items()
    wrong = {
        "nothing": kept.data,
        "turn": kept.data.replace(str(100 + ord("w")).encode(), b"5", 1),
        "answer": kept.data.replace(str(100 + ord("c")).encode(), b"5", 1),
    }[what]
    bench.history[1].rendered[key] = kept._replace(data=wrong)


def contains(ids: Sequence[int], text: str) -> bool:
    return text in "".join(chr(token - 100) if token >= 100 else "|" for token in ids).replace(
        "|", ""
    )


def kept_of(renderings: Renderings) -> bytes:
    (kept,) = renderings.values()
    return kept.data
