"""Screening: what is classified, how often, by whom, and what clients are told of it."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from openai.types.responses.response import Moderation
from prometheus_client import CollectorRegistry

from service.backends.http import Deadlines, HttpClient
from service.errors import Refusal
from service.metrics import Metrics
from service.moderation import (
    Classifier,
    Failure,
    Moderator,
    Screened,
    Screening,
    Verdict,
    VerdictCache,
    moderation_json,
)
from service.moderation.remote import RemoteClassifier
from service.moderation.rules import RulesClassifier
from service.moderation.texts import text_of
from turnwire.v1 import items_pb2
from turnwire.v1.items_pb2 import ContentPart, Item, Message, Text
from turnwire.v1.responses_pb2 import ModerationMode, ModerationPolicy, ModerationSettings

DOWN = Failure("classifier_unavailable", "Down.")
UNBOUNDED = 1 << 30


class Words:
    """Flags texts with the word in its name, and remembers what it was asked."""

    def __init__(self, name: str = "bomb", version: str = "1") -> None:
        self.name, self.version = name, version
        self.asked: list[str] = []

    async def classify(self, texts: Sequence[str]) -> Sequence[Verdict] | Failure:
        self.asked += texts
        return [self.verdict(text) for text in texts]

    def verdict(self, text: str) -> Verdict:
        found = self.name in text
        flagged = frozenset({"words"} if found else ())
        return Verdict(
            self.name, {"words": float(found), "length": len(text) / 100}, flagged, found
        )

    def close(self) -> None:
        """Nothing is open."""


class Gated(Words):
    """Answers when the gate is opened; tells when it began and whether it was given up."""

    def __init__(self) -> None:
        super().__init__()
        self.began, self.gate, self.given_up = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def classify(self, texts: Sequence[str]) -> Sequence[Verdict] | Failure:
        self.began.set()
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.given_up.set()
            raise
        return await super().classify(texts)


class Down(Words):
    async def classify(self, texts: Sequence[str]) -> Sequence[Verdict] | Failure:
        self.asked += texts
        return DOWN


class Broken(Words):
    """A classifier with a defect: it loses a verdict."""

    async def classify(self, texts: Sequence[str]) -> Sequence[Verdict] | Failure:
        return [self.verdict(text) for text in texts[1:]]


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(CollectorRegistry())


@pytest.fixture
def cache(metrics: Metrics) -> VerdictCache:
    return VerdictCache(UNBOUNDED, metrics)


def screening(cache: VerdictCache, classifier: Classifier, tenant: str = "t") -> Screening:
    settings = ModerationSettings(model=classifier.name)
    found = Moderator([classifier], cache).understand(settings, tenant)
    assert found is not None
    return found


async def said(screening: Screening, items: Iterable[Item]) -> Screened:
    return (await screening.judge("input", items)).said


def user(text: str) -> Item:
    return Item(message=Message(role="user", content_text=text))


def counted(metrics: Metrics, name: str, **labels: str) -> float:
    return metrics.registry.get_sample_value(f"turnwire_{name}", labels) or 0.0


def verdict_of(screened: Screened) -> Verdict:
    assert isinstance(screened, Verdict)
    return screened


# What a client asks for


def policy(*, input_mode: str | None = None, output_mode: str | None = None) -> ModerationPolicy:
    return ModerationPolicy(
        input=ModerationMode(mode=input_mode) if input_mode else None,
        output=ModerationMode(mode=output_mode) if output_mode else None,
    )


def test_a_request_that_does_not_ask_is_not_screened(cache: VerdictCache) -> None:
    assert Moderator([], cache).understand(None, "t") is None


@pytest.mark.parametrize(
    ("given", "blocks"),
    [
        (None, (False, False)),
        (policy(), (False, False)),
        (policy(input_mode="score", output_mode="block"), (False, True)),
        (policy(input_mode="block"), (True, False)),
    ],
)
def test_verdicts_are_only_told_unless_a_client_asks_to_block(
    cache: VerdictCache, given: ModerationPolicy | None, blocks: tuple[bool, bool]
) -> None:
    settings = ModerationSettings(model="bomb", policy=given)
    found = Moderator([Words()], cache).understand(settings, "t")
    assert found is not None
    assert (found.blocks_input, found.blocks_output) == blocks


def test_a_mode_that_is_none_is_refused_by_name(cache: VerdictCache) -> None:
    settings = ModerationSettings(model="bomb", policy=policy(output_mode="stop"))
    with pytest.raises(Refusal, match="'score', 'block'") as refused:
        Moderator([Words()], cache).understand(settings, "t")
    assert (refused.value.code, refused.value.param) == (
        "invalid_value",
        "moderation.policy.output.mode",
    )


@pytest.mark.rule("MO-1")
def test_an_unknown_classifier_is_refused_with_those_there_are(cache: VerdictCache) -> None:
    with pytest.raises(Refusal, match="'bomb', 'knife'") as refused:
        Moderator([Words(), Words("knife")], cache).understand(ModerationSettings(model="x"), "t")
    assert (refused.value.code, refused.value.param) == ("invalid_value", "moderation.model")


@pytest.mark.rule("MO-1")
def test_a_server_without_classifiers_says_so(cache: VerdictCache) -> None:
    with pytest.raises(Refusal, match="no classifier") as refused:
        Moderator([], cache).understand(ModerationSettings(model="x"), "t")
    assert (refused.value.code, refused.value.param) == ("unsupported_parameter", "moderation")


# Verdicts


async def test_the_gravest_of_all_items_is_told(cache: VerdictCache) -> None:
    screened = await said(screening(cache, Words()), [user("long words"), user("a bomb")])
    assert screened == Verdict("bomb", {"words": 1.0, "length": 0.1}, frozenset({"words"}), True)
    assert not screened.passes


async def test_of_nothing_to_read_nothing_is_said(cache: VerdictCache) -> None:
    image = ContentPart(input_image=items_pb2.InputImage(image_url="data:bomb"))
    classifier = Words()
    items = [Item(message=Message(role="user", content=[image]))]
    screened = await said(screening(cache, classifier), items)
    assert screened == Verdict("bomb", {}, frozenset(), flagged=False)
    assert screened.passes
    assert not classifier.asked


@pytest.mark.rule("MO-2")
def test_verdicts_have_the_form_that_released_clients_read() -> None:
    verdict = Verdict("m", {"a": 0.5, "b": 0.0}, frozenset({"a"}), flagged=True)
    told = json.loads(moderation_json(verdict, DOWN))
    assert Moderation.model_validate(told).model_dump() == told
    assert told["input"] == {
        "type": "moderation_result",
        "model": "m",
        "flagged": True,
        "categories": {"a": True, "b": False},
        "category_scores": {"a": 0.5, "b": 0.0},
        "category_applied_input_types": {"a": ["text"], "b": ["text"]},
    }
    assert told["output"] == {
        "type": "error",
        "code": "classifier_unavailable",
        "message": "Down.",
    }


@pytest.mark.rule("MO-3")
async def test_where_nobody_could_look_nothing_passes(
    cache: VerdictCache, metrics: Metrics
) -> None:
    screened = await said(screening(cache, Down()), [user("a")])
    assert screened == DOWN
    assert not screened.passes
    assert counted(metrics, "classifier_failures_total") == 1


async def test_a_classifier_with_a_defect_is_a_failure_and_no_crash(cache: VerdictCache) -> None:
    screened = await said(screening(cache, Broken()), [user("a"), user("b")])
    assert screened == Failure("server_error", "The classifier failed.")


# Once only


async def test_what_was_screened_is_never_classified_again(
    cache: VerdictCache, metrics: Metrics
) -> None:
    classifier = Words()
    await said(screening(cache, classifier), [user("a"), user("b")])
    screened = await said(screening(cache, classifier), [user("b"), user("a bomb"), user("a")])
    assert classifier.asked == ["a", "b", "a bomb"]
    assert not screened.passes
    assert counted(metrics, "verdicts_total", result="miss") == 3
    assert counted(metrics, "verdicts_total", result="hit") == 2


async def test_ids_are_no_reason_to_classify_again(cache: VerdictCache) -> None:
    classifier = Words()
    one = Item(message=Message(id="msg_1", status="completed", role="user", content_text="a"))
    await said(screening(cache, classifier), [one])
    await said(screening(cache, classifier), [user("a")])
    assert classifier.asked == ["a"]


async def test_another_version_of_a_classifier_judges_anew(cache: VerdictCache) -> None:
    for version in ("1", "2"):
        classifier = Words(version=version)
        await said(screening(cache, classifier), [user("a")])
        assert classifier.asked == ["a"]


async def test_no_tenant_learns_from_the_time_it_takes_what_another_said(
    cache: VerdictCache,
) -> None:
    classifier = Words()
    await said(screening(cache, classifier, "one"), [user("a")])
    await said(screening(cache, classifier, "other"), [user("a")])
    assert classifier.asked == ["a", "a"]


async def test_failures_are_not_remembered(cache: VerdictCache) -> None:
    await said(screening(cache, Down()), [user("a")])
    assert (await said(screening(cache, Words()), [user("a")])).passes


async def test_verdicts_unused_for_longest_make_room(metrics: Metrics) -> None:
    cache = VerdictCache(2000, metrics)
    classifier = Words()
    for text in ("a", "b", "a", "c", "a", "b"):
        await said(screening(cache, classifier), [user(text)])
    assert classifier.asked == ["a", "b", "c", "b"]
    assert counted(metrics, "verdict_evictions_total") == 2
    assert 0 < counted(metrics, "verdict_cache_bytes") <= 2000 + 1024


async def test_tenants_unused_for_longest_make_room_for_any_number_of_others(
    metrics: Metrics,
) -> None:
    cache = VerdictCache(UNBOUNDED, metrics, total=10_000)
    classifier = Words()
    for tenant in ("first", *map(str, range(100)), "99", "first"):
        await said(screening(cache, classifier, tenant), [user("a")])
    assert len(classifier.asked) == 102
    assert 1024 < counted(metrics, "verdict_cache_bytes") <= 10_000


async def test_a_tenant_that_makes_room_while_it_is_screened_gets_its_verdict(
    metrics: Metrics,
) -> None:
    cache = VerdictCache(UNBOUNDED, metrics, total=3000)
    classifier = Gated()
    async with asyncio.timeout(5):
        waiting = begin(classifier, cache, "bomb")
        await classifier.began.wait()
        for tenant in ("other", "another"):
            await said(screening(cache, Words(), tenant), [user("a")])
        classifier.gate.set()
        assert verdict_of(await waiting) is not None
    assert counted(metrics, "verdict_cache_bytes") <= 3000


async def test_without_a_budget_everything_is_classified_again(metrics: Metrics) -> None:
    cache = VerdictCache(0, metrics)
    classifier = Words()
    for _ in range(2):
        assert not (await said(screening(cache, classifier), [user("bomb")])).passes
    assert classifier.asked == ["bomb", "bomb"]
    assert counted(metrics, "verdict_cache_bytes") == 1024


def begin(classifier: Gated, cache: VerdictCache, *texts: str) -> asyncio.Task[Screened]:
    return asyncio.create_task(said(screening(cache, classifier), map(user, texts)))


async def test_screenings_at_once_share_a_classification(cache: VerdictCache) -> None:
    classifier = Gated()
    one = begin(classifier, cache, "a", "bomb")
    other = begin(classifier, cache, "bomb", "c")
    async with asyncio.timeout(5):
        await classifier.began.wait()
        classifier.gate.set()
        verdicts = [verdict_of(await one), verdict_of(await other)]
    assert [verdict.flagged for verdict in verdicts] == [True, True]
    assert sorted(classifier.asked) == ["a", "bomb", "c"]


async def test_a_classification_outlives_one_of_those_who_wait(cache: VerdictCache) -> None:
    classifier = Gated()
    one, other = begin(classifier, cache, "a"), begin(classifier, cache, "a")
    async with asyncio.timeout(5):
        await classifier.began.wait()
        one.cancel()
        await asyncio.wait([one])
        classifier.gate.set()
        assert (await other).passes
    assert one.cancelled()
    assert classifier.asked == ["a"]


async def test_a_classification_nobody_waits_for_is_given_up(cache: VerdictCache) -> None:
    classifier = Gated()
    task = begin(classifier, cache, "a")
    async with asyncio.timeout(5):
        await classifier.began.wait()
        task.cancel()
        await asyncio.wait([task])
        again = begin(classifier, cache, "a")
        await classifier.given_up.wait()
        classifier.gate.set()
        assert (await again).passes
    assert classifier.asked == ["a"]


# Texts


def parts(*texts: str) -> list[ContentPart]:
    return [ContentPart(input_text=Text(text=text)) for text in texts]


@pytest.mark.parametrize(
    ("item", "text"),
    [
        (Item(message=Message(role="user", content=parts("one", "two"))), "one\ntwo"),
        (
            Item(
                message=Message(
                    role="assistant",
                    content=[
                        ContentPart(output_text=items_pb2.OutputText(text="said")),
                        ContentPart(refusal=items_pb2.Refusal(refusal="refused")),
                    ],
                )
            ),
            "said\nrefused",
        ),
        (
            Item(
                reasoning=items_pb2.Reasoning(
                    summary=[ContentPart(summary_text=Text(text="short"))],
                    content=[ContentPart(reasoning_text=Text(text="long"))],
                )
            ),
            "short\nlong",
        ),
        (Item(function_call=items_pb2.FunctionCall(name="f", arguments='{"a":1}')), 'f\n{"a":1}'),
        (Item(custom_tool_call=items_pb2.CustomToolCall(name="f", input="free")), "f\nfree"),
        (
            Item(custom_tool_call_output=items_pb2.CustomToolCallOutput(output=parts("out"))),
            "out",
        ),
        (Item(compaction=items_pb2.Compaction(encrypted_content="sealed")), ""),
        (Item(), ""),
    ],
)
def test_all_that_a_model_reads_of_an_item_is_classified(item: Item, text: str) -> None:
    assert text_of(item) == text


@pytest.mark.parametrize(
    "written", [r'{"k":["x\nbomb"]}', r'{"\u0062omb":0}', r'"\ud83d\ude00bomb"']
)
def test_escapes_in_json_hide_nothing(written: str) -> None:
    output = items_pb2.FunctionCallOutput(output_text=written)
    for item in (Item(function_call_output=output), Item(other_json=written)):
        assert written in text_of(item)
        assert any(line.lstrip("😀") == "bomb" for line in text_of(item).splitlines())


@pytest.mark.parametrize("text", ["\\" * 9, '{"a":"\\n"', "[" * 5000 + '"\\n"' + "]" * 5000])
def test_text_that_is_no_json_is_read_as_it_stands(text: str) -> None:
    output = items_pb2.FunctionCallOutput(output_text=text)
    assert text_of(Item(function_call_output=output)).splitlines()[0] == text


# Rules

RULES = r"""
[weapons]
patterns = ['\bpipe bombs?\b', '\bbuild\b.{0,40}\bdetonator\b']
score = 0.9

[secrets]
patterns = ['\bAK[A-Z]{4}\b']
case_sensitive = true
"""


@pytest.fixture
def rules() -> Iterable[RulesClassifier]:
    classifier = RulesClassifier("rules", RULES.encode())
    yield classifier
    classifier.close()


async def judged(classifier: Classifier, *texts: str) -> list[Verdict]:
    verdicts = await classifier.classify(texts)
    assert not isinstance(verdicts, Failure)
    return list(verdicts)


async def test_patterns_flag_their_category_with_its_score(rules: RulesClassifier) -> None:
    flagged, clean = await judged(rules, "a PIPE BOMB", "aktest, and pipe dreams")
    assert flagged == Verdict(
        "rules", {"weapons": 0.9, "secrets": 0.0}, frozenset({"weapons"}), True
    )
    assert clean == Verdict("rules", {"weapons": 0.0, "secrets": 0.0}, frozenset(), flagged=False)
    assert (await judged(rules, "AKTEST"))[0].categories == {"secrets"}


async def test_long_texts_and_many_texts_are_searched_too(rules: RulesClassifier) -> None:
    texts = ["x" * 3_000_000 + " pipe bomb", *["harmless"] * 2000, "a pipe bomb", "é" * 500_000]
    verdicts = await judged(rules, *texts)
    assert [index for index, verdict in enumerate(verdicts) if verdict.flagged] == [0, 2001]


async def test_no_pattern_takes_more_than_linear_time() -> None:
    classifier = RulesClassifier("rules", rb"[a]" b"\npatterns = ['(x+x+)+y']")
    async with asyncio.timeout(30):
        assert (await judged(classifier, "x" * 200_000))[0].passes
    classifier.close()


def test_a_changed_file_is_another_version() -> None:
    one, same, other = (RulesClassifier("r", RULES.encode() + more) for more in (b"", b"", b"#"))
    assert one.version == same.version != other.version


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[weapons", "Expected ']'"),
        ("", "the file: "),
        ("[weapons]\npatterns = []", "weapons.patterns: "),
        ("[weapons]\npattern = ['a']", "weapons.pattern: "),
        ("[weapons]\npatterns = ['a']\nscore = 2", "weapons.score: "),
        ("weapons = 1", "weapons: "),
        ("[weapons]\npatterns = ['(?=a)']", "weapons: not a pattern of RE2's: "),
    ],
)
def test_an_operator_is_told_what_is_wrong_with_the_rules(
    tmp_path: Path, text: str, complaint: str
) -> None:
    path = tmp_path / "rules.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"rules\.toml: ") as told:
        RulesClassifier.read("rules", path)
    assert complaint in str(told.value)


def test_rules_are_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "rules.toml"
    path.write_text(RULES)
    assert (
        RulesClassifier.read("rules", path).version == RulesClassifier("r", RULES.encode()).version
    )


# A remote classifier

Reply = Callable[[Any], Awaitable[bytes]]


@asynccontextmanager
async def classifier_server(
    reply: Reply, heard: list[Any], deadline: float = 5.0
) -> AsyncIterator[RemoteClassifier]:
    """Serve `POST /v1/moderations` on a socket; `reply` makes the answer, head and all."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                assert head.startswith(b"POST /v1/moderations ")
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                heard.append(json.loads(await reader.readexactly(length)))
                writer.write(await reply(heard[-1]))
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    http = HttpClient(f"http://{host}:{port}", {"Authorization": "Bearer k"}, Deadlines())
    classifier = RemoteClassifier("omni", http, deadline)
    async with server:
        yield classifier
        classifier.close()


def http_answer(body: bytes, status: str = "200 OK") -> bytes:
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status.encode(), len(body), body)


def results(request: Any) -> bytes:
    """Flag what mentions a bomb, as OpenAI does."""
    found = [
        {
            "flagged": "bomb" in text,
            "categories": {"violence": "bomb" in text, "self-harm": False},
            "category_scores": {"violence": 0.75 if "bomb" in text else 0.25, "self-harm": 0.0},
        }
        for text in request["input"]
    ]
    return http_answer(json.dumps({"id": "m", "model": "omni-2", "results": found}).encode())


async def flagging(request: Any) -> bytes:
    return results(request)


async def test_a_remote_classifier_judges_all_texts_at_once() -> None:
    heard: list[Any] = []
    async with classifier_server(flagging, heard) as classifier:
        bomb, clean = await judged(classifier, "a bomb", "a rose")
    assert heard == [{"model": "omni", "input": ["a bomb", "a rose"]}]
    scores = {"violence": 0.75, "self-harm": 0.0}
    assert bomb == Verdict("omni", scores, frozenset({"violence"}), flagged=True)
    assert clean.passes


async def test_long_texts_are_judged_in_pieces_and_nothing_falls_between() -> None:
    heard: list[Any] = []
    long = "x" * 16_382 + "bomb" + "x" * 700_000
    async with classifier_server(flagging, heard) as classifier:
        verdicts = await judged(classifier, "a", long, "b")
    assert [verdict.flagged for verdict in verdicts] == [False, True, False]
    assert len(heard) == 2
    assert max(len(text) for request in heard for text in request["input"]) <= 16_384


@pytest.mark.parametrize(
    "reply",
    [
        http_answer(b"overloaded with secrets", "503 Service Unavailable"),
        http_answer(b"no JSON"),
        http_answer(b"[]"),
        http_answer(b'{"results":[]}'),
        http_answer(b'{"results":["secrets"]}'),
        http_answer(b'{"results":[{"flagged":true}]}'),
        http_answer(b'{"results":[{"categories":{"a":true},"category_scores":{"a":"secrets"}}]}'),
        http_answer(b'{"results":[' + b" " * 5_000_000),
    ],
)
async def test_an_answer_without_verdicts_is_a_failure_that_quotes_nothing(reply: bytes) -> None:
    async def answering(request: Any) -> bytes:
        return reply

    async with classifier_server(answering, []) as classifier:
        failure = await classifier.classify(["secrets"])
    assert isinstance(failure, Failure)
    assert failure.code == "classifier_error"
    assert "secrets" not in failure.message


async def test_a_flag_without_a_category_is_a_flag() -> None:
    async def answering(request: Any) -> bytes:
        return http_answer(b'{"results":[{"flagged":true,"categories":{"a":false}}]}')

    async with classifier_server(answering, []) as classifier:
        (verdict,) = await judged(classifier, "x")
    assert (verdict.flagged, verdict.scores) == (True, {"a": 0.0})


async def test_a_classifier_that_breaks_off_is_a_failure() -> None:
    async def breaking(request: Any) -> bytes:
        raise ConnectionResetError

    async with classifier_server(breaking, []) as classifier:
        failure = await classifier.classify(["x"])
    assert isinstance(failure, Failure)
    assert failure.code == "classifier_unavailable"


async def test_a_classifier_that_is_silent_is_waited_for_no_longer_than_its_deadline() -> None:
    asked = asyncio.Event()

    async def silent(request: Any) -> bytes:
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    async with asyncio.timeout(10), classifier_server(silent, [], deadline=0.1) as classifier:
        failure = await classifier.classify(["x"])
    assert asked.is_set()
    assert isinstance(failure, Failure)
    assert failure.code == "classifier_unavailable"


async def test_a_remote_failure_blocks(cache: VerdictCache) -> None:
    http = HttpClient("http://127.0.0.1:1", {}, Deadlines())
    screened = await said(screening(cache, RemoteClassifier("omni", http, 5.0)), [user("a")])
    assert isinstance(screened, Failure)
    assert not screened.passes
