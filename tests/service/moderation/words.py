"""A classifier for tests: it flags texts that hold its own name, and remembers what it was asked."""

from collections.abc import Sequence

from service.moderation import Failure, Verdict
from turnwire.v1.items_pb2 import Item, Message
from turnwire.v1.responses_pb2 import ModerationMode, ModerationPolicy, ModerationSettings


class Words:
    version = "1"

    def __init__(self, name: str) -> None:
        self.name = name
        self.asked: list[str] = []

    async def classify(self, texts: Sequence[str]) -> Sequence[Verdict] | Failure:
        self.asked += texts
        return [self._verdict(text) for text in texts]

    def close(self) -> None: ...

    def _verdict(self, text: str) -> Verdict:
        found = self.name in text
        flagged = frozenset({"words"} if found else ())
        return Verdict(self.name, {"words": float(found)}, flagged, found)


class Down(Words):
    """One that cannot look."""

    async def classify(self, texts: Sequence[str]) -> Sequence[Verdict] | Failure:
        self.asked += texts
        return Failure("classifier_unavailable", "Down.")


def settings(
    model: str, *, input_mode: str | None = None, output_mode: str | None = None
) -> ModerationSettings:
    policy = ModerationPolicy(
        input=ModerationMode(mode=input_mode) if input_mode else None,
        output=ModerationMode(mode=output_mode) if output_mode else None,
    )
    return ModerationSettings(model=model, policy=policy)


def user(text: str) -> Item:
    return Item(message=Message(role="user", content_text=text))
