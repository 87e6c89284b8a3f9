"""`POST /v1/moderations`: as the `openai` SDK asks, and as our own classifier for other servers does."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from openai import AsyncOpenAI
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

import transports.http
from service.backends.http import Deadlines, HttpClient
from service.errors import Overloaded, Refusal
from service.limits import Limits
from service.metrics import Metrics
from service.moderation import Classifier, Failure, Moderator, VerdictCache
from service.moderation.answers import answer
from service.moderation.embedded import EmbeddedClassifier
from service.moderation.remote import RemoteClassifier
from tests.service.moderation.words import Down, Words

INSULT = "You are an idiot."


def moderator(*classifiers: Classifier) -> Moderator:
    return Moderator(classifiers, VerdictCache(1 << 20, Metrics(CollectorRegistry())))


async def asked(of: Moderator, **request: Any) -> Any:
    return json.loads(await answer(of, "t", json.dumps(request).encode()))


async def test_each_text_has_a_result_of_its_own_in_order() -> None:
    classifier = Words("bomb")
    told = await asked(moderator(classifier), input=["a", "a bomb", "a", "bombs"])
    assert [result["flagged"] for result in told["results"]] == [False, True, False, True]
    assert classifier.asked == ["a", "a bomb", "bombs"]
    assert told["model"] == "bomb"
    assert told["results"][1]["category_scores"] == {"words": 1.0}


async def test_parts_are_one_text() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "bomb"}]
    told = await asked(moderator(Words("bomb")), input=parts)
    assert [result["flagged"] for result in told["results"]] == [True]


async def test_the_first_classifier_is_meant_where_none_is_named() -> None:
    both = moderator(Words("bomb"), Words("knife"))
    assert (await asked(both, input="x"))["model"] == "bomb"
    assert (await asked(both, input="x", model="knife"))["model"] == "knife"


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        (b"", "invalid_value", None),
        (b"[]", "invalid_value", None),
        (b"{}", "invalid_value", "input"),
        (b'{"input":[]}', "invalid_value", "input"),
        (b'{"input":["secret",1]}', "invalid_value", "input"),
        (b'{"input":"x","model":7}', "invalid_value", "model"),
        (b'{"input":"x","model":"secret"}', "invalid_value", "model"),
        (json.dumps({"input": ["x"] * 1025}).encode(), "invalid_value", "input"),
        (
            b'{"input":[{"type":"image_url","image_url":{"url":"secret"}}]}',
            "invalid_value",
            "input",
        ),
    ],
)
async def test_what_cannot_be_answered_is_refused_by_name_and_not_quoted(
    body: bytes, code: str, param: str | None
) -> None:
    with pytest.raises(Refusal) as refused:
        await answer(moderator(Words("bomb")), "t", body)
    assert (refused.value.code, refused.value.param) == (code, param)
    assert "secret" not in refused.value.message


async def test_a_server_without_classifiers_says_so() -> None:
    with pytest.raises(Refusal) as refused:
        await asked(moderator(), input="x")
    assert refused.value.code == "unsupported_parameter"


async def test_a_classifier_that_fails_can_be_asked_later() -> None:
    with pytest.raises(Overloaded) as refused:
        await asked(moderator(Down("down")), input="x")
    assert (refused.value.status, refused.value.code) == (503, "classifier_unavailable")


# Over HTTP


@asynccontextmanager
async def moderating(of: Moderator) -> AsyncIterator[str]:
    """Serve it on a socket, under our own HTTP; yield where."""

    async def moderations(request: Request) -> Response:
        return Response(await answer(of, "t", await request.body()), media_type="application/json")

    app = Starlette(routes=[Route("/v1/moderations", moderations, methods=["POST"])])
    port = transports.http.Port(Limits(), transports.http.wheel_for(Limits()), lambda _: None)
    config = transports.http.configure(app, port)
    address = transports.http.Address("127.0.0.1", 0)
    server = await transports.http.HttpServer.start(config, address)
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        await server.stop()


async def test_the_openai_sdk_reads_our_verdicts() -> None:
    async with (
        moderating(moderator(EmbeddedClassifier("embedded"))) as url,
        AsyncOpenAI(api_key="k", base_url=f"{url}/v1", max_retries=0) as client,
    ):
        told = await client.moderations.create(input=[INSULT, "Good morning."], model="embedded")
    insult, clean = told.results
    assert (insult.flagged, clean.flagged) == (True, False)
    assert insult.categories.to_dict() == {"offensive": True}
    assert insult.category_scores.to_dict()["offensive"] == pytest.approx(1.0, abs=1e-3)
    assert told.model == "embedded"


async def test_a_replica_that_asks_another_says_what_that_one_would() -> None:
    near = EmbeddedClassifier("embedded")
    texts = [INSULT, "Good morning.", INSULT * 2000, INSULT, *map(str, range(100))]
    async with moderating(moderator(near)) as url:
        far = RemoteClassifier("embedded", HttpClient(url, {}, Deadlines()), 10.0)
        said, told = await near.classify(texts), await far.classify(texts)
        far.close()
    assert not isinstance(said, Failure)
    assert not isinstance(told, Failure)
    assert [verdict.flagged for verdict in told] == [verdict.flagged for verdict in said]
    assert [verdict.scores for verdict in told[:2]] == [verdict.scores for verdict in said[:2]]
