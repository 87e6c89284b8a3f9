"""Record what a real vLLM answers, for tests of adapters that must run without one.

Everything goes to tests/recorded/vllm, a file an exchange: what was asked and what came, without the
ids, times and paths that would differ the next time. The README.md there says how to run it.
"""

import argparse
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import httpx

from tests.vllm import asked

RECORDED = Path(__file__).parents[1] / "recorded" / "vllm"
_LONG = 80  # strings and lists longer than that are cut in what was asked

Json: TypeAlias = Any


@dataclass(frozen=True)
class Scrubber:
    """Replaces what differs from run to run, the same by the same."""

    path: str
    """Where the model lies."""
    _known: dict[str, str] = field(default_factory=dict)

    def scrub(self, text: str) -> str:
        """Return the text as it would be the next time."""
        text = text.replace(self.path, "/models/smollm2")
        text = re.sub(r'("(?:created|created_at|completed_at)": ?)[\d.]+', r"\g<1>1700000000", text)
        return re.sub(r"(?<![0-9a-zA-Z])[0-9a-f]{16,40}(?![0-9a-zA-Z])", self._number, text)

    def _number(self, found: re.Match[str]) -> str:
        return self._known.setdefault(found[0], f"{len(self._known) + 1:016x}")


def main() -> None:
    """Ask everything and write it down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", help="http://host:port")
    parser.add_argument("--reasoning", action="store_true", help="it has a reasoning parser")
    arguments = parser.parse_args()
    with httpx.Client(base_url=arguments.url, timeout=120) as client:
        scrubber = Scrubber(client.get("/v1/models").json()["data"][0]["root"])
        exchanges = asked.reasoning() if arguments.reasoning else asked.everything(_ids(client))
        for exchange in exchanges:
            write(exchange.name, _recorded(client, exchange, scrubber))


def write(name: str, recorded: dict[str, Json]) -> None:
    """Write a recording: an event a line, because people read them."""
    lines = ",\n".join(f"{json.dumps(key)}: {_laid_out(value)}" for key, value in recorded.items())
    RECORDED.joinpath(f"{name}.json").write_text(f"{{\n{lines}\n}}\n")


def _laid_out(value: Json) -> str:
    if not isinstance(value, list):
        return json.dumps(value)
    return "[\n" + ",\n".join(f"  {json.dumps(event)}" for event in value) + "\n]"


def _ids(client: httpx.Client) -> list[int]:
    ids: list[int] = client.post("/tokenize", json={"messages": asked.MESSAGES}).json()["tokens"]
    return ids


def _recorded(
    client: httpx.Client, exchange: asked.Exchange, scrubber: Scrubber
) -> dict[str, Json]:
    answer = client.request(
        exchange.method, exchange.path, json=exchange.body, headers=exchange.headers
    )
    text = scrubber.scrub(answer.text)
    streamed = answer.headers["content-type"].startswith("text/event-stream")
    came: Json = {"events": list(_events(text))} if streamed else {"answer": json.loads(text)}
    request = {"method": exchange.method, "path": exchange.path, "body": _cut(exchange.body)}
    return {"request": request, "status": answer.status_code, **came}


def _cut(body: Json) -> Json:
    if isinstance(body, dict):
        return {key: _cut(value) for key, value in body.items()}
    if isinstance(body, str) and len(body) > _LONG:
        return f"{body[:_LONG]}... ({len(body)} characters)"
    if isinstance(body, list) and len(body) > _LONG:
        return [*body[:8], f"... ({len(body)} of them)"]
    return [_cut(value) for value in body] if isinstance(body, list) else body


def _events(text: str) -> Iterator[Json]:
    """Return the data of every event, in order; what is no JSON is a string."""
    for line in text.splitlines():
        if line.startswith("data: "):
            data = line.removeprefix("data: ")
            yield data if data == "[DONE]" else json.loads(data)


if __name__ == "__main__":
    main()
