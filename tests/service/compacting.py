"""Prompts of conversations that are to be compacted."""

from collections.abc import Sequence
from functools import partial

from service.backends import Prompt
from service.compaction import Compactions
from service.conversation import Segment
from service.sealing import Seal
from turnwire.v1 import items_pb2, responses_pb2

TENANT = "alice"


def prompt(
    *items: items_pb2.Item,
    history: Sequence[Segment] = (),
    settings: responses_pb2.Settings | None = None,
    compactions: Compactions | None = None,
) -> Prompt:
    return Prompt(
        history=history,
        input=items,
        legible=partial((compactions or Compactions(Seal.ephemeral())).legible, TENANT),
        model="simulator",
        settings=settings or responses_pb2.Settings(model="simulator"),
        tools=(),
        logprobs=False,
        extra_json="",
        conversation="conversation",
        tenant=TENANT,
    )
