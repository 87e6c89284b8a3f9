"""What a tenant's policy adds to what its clients ask for."""

from collections.abc import Mapping

import pytest
from prometheus_client import CollectorRegistry

from service.errors import Failed, Refusal
from service.metrics import Metrics
from service.moderation import Classifier, Failure, Moderator, Screening, VerdictCache
from tests.service.moderation.words import Down, Words, settings, user
from turnwire.v1.responses_pb2 import ModerationSettings

Policies = Mapping[str, ModerationSettings]


def moderator(policies: Policies, *classifiers: Classifier) -> Moderator:
    cache = VerdictCache(1 << 20, Metrics(CollectorRegistry()))
    return Moderator(classifiers or [Words("bomb"), Words("knife")], cache, policies.get)


def screening(
    asked: ModerationSettings | None, policy: ModerationSettings, *classifiers: Classifier
) -> Screening:
    found = moderator({"t": policy}, *classifiers).understand(asked, "t")
    assert found is not None
    return found


def test_a_policy_is_for_the_tenant_that_has_it_and_for_no_other() -> None:
    found = moderator({"t": settings("bomb", input_mode="block")})
    assert found.understand(None, "other") is None
    screened = found.understand(None, "t")
    assert screened is not None
    assert screened.blocks_input
    assert not screened.blocks_output


@pytest.mark.parametrize(
    ("asked", "required", "blocks"),
    [
        (settings("bomb"), settings("bomb"), (False, False)),
        (settings("bomb", input_mode="score"), settings("bomb", input_mode="block"), (True, False)),
        (settings("bomb", input_mode="block"), settings("bomb", input_mode="score"), (True, False)),
        (settings("bomb", output_mode="block"), settings("bomb", input_mode="block"), (True, True)),
        (
            settings("knife", output_mode="block"),
            settings("bomb", input_mode="block"),
            (True, True),
        ),
        (None, settings("bomb", input_mode="block", output_mode="block"), (True, True)),
    ],
)
def test_of_a_request_and_a_policy_the_stricter_wins_side_by_side(
    asked: ModerationSettings | None, required: ModerationSettings, blocks: tuple[bool, bool]
) -> None:
    found = screening(asked, required)
    assert (found.blocks_input, found.blocks_output) == blocks


async def test_a_classifier_that_both_name_looks_once() -> None:
    classifier = Words("bomb")
    found = screening(settings("bomb"), settings("bomb", input_mode="block"), classifier)
    judgement = await found.judge("input", [user("a bomb")])
    assert classifier.asked == ["a bomb"]
    assert not judgement.passes


async def test_a_client_is_told_what_the_classifier_that_it_asked_for_says() -> None:
    found = screening(settings("knife"), settings("bomb", input_mode="block"))
    judgement = await found.judge("input", [user("a bomb")])
    assert found.told
    assert not isinstance(judgement.said, Failure)
    assert (judgement.said.model, judgement.said.flagged) == ("knife", False)
    assert judgement.flagged
    assert not judgement.passes


async def test_a_client_that_asks_only_to_be_told_has_nothing_withheld_by_that() -> None:
    found = screening(settings("knife"), settings("bomb", input_mode="block"))
    judgement = await found.judge("input", [user("a knife")])
    assert judgement.flagged
    assert judgement.passes


def test_a_client_that_did_not_ask_is_told_nothing() -> None:
    assert not screening(None, settings("bomb", input_mode="block")).told


async def test_a_policy_is_looked_up_with_every_turn() -> None:
    policies: dict[str, ModerationSettings] = {}
    found = moderator(policies)
    assert found.understand(None, "t") is None
    policies["t"] = settings("bomb")
    assert found.understand(None, "t") is not None


@pytest.mark.parametrize("asked", [None, settings("knife")])
async def test_where_the_policys_classifier_cannot_look_nothing_passes_that_it_would_withhold(
    asked: ModerationSettings | None,
) -> None:
    required = settings("down", input_mode="block", output_mode="score")
    found = screening(asked, required, Down("down"), Words("knife"))
    assert not (await found.judge("input", [user("harmless")])).passes
    output = await found.judge("output", [user("harmless")])
    assert output.passes
    assert not output.flagged


@pytest.mark.parametrize("policy", [settings("gun"), settings("bomb", input_mode="stop")])
def test_a_policy_that_cannot_be_kept_to_lets_no_turn_be_made_and_names_nothing_to_the_client(
    policy: ModerationSettings,
) -> None:
    found = moderator({"t": policy})
    with pytest.raises(Failed) as failed:
        found.understand(None, "t")
    assert failed.value.message == Failed().message


async def test_items_that_come_without_a_turn_are_refused_where_the_policy_withholds_them() -> None:
    found = moderator({"t": settings("bomb", input_mode="block"), "s": settings("bomb")})
    await found.admit("t", [user("harmless")])
    await found.admit("s", [user("a bomb")])
    await found.admit("nobody", [user("a bomb")])
    with pytest.raises(Refusal) as refused:
        await found.admit("t", [user("harmless"), user("a bomb")])
    assert (refused.value.code, refused.value.param) == ("invalid_prompt", "input")
    assert "bomb" not in refused.value.message
