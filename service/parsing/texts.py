"""Answers that are all of one kind: nothing in them has to be told apart."""

import jiter

from service.backends import CallText, ItemEnds, Produced, ScoredText, Text
from service.errors import ModelError
from service.parsing import Reader, Scores


class TextReader:
    """Everything is text."""

    def push(self, text: str, scores: Scores = ()) -> list[Produced]:
        """Pass it on."""
        del scores
        return [Text(text)] if text else []

    def end(self) -> list[Produced]:
        """Nothing was held back."""
        return []

    cut = end


class ScoredTextReader(TextReader):
    """Everything is text, and how likely its tokens were."""

    def push(self, text: str, scores: Scores = ()) -> list[Produced]:
        """Pass it on."""
        return [ScoredText(text, scores)] if text else []


class JsonReader:
    """All text is one JSON value."""

    def __init__(self, text: Reader) -> None:
        """`text` reads the answer, and tells its text from thoughts."""
        self._proof = _EnforcementProof('{["-0123456789tfn')
        self._text = text

    def push(self, text: str, scores: Scores = ()) -> list[Produced]:
        """Pass it on. Raises `ModelError` if it cannot be JSON."""
        return self._checked(self._text.push(text, scores))

    def end(self) -> list[Produced]:
        """Read what was held back. Raises `ModelError` if it was no JSON."""
        produced = self._checked(self._text.end())
        self._proof.finish()
        return produced

    def cut(self) -> list[Produced]:
        """Read what was held back."""
        return self._text.cut()

    def _checked(self, produced: list[Produced]) -> list[Produced]:
        for part in produced:
            if isinstance(part, Text | ScoredText):
                self._proof.check(part.text)
        return produced


class ArgumentsReader:
    """Everything is the arguments of one function."""

    def __init__(self) -> None:
        self._proof = _EnforcementProof("{")

    def push(self, text: str, scores: Scores = ()) -> list[Produced]:
        """Pass it on. Raises `ModelError` if it cannot be a JSON object."""
        del scores
        self._proof.check(text)
        return [CallText(text)] if text else []

    def end(self) -> list[Produced]:
        """End the call. Raises `ModelError` if its arguments are no JSON."""
        self._proof.finish()
        return [ItemEnds()]

    def cut(self) -> list[Produced]:
        """Leave the call unfinished."""
        return []


class InputReader:
    """Everything is the input of one custom tool, inside JSON."""

    def __init__(self) -> None:
        self._read: list[str] = []

    def push(self, text: str, scores: Scores = ()) -> list[Produced]:
        """Hold it back: it is escaped, and rarely long."""
        del scores
        self._read.append(text)
        return []

    def end(self) -> list[Produced]:
        """Return the input, or as much of it as there is."""
        return [*self.cut(), ItemEnds()]

    def cut(self) -> list[Produced]:
        """Return as much of the input as there is."""
        return [CallText(input_in("".join(self._read)))]


class _EnforcementProof:
    """Looks at text that should match a schema: some servers ignore one that they cannot translate."""

    def __init__(self, first: str) -> None:
        self._first = first
        self._begun = False
        self._text: list[str] = []

    def check(self, text: str) -> None:
        """Raise `ModelError` if the text does not begin as it should."""
        self._text.append(text)
        if self._begun or not (begin := text.lstrip()):
            return
        self._begun = True
        if begin[0] not in self._first:
            raise _not_enforced()

    def finish(self) -> None:
        """Raise `ModelError` if the text is no JSON."""
        try:
            jiter.from_json("".join(self._text).encode(), allow_inf_nan=False)
        except ValueError:
            raise _not_enforced() from None


def _not_enforced() -> ModelError:
    return ModelError("invalid_prompt", "The model server cannot enforce this schema.")


def input_in(arguments: str) -> str:
    """Return the input that stands in a custom tool's arguments, which may be cut off."""
    try:
        parsed = jiter.from_json(arguments.encode(), partial_mode="trailing-strings")
    except ValueError:
        return ""
    return str(parsed.get("input", "")) if isinstance(parsed, dict) else ""
