"""Where conversations are cached, as far as this process remembers. Losing it costs time only."""

from service.backends import Prompt
from service.newest import Newest
from turnwire.v1 import items_pb2


class Affinity:
    """Which server answered a conversation last, of so many conversations."""

    def __init__(self, most: int) -> None:
        self._last = Newest[tuple[str, str], str](most)

    def __len__(self) -> int:
        return len(self._last)

    def last(self, prompt: Prompt) -> str | None:
        """Return the server that answered last, if it is remembered."""
        return self._last.get(_owner(prompt))

    def answered(self, prompt: Prompt, server: str) -> None:
        """Remember who answered; forget the conversation that was answered longest ago."""
        self._last[_owner(prompt)] = server


def key_of(prompt: Prompt) -> bytes:
    """Return what stays the same while a conversation grows, and differs between tenants.

    It begins with the same words of the user, also where a client sends all of it every time.
    """
    items = prompt.history[0].items if prompt.history else prompt.input
    asked = next((item for item in items if item.message.role == "user"), items_pb2.Item())
    said = asked.SerializeToString(deterministic=True)
    return prompt.tenant.encode(errors="surrogatepass") + b"\0" + said


def _owner(prompt: Prompt) -> tuple[str, str]:
    return prompt.tenant, prompt.conversation
