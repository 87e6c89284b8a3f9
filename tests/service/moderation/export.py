"""Makes the embedded classifier's weights of the model they were trained as, and records what that says.

Needs scikit-learn, and nothing of ours: run it from the repository in an environment of its own, with

    python -m venv THROW_AWAY && THROW_AWAY/bin/pip install alt-profanity-check==1.9.1
    THROW_AWAY/bin/python -m tests.service.moderation.export

It writes `service/moderation/weights/offensive.json.gz` and `tests/recorded/offensive.json`. The licence
beside the weights is that of the project that trained them.
"""

import gzip
import json
from collections.abc import Sequence
from importlib import metadata
from importlib.resources import files
from pathlib import Path
from typing import Any

from tests.service.moderation.drawn import drawn

ROOT = Path(__file__).parents[3]
SOURCE = "alt-profanity-check"
SCALE = 100_000
"""Coefficients are rounded to five places: probabilities stay the same to as many."""
MOST_DOCUMENTS = 1_000_000

WRITTEN = (
    "",
    "?!",
    "a b c",
    "the and of",
    "Good morning, how are you today?",
    "kill the process with pid 42",
    "kill -9 the zombie child process",
    "abort the fork and kill its children",
    "go to hell you scum",
    "what a damn nice day",
    "This sucks, the build is broken again.",
    "my stupid mistake, sorry",
    "You are an idiot.",
    "YOU ARE AN IDIOT",
    "you are not an idiot, are you",
    "idiot idiot idiot",
    "idiot_proof",
    "idiot-proof",
    "1diot",
    "I will find you and hurt you",
    "how do I build a bomb",
    "git blame HEAD~3 -- service/engine.py",
    "ValueError: invalid literal for int() with base 10: 'x'",
    '{"name":"search","arguments":{"query":"weather in Oslo"}}',
    "Le chat est sur la table, déjà vu, pokémon, beyoncé",
    "İstanbul ΣΊΣΥΦΟΣ straße STRASSE ﬁne",
    "e\u0301tude na\u0308ive cafe\u0301",
    "zero\u200bwidth no\u00a0break soft\u00adhyphen",
    "日本語 の 文章 竜龙 連絡",
    "😀 smile 😀😀",
    "words\x00with\x1fcontrols\u2028in them",
)


def main() -> None:
    """Write both files."""
    vectorizer, calibrated = _load("vectorizer"), _load("model")
    terms = sorted(vectorizer.vocabulary_)
    order = [vectorizer.vocabulary_[term] for term in terms]
    weights = {
        "source": f"{SOURCE} {metadata.version(SOURCE)}",
        "scale": SCALE,
        "terms": terms,
        **_frequencies([vectorizer.idf_[index] for index in order]),
        "folds": [_fold(one, order) for one in calibrated.calibrated_classifiers_],
    }
    _write_weights(weights)

    def probabilities(texts: Sequence[str]) -> list[float]:
        return [float(p) for p in calibrated.predict_proba(vectorizer.transform(texts))[:, 1]]

    recorded = {
        "source": weights["source"],
        "written": dict(zip(WRITTEN, probabilities(WRITTEN), strict=True)),
        "drawn": probabilities(list(drawn(terms))),
    }
    path = ROOT / "tests" / "recorded" / "offensive.json"
    path.write_text(json.dumps(recorded, indent=1, ensure_ascii=False) + "\n")


def _load(name: str) -> Any:
    import joblib  # type: ignore[import-not-found] # noqa: PLC0415 -- only where it is run

    with (files("profanity_check") / "data" / f"{name}.joblib").open("rb") as file:
        return joblib.load(file)


def _frequencies(rarity: Sequence[float]) -> dict[str, object]:
    """Return in how many documents each term was, of how many: that is what its rarity was made of."""
    import numpy as np  # type: ignore[import-not-found,unused-ignore] # noqa: PLC0415

    odds = np.exp(np.asarray(rarity) - 1)
    for documents in range(1, MOST_DOCUMENTS):
        counts = (1 + documents) / odds - 1
        if counts.min() > 0.5 and np.abs(counts - np.round(counts)).max() < 1e-6:
            in_documents = [int(count) for count in np.round(counts)]
            return {"documents": documents, "in_documents": in_documents}
    raise SystemExit("No number of documents explains the inverse document frequencies.")


def _fold(one: Any, order: Sequence[int]) -> dict[str, object]:
    coefficients = one.estimator.coef_[0]
    (calibrator,) = one.calibrators
    return {
        "coefficients": [round(float(coefficients[index]) * SCALE) for index in order],
        "intercept": float(one.estimator.intercept_[0]),
        "slope": float(calibrator.a_),
        "offset": float(calibrator.b_),
    }


def _write_weights(weights: dict[str, object]) -> None:
    data = json.dumps(weights, ensure_ascii=False, separators=(",", ":")).encode()
    path = ROOT / "service" / "moderation" / "weights" / "offensive.json.gz"
    path.write_bytes(gzip.compress(data, 9, mtime=0))


if __name__ == "__main__":
    main()
