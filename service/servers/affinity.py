"""Where conversations are cached, as far as this process remembers. Losing it costs time only."""

from collections import OrderedDict

from service.backends import Prompt


class Affinity:
    """Which server answered a conversation last, of so many conversations."""

    def __init__(self, most: int) -> None:
        self._last: OrderedDict[tuple[str, str], str] = OrderedDict()
        self._most = most

    def __len__(self) -> int:
        return len(self._last)

    def last(self, prompt: Prompt) -> str | None:
        """Return the server that answered last, if it is remembered."""
        return self._last.get(_owner(prompt))

    def answered(self, prompt: Prompt, server: str) -> None:
        """Remember who answered; forget the conversation that was answered longest ago."""
        owner = _owner(prompt)
        self._last[owner] = server
        self._last.move_to_end(owner)
        if len(self._last) > self._most:
            self._last.popitem(last=False)


def key_of(prompt: Prompt) -> bytes:
    """Return what tells a conversation from others, of other tenants too."""
    return "\0".join(_owner(prompt)).encode(errors="surrogatepass")


def _owner(prompt: Prompt) -> tuple[str, str]:
    return prompt.tenant, prompt.conversation
