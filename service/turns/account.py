"""What is written down of a turn that has ended: whose it was and what it took, nothing that was said."""

import time

from service.audit import Entry
from service.turns.plan import Caller
from service.turns.run import Run

_LONGEST = 128
"""Characters of a name that is not ours."""


def entry_of(run: Run, caller: Caller) -> Entry:
    """Return the entry of a run that has ended."""
    response, usage = run.response, run.response.usage
    return Entry(
        ended_at=time.time(),
        tenant=caller.tenant,
        credential=caller.credential,
        transport=caller.metrics.transport,
        response_id=response.id,
        model=response.settings.model[:_LONGEST],
        outcome=response.status,
        error=response.error.code[:_LONGEST] if response.HasField("error") else None,
        stored=run.plan.request.store,
        seconds=time.monotonic() - run.began_at,
        input_tokens=usage.input_tokens,
        cached_tokens=usage.input_tokens_details.cached_tokens,
        output_tokens=usage.output_tokens,
        reasoning_tokens=usage.output_tokens_details.reasoning_tokens,
        input_items=len(run.plan.request.input),
        flagged=run.flagged,
    )
