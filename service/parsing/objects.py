"""Where a JSON object ends, found while it is being written: each character is looked at once."""

import re

_IN_STRING = re.compile(r'["\\]')
_OUTSIDE = re.compile(r'["{}\[\]]')


class ObjectEnd:
    """Finds the end of one object. Knows brackets and strings; whether it is JSON shows elsewhere."""

    def __init__(self, depth: int = 0) -> None:
        """`depth` says how many objects the text begins inside of."""
        self._depth = depth
        self._in_string = False
        self._escaped = False

    def find(self, text: str) -> int:
        """Read more; return where the object ends in it, -1 if it does not."""
        at = 0
        while at < len(text):
            at = self._past_string(text, at) if self._in_string else self._past_bracket(text, at)
            if not self._depth:
                return at
        return -1

    def _past_string(self, text: str, at: int) -> int:
        if self._escaped:
            self._escaped = False
            return at + 1
        found = _IN_STRING.search(text, at)
        if found is None:
            return len(text)
        self._escaped = found[0] == "\\"
        self._in_string = self._escaped
        return found.end()

    def _past_bracket(self, text: str, at: int) -> int:
        found = _OUTSIDE.search(text, at)
        if found is None:
            return len(text)
        if found[0] == '"':
            self._in_string = True
        else:
            self._depth += 1 if found[0] in "{[" else -1
        return found.end()
