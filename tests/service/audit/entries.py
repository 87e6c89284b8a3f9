"""Entries to write down."""

import dataclasses

from service.audit import Entry

ENTRY = Entry(
    ended_at=1_795_408_600.25,
    tenant="acme",
    credential="k1",
    transport="websocket",
    response_id="resp_1",
    model="simulator",
    outcome="completed",
    error=None,
    stored=True,
    seconds=1.5,
    input_tokens=100,
    cached_tokens=90,
    output_tokens=20,
    reasoning_tokens=5,
    input_items=2,
    flagged=None,
)


def entry(number: int) -> Entry:
    return dataclasses.replace(ENTRY, response_id=f"resp_{number}")
