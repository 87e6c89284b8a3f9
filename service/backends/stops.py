"""A client's stop words. They are few and short, since every token is looked at for each of them."""

from typing import Any

from service.errors import ModelError

_MOST_WORDS, _LONGEST_WORD = 64, 256


def stop_words_in(stop: Any) -> list[str]:
    """Return the words of a request's `stop`: a text, a list of texts, or null. Raises `ModelError`."""
    words = [stop] if isinstance(stop, str) else stop or []
    if not isinstance(words, list) or not all(isinstance(word, str) and word for word in words):
        raise ModelError("invalid_prompt", "'stop' must be a string or an array of strings.")
    if len(words) > _MOST_WORDS or any(len(word) > _LONGEST_WORD for word in words):
        raise ModelError(
            "invalid_prompt",
            f"'stop' may have {_MOST_WORDS} words, of {_LONGEST_WORD} characters at most.",
        )
    return words
