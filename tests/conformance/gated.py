"""A simulator that a test lets go on, batch by batch: what happens meanwhile is certain."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from service.backends import Produced, Prompt
from service.backends.simulator.backend import Simulator


class Gated(Simulator):
    """Waits after its first batch until the gate is opened. `stall 0` ends a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.begun = 0

    async def generate(self, prompt: Prompt) -> AsyncGenerator[Sequence[Produced], None]:
        """Generate as the simulator does."""
        self.begun += 1
        async with aclosing(super().generate(prompt)) as batches:
            async for batch in batches:
                yield batch
                await self.gate.wait()
