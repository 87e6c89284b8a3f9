"""The command line: `turnwire serve`, `demo`, `models`, `keys`, `bench`."""

import base64
import itertools
import secrets
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
import uvloop
from pydantic import ValidationError
from pydantic_core import ErrorDetails
from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.table import Table
from rich.text import Text

from compare.agent import AgentFailed
from compare.clients import Disconnected
from compare.demo import demo as play
from service import logs, models
from service.audit.places import BadJournal
from service.bench.report import as_json, table
from service.bench.rows import Row, Size, rows
from service.bench.subjects import Candidate, candidates
from service.config import Config, settings_table
from service.errors import ModelError
from service.identity.keys import new_key
from service.identity.live_files import BadFile
from service.serve import Service, embedded, roster_of, running, serve
from service.servers import Roster
from service.servers.detection import Found, detect
from service.servers.file import BadModelsFile
from service.store import StoreUnavailable
from service.store.sqlite.file import BadStoreFile
from service.usage import table as usage_table
from service.usage import totals

app = typer.Typer(
    help="Keep agents' conversations in memory next to the model: the Responses API over "
    "WebSockets and gRPC. Everything is configured by TURNWIRE_* variables: 'turnwire settings'.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
models_app = typer.Typer(
    help="The embedded models, and the model servers on this machine.", no_args_is_help=True
)
keys_app = typer.Typer(help="The keys of clients.", no_args_is_help=True)
bench_app = typer.Typer(help="What things cost on this machine.", no_args_is_help=True)
app.add_typer(models_app, name="models")
app.add_typer(bench_app, name="bench")
app.add_typer(keys_app, name="keys")
console = Console(stderr=True)

_UNNAMED = {"auto", "embedded"}
"""Where no model server is named."""
_OPEN = dict.fromkeys(
    (
        "api_keys_file",
        "jwt_issuer",
        "jwt_audience",
        "certificate_names_file",
        "tls_certificate_file",
    )
)
"""Settings that a demo of one's own has no use for."""
_PAGE = 140  # characters, where there is no terminal

BackendName = Annotated[
    str | None,
    typer.Option(
        "--backend",
        help="embedded (default), auto (whatever listens on this machine, or what listens at --url), "
        "simulator, or the model server's kind: llama.cpp, vllm, sglang, ollama, openai...",
    ),
]
BackendUrl = Annotated[
    str | None,
    typer.Option(
        "--url",
        help="Where the model server listens; by default at its usual port on this machine.",
    ),
]
ModelsFile = Annotated[
    str | None,
    typer.Option("--models", help="A file that lists model servers and their models."),
]


@app.command("serve")
def serve_command(
    backend: BackendName = None, url: BackendUrl = None, models: ModelsFile = None
) -> None:
    """Serve until SIGTERM or Ctrl-C; turns that run are finished first."""
    config = _config({"backend": backend, "backend_url": url, "models_file": models})
    _run(serve(config, _roster(config), _announce))


@app.command("demo")
def demo_command(
    backend: BackendName = None, url: BackendUrl = None, models: ModelsFile = None
) -> None:
    """Start a service on free ports and watch an agent use it, over WebSocket and over gRPC."""
    free = "127.0.0.1:0"
    ports = ("http_address", "grpc_address", "health_address", "operations_address")
    quiet = {"log_level": "warning", **dict.fromkeys(ports, free)}
    given = {"backend": backend, "backend_url": url, "models_file": models, **quiet}
    config = _config(given).model_copy(update=_OPEN)
    _run(_demo(config, _roster(config)))


@app.command("settings")
def settings_command() -> None:
    """List all settings with their defaults, as Markdown."""
    typer.echo(settings_table())


@models_app.command("pull")
def pull_command(name: str = models.SMOLLM2.name) -> None:
    """Fetch a model's weights into the cache, and verify them."""
    try:
        path = models.find(name) or _fetch(name)
    except ModelError as error:
        _stop(error.message)
    console.print(f"{name} is in {path}")


@models_app.command("list")
def list_command() -> None:
    """List the models that can be embedded."""
    for name in models.MODELS:
        typer.echo(f"{name}\t{models.find(name) or 'not fetched'}")


@models_app.command("detect")
def detect_command() -> None:
    """Show which model servers listen on this machine."""
    if found := uvloop.run(detect()):
        console.print(_table(found))
    else:
        _stop("No model server was found on this machine.")


@keys_app.command("new")
def new_command(tenant: str) -> None:
    """Make a key for a tenant. Append the line to the file in TURNWIRE_API_KEYS_FILE."""
    try:
        key, line = new_key(tenant)
    except ValueError as error:
        _stop(str(error))
    console.print("The key, for the client; it is shown only now:")
    typer.echo(key)
    console.print("The line, for the key file:")
    typer.echo(line)


@keys_app.command("sealing")
def sealing_command() -> None:
    """Make a key for sealing. Put the line first in the file in TURNWIRE_SEALING_KEYS_FILE."""
    typer.echo(base64.b64encode(secrets.token_bytes(32)).decode())


@app.command("usage")
def usage_command(
    journals: Annotated[list[Path], typer.Argument(help="Files of a journal, rotated ones too.")],
) -> None:
    """Show what each tenant has used, from a journal's files."""
    try:
        told = totals(itertools.chain.from_iterable(map(_lines, journals)))
    except OSError as error:
        _stop(str(error))
    screen = Console()
    screen.width = screen.width if screen.is_terminal else _PAGE
    screen.print(usage_table(told))


@bench_app.command("render")
def bench_render_command(
    files: Annotated[
        list[Path] | None,
        typer.Option(help="A directory with a model's tokenizer and template; may be repeated."),
    ] = None,
    renderer: Annotated[
        list[str] | None,
        typer.Option(help="What a renderer's name begins with; may be repeated."),
    ] = None,
    turns: Annotated[int, typer.Option(min=2, help="Turns of the conversation.")] = 200,
    tokens: Annotated[int, typer.Option(min=1000, help="Tokens of the conversation.")] = 100_000,
    json: Annotated[bool, typer.Option("--json", help="Print JSON at the end.")] = False,  # noqa: FBT002
) -> None:
    """Show what a turn's prompt costs: rendered turn by turn, and at once. Fails if their ids differ.

    Without files it makes vocabularies, and takes one template of each family.
    """
    logs.configure("error", "console")
    if not (found := candidates(files or [], renderer or [])):
        _stop("There is no renderer of that name.")
    size = Size(turns, tokens)
    told = uvloop.run(_benched(found, size, console if json else Console()))
    if json:
        typer.echo(as_json(told, size))
    if any(row.differs for row in told):
        _stop("Rendered turn by turn, a conversation came to other ids than at once.")


def main() -> None:
    """Run the command line."""
    app()


async def _demo(config: Config, roster: Roster) -> None:
    async with running(config, roster) as service:
        await play(
            service.websocket_url,
            service.grpc_target,
            None,
            console=Console(),
            model=service.models[0],
        )


async def _benched(found: Sequence[Candidate], size: Size, screen: Console) -> Sequence[Row]:
    """Show rows while they grow, and return them. What is no terminal is shown them once, at the end."""
    told: dict[str, Row] = {}
    screen.width = screen.width if screen.is_terminal else _PAGE
    with Live(console=screen, auto_refresh=False, vertical_overflow="visible") as live:
        async for row in rows(found, size):
            told[row.name] = row
            live.update(table(told.values(), size), refresh=screen.is_terminal)
    screen.print()
    return list(told.values())


def _lines(journal: Path) -> Iterator[bytes]:
    with journal.open("rb") as file:
        yield from file


def _run(work: Coroutine[Any, Any, None]) -> None:
    """Run to the end on uvloop. What an operator can mend is said in a sentence."""
    try:
        uvloop.run(work)
    except ModelError as error:
        _stop(error.message)
    except StoreUnavailable as error:
        _stop(" ".join(error.__notes__))
    except (OSError, BadFile, BadStoreFile, BadJournal, AgentFailed, Disconnected) as error:
        _stop(str(error))
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def _config(overrides: Mapping[str, str | None]) -> Config:
    """Read the configuration. A bad one stops the process with a list of what is wrong."""
    given: dict[str, Any] = {name: value for name, value in overrides.items() if value}
    try:
        config = Config(**given)
    except ValidationError as error:
        _stop("\n".join(map(_problem, error.errors(include_input=False, include_url=False))))
    logs.configure(config.log_level, config.log_format)
    return config


def _problem(error: ErrorDetails) -> str:
    name = f"TURNWIRE_{error['loc'][0]}: ".upper() if error["loc"] else ""
    return name + error["msg"].removeprefix("Value error, ")


def _roster(config: Config) -> Roster:
    """Find out which model servers there are to be. What an operator can mend is said in a sentence."""
    try:
        if config.models_file or config.backend_url or config.backend not in _UNNAMED:
            return roster_of(config)
    except BadModelsFile as error:
        _stop(str(error))
    if config.backend == "auto":
        if found := uvloop.run(detect()):
            console.print(_table(found))
            return Roster(servers=[one.server for one in found], strict=True)
        console.print("No model server was found on this machine: the model is embedded.")
    return _embedded(config)


def _embedded(config: Config) -> Roster:
    """Have a model in this process; fetch its weights if they are not there yet."""
    weights = Path(config.model)
    if config.model in models.MODELS:
        try:
            weights = models.find(config.model) or _fetch(config.model)
        except ModelError as error:
            _stop(error.message)
    elif not weights.is_file():
        _stop(f"{config.model} is neither a file nor one of {', '.join(models.MODELS)}.")
    return embedded(config, weights)


def _fetch(name: str) -> Path:
    columns = (TextColumn("Fetching {task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, TransferSpeedColumn(), console=console) as progress:
        task = progress.add_task(name, total=None)
        return models.fetch(
            name, lambda done, total: progress.update(task, completed=done, total=total)
        )


def _table(found: Sequence[Found]) -> Table:
    table = Table("address", "kind", "models", title="Model servers on this machine")
    for one in found:
        table.add_row(one.url, one.kind, Text(", ".join(one.models)))
    return table


def _announce(service: Service) -> None:
    lines = (
        ("WebSocket", service.websocket_url),
        ("HTTP", service.http_url),
        ("gRPC", service.grpc_target),
        ("metrics", f"{service.operations_url}/metrics"),
        ("models", ", ".join(service.models)),
    )
    for name, value in lines:
        console.print(f"  [bold]{name:<10}[/] {value}", highlight=False, soft_wrap=True)


def _stop(message: str) -> NoReturn:
    console.print(message, style="red", highlight=False, markup=False, soft_wrap=True)
    raise typer.Exit(1)


if __name__ == "__main__":
    main()
