"""Input and output that are screened (docs/protocol.md, "Compaction, caches and moderation")."""

import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from service.backends.simulator.backend import Simulator
from service.engine import Policies
from service.moderation import Classifier, Failure, Verdict
from service.moderation.rules import RulesClassifier
from service.tenants import Allowance, Tenants
from tests.conformance.clients import Connect
from tests.conformance.conversation import Conversation
from tests.conformance.schema import sdk
from tests.conformance.server import Server, serving
from turnwire import json_codec
from turnwire.v1.responses_pb2 import ModerationMode, ModerationPolicy, ModerationSettings

RULES = b"[weapons]\npatterns = ['detonator']\nscore = 0.9\n[words]\npatterns = ['every turn']\n"
INPUT: dict[str, Any] = {"input": {"mode": "block"}}
OUTPUT: dict[str, Any] = {"output": {"mode": "block"}}


class Broken:
    """A classifier that cannot look."""

    name = "broken"
    version = "1"

    async def classify(self, texts: Sequence[str]) -> Sequence[Verdict] | Failure:
        return Failure("classifier_unavailable", "The classifier is not there.")

    def close(self) -> None: ...


ALLOWANCES = {
    "bob": Allowance(
        screening=ModerationSettings(
            model="rules",
            policy=ModerationPolicy(
                input=ModerationMode(mode="block"), output=ModerationMode(mode="block")
            ),
        )
    )
}
"""Alice may do as she likes."""


@pytest.fixture
async def screening(simulator: Simulator, tmp_path: Path) -> AsyncIterator[Server]:
    classifiers: list[Classifier] = [RulesClassifier("rules", RULES), Broken()]
    tenants = Tenants(lambda tenant: ALLOWANCES.get(tenant, Allowance()))
    policies = Policies(classifiers=classifiers, tenants=tenants)
    async with serving(simulator, tmp_path, policies=policies) as started:
        yield started


@pytest.fixture
async def chat(screening: Server, connect: Connect) -> AsyncIterator[Conversation]:
    async with connect(screening, screening.alice) as client:
        yield Conversation(client)


@pytest.fixture
async def supervised(screening: Server, connect: Connect) -> AsyncIterator[Conversation]:
    """A connection of a tenant whose turns are all screened."""
    async with connect(screening, screening.bob) as client:
        yield Conversation(client)


def asking(model: str = "rules", **policy: Any) -> dict[str, Any]:
    return {"moderation": {"model": model, **({"policy": policy} if policy else {})}}


@pytest.mark.rule("MO-1")
async def test_a_classifier_that_is_not_there_is_refused_by_name(chat: Conversation) -> None:
    heard = await chat.ask(**asking("none"))
    assert (heard.error.status, heard.error.error.code) == (400, "invalid_value")
    assert heard.error.error.param == "moderation.model"
    assert "rules" in heard.error.error.message


@pytest.mark.rule("MO-2")
async def test_what_the_classifier_said_is_told(chat: Conversation) -> None:
    heard = await chat.ask("a detonator", **asking())
    assert heard.text == "a detonator"
    told = json.loads(heard.response.moderation_json)
    for part in ("input", "output"):
        assert told[part]["flagged"]
        assert told[part]["categories"] == {"weapons": True, "words": False}
        assert told[part]["category_scores"]["weapons"] == 0.9
    sdk.check_response(json.loads(json_codec.encode(heard.response)))


@pytest.mark.rule("MO-2")
async def test_nothing_is_told_unasked(chat: Conversation) -> None:
    assert not (await chat.ask("a detonator")).response.HasField("moderation_json")


@pytest.mark.rule("MO-3")
async def test_blocked_input_never_was_said(chat: Conversation, simulator: Simulator) -> None:
    first = await chat.ask("hello")
    prefilled = simulator.prefilled_tokens
    blocked = await chat.ask("a detonator", previous_response_id=first.id, **asking(**INPUT))
    assert blocked.kinds[-1] == "incomplete"
    assert blocked.response.incomplete_details.reason == "content_filter"
    assert list(blocked.response.output) == []
    assert simulator.prefilled_tokens == prefilled
    assert json.loads(blocked.response.moderation_json)["input"]["flagged"]
    on = await chat.ask("on", previous_response_id=first.id)
    after = await chat.ask("on", previous_response_id=blocked.id)
    assert after.response.usage.input_tokens == on.response.usage.input_tokens


@pytest.mark.rule("MO-3")
async def test_blocked_output_is_not_shown(chat: Conversation) -> None:
    heard = await chat.sim("text 5", **asking(**OUTPUT))
    assert heard.kinds[-1] == "incomplete"
    assert heard.response.incomplete_details.reason == "content_filter"
    assert b"every turn" not in b"".join(map(json_codec.encode, heard))


@pytest.mark.rule("MO-3")
async def test_what_passes_is_shown_as_if_nobody_had_looked(chat: Conversation) -> None:
    screened = await chat.ask("hello", **asking(**INPUT, **OUTPUT))
    assert screened.text == "hello"
    assert screened.kinds == (await chat.ask("hello")).kinds


@pytest.mark.rule("MO-3")
@pytest.mark.parametrize("policy", [INPUT, OUTPUT])
async def test_where_the_classifier_cannot_look_what_may_be_blocked_is_blocked(
    chat: Conversation, policy: dict[str, Any]
) -> None:
    heard = await chat.ask("hello", **asking("broken", **policy))
    assert heard.response.incomplete_details.reason == "content_filter"
    [part] = policy
    told = json.loads(heard.response.moderation_json)[part]
    assert (told["type"], told["code"]) == ("error", "classifier_unavailable")
    assert (await chat.ask("hello", **asking("broken"))).text == "hello"


@pytest.mark.rule("MO-4")
async def test_a_tenants_policy_withholds_input_that_nobody_asked_to_be_screened(
    supervised: Conversation, simulator: Simulator
) -> None:
    first = await supervised.ask("hello")
    assert first.text == "hello"
    prefilled = simulator.prefilled_tokens
    blocked = await supervised.ask("a detonator", previous_response_id=first.id)
    assert blocked.response.incomplete_details.reason == "content_filter"
    assert list(blocked.response.output) == []
    assert simulator.prefilled_tokens == prefilled


@pytest.mark.rule("MO-4")
async def test_a_tenants_policy_withholds_output_too(supervised: Conversation) -> None:
    heard = await supervised.sim("text 5")
    assert heard.response.incomplete_details.reason == "content_filter"
    assert b"every turn" not in b"".join(map(json_codec.encode, heard))


@pytest.mark.rule("MO-4")
async def test_of_a_policy_nothing_is_told_to_those_who_did_not_ask(
    supervised: Conversation,
) -> None:
    for text in ("hello", "a detonator"):
        assert not (await supervised.ask(text)).response.HasField("moderation_json")


@pytest.mark.rule("MO-4")
async def test_no_request_makes_a_policy_laxer(supervised: Conversation) -> None:
    scored = asking(input={"mode": "score"}, output={"mode": "score"})
    blocked = await supervised.ask("a detonator", **scored)
    assert blocked.response.incomplete_details.reason == "content_filter"
    assert json.loads(blocked.response.moderation_json)["input"]["flagged"]
    of_another = await supervised.ask("a detonator", **asking("broken"))
    assert of_another.response.incomplete_details.reason == "content_filter"
    assert json.loads(of_another.response.moderation_json)["input"]["type"] == "error"


@pytest.mark.rule("MO-4")
async def test_a_policy_is_for_its_tenant_alone(
    chat: Conversation, supervised: Conversation
) -> None:
    assert (await chat.ask("a detonator")).text == "a detonator"
    assert (await supervised.ask("hello")).text == "hello"
