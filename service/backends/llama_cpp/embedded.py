"""llama.cpp inside this process: a model without anything to install.

The library opens the very HTTP server that llama.cpp has, on a loopback port of its own and behind
a key of its own, so that the embedded model and a remote one take the same road.
"""

import asyncio
import os
import secrets
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import xllamacpp  # type: ignore[import-untyped]

from service.backends import Produced, Prompt
from service.backends.llama_cpp.backend import LlamaCpp
from service.conversation import Renderings
from service.errors import ModelError
from service.rendering.proof import Proof

_SILENT = -1


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddedModel:
    """Which model runs in this process, and with what."""

    weights: Path
    """A GGUF file."""
    name: str
    """The name clients ask for."""
    context: int = 16384
    """Tokens that all slots hold together."""
    slots: int = 4
    """How many answers are generated at once."""
    threads: int = field(default_factory=lambda: max(1, (os.cpu_count() or 2) - 1))
    """llama.cpp's threads wait by spinning: one core is left for everything else."""
    verbosity: int = _SILENT
    """How much llama.cpp writes to stderr: nothing by default, 3 is what its own server writes."""
    defaults: Mapping[str, float] = field(default_factory=dict)
    """Sampling parameters for requests that set none."""
    spilled: int = 0
    """How many conversations are saved when others take their slots."""
    spill_directory: Path = Path("/dev/shm")  # noqa: S108 - only a private directory in it is used
    """Below which they are saved: in memory as a rule, for what was said can be computed from them."""


class Embedded:
    """A llama.cpp server in this process."""

    kind = LlamaCpp.kind
    capabilities = LlamaCpp.capabilities

    def __init__(self, model: EmbeddedModel, proof: Proof | None = None) -> None:
        self._wanted = model
        self._proof = proof
        self._server: xllamacpp.Server | None = None
        self._files = ExitStack()
        self._backend: LlamaCpp

    @property
    def models(self) -> Sequence[str]:
        """The one model that runs here."""
        return [self._wanted.name]

    async def start(self) -> None:
        """Load the model, in a thread: it takes about a second."""
        key, wanted = secrets.token_hex(32), self._wanted
        spill = self._spill_directory() if wanted.spilled else None
        try:
            server = await asyncio.to_thread(_serve, wanted, key, spill)
        except RuntimeError as error:
            raise ModelError("server_error", f"{wanted.weights} cannot be loaded.") from error
        self._server = server
        self._backend = LlamaCpp(
            server.listening_address,
            key,
            defaults=wanted.defaults,
            proof=self._proof,
            spilled=wanted.spilled,
        )
        await self._backend.start()

    async def stop(self) -> None:
        """Unload the model, which waits for the server's threads."""
        if self._server is not None:
            await self._backend.stop()
            await asyncio.to_thread(self._unload)
        self._files.close()

    async def check(self) -> None:
        """Ask whether the model answers."""
        await self._backend.check()

    async def prepare(self, prompt: Prompt) -> Renderings:
        """Render, and have the slot compute all that precedes the answer."""
        return await self._backend.prepare(prompt)

    def generate(self, prompt: Prompt) -> AsyncGenerator[Sequence[Produced], None]:
        """Answer in the conversation's slot."""
        return self._backend.generate(prompt)

    def _spill_directory(self) -> str:
        """Make a directory for saved slots that goes when the model does. Raises `ModelError`."""
        place = self._wanted.spill_directory
        try:
            return self._files.enter_context(TemporaryDirectory(prefix="turnwire-", dir=place))
        except OSError as error:
            raise ModelError("server_error", f"Nothing can be saved in {place}.") from error

    def _unload(self) -> None:
        self._server = None


def _serve(model: EmbeddedModel, key: str, spill: str | None) -> xllamacpp.Server:
    params = xllamacpp.CommonParams()
    params.model.path = str(model.weights)
    params.model_alias = {model.name}
    params.verbosity = model.verbosity
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.api_keys = [key]
    params.ui = False
    params.endpoint_slots = True
    if spill:
        params.slot_save_path = f"{spill}{os.sep}"
    params.n_ctx = model.context
    params.n_parallel = model.slots
    params.cache_ram_mib = 0  # a cache beside the slots, which knows no tenants
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = model.threads
    return xllamacpp.Server(params)
