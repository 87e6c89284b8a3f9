from collections.abc import Sequence
from pathlib import Path

import orjson
from rich.console import Console

from service.bench.report import as_json, table
from service.bench.rows import Row, Size, rows
from service.bench.subjects import Candidate, candidates
from service.bench.turns import Point, Spent
from service.errors import ModelError
from tests.vocabularies import KEEPS_THOUGHTS, tiny_files

SMALL = Size(12, 3000)


async def last_rows(found: Sequence[Candidate]) -> list[Row]:
    return list({row.name: row async for row in rows(found, SMALL)}.values())


def shown(row: Row) -> str:
    console = Console(width=160)
    with console.capture() as capture:
        console.print(table([row], SMALL))
    return capture.get()


def missing() -> Candidate:
    def load() -> None:
        raise ModelError("server_error", "It is not here.")

    return Candidate("absent", load)  # type: ignore[arg-type]


async def test_a_row_grows_place_by_place() -> None:
    grown = [len(row.points) async for row in rows(candidates([], ["chat_ml"]), SMALL)]
    assert grown == list(range(len(SMALL.measured) + 1))


async def test_conversations_have_about_as_many_tokens_as_they_should() -> None:
    size = Size(60, 60_000)
    *_, row = [row async for row in rows(candidates([], ["jinja"]), size)]
    assert 0.8 < row.points[-1].tokens / 60_000 < 1.2


async def test_what_cannot_be_loaded_says_why() -> None:
    (row,) = await last_rows([missing()])
    assert row.missing == "It is not here."
    assert "It is not here." in shown(row)
    assert not row.differs


async def test_templates_of_the_library_are_told_in_vocabularies_made_for_them() -> None:
    (row,) = await last_rows(candidates([], ["qwen3.5"]))
    assert row.additive
    assert {point.outcome for point in row.points} == {"identical"}


async def test_without_names_there_is_one_template_of_each_family() -> None:
    names = {one.name for one in candidates([], [])}
    assert {"chat_ml", "jinja", "harmony"} < names
    assert len([name for name in names if name.startswith("glm")]) == 1
    assert len(candidates([], ["glm"])) > 1


async def test_models_of_the_operators_are_told_as_in_service(tmp_path: Path) -> None:
    for name, file in tiny_files(KEEPS_THOUGHTS).items():
        (tmp_path / name).write_bytes(file)
    (row,) = await last_rows(candidates([tmp_path], []))
    assert row.name == tmp_path.name
    assert row.additive
    assert not row.differs


async def test_machines_are_told_all_figures() -> None:
    told = orjson.loads(as_json(await last_rows(candidates([], ["chat_ml"])), SMALL))
    (renderer,) = told["renderers"]
    assert [turn["turn"] for turn in renderer["turns"]] == SMALL.measured
    assert all(turn["ids"] == "identical" for turn in renderer["turns"])
    assert all(turn["at_once_cpu_us"] > 0 for turn in renderer["turns"])
    assert told["turns"] == SMALL.turns


def test_ids_that_differ_are_said_loudly() -> None:
    point = Point(2, 10, Spent(0.001, 0.001), Spent(0.01, 0.01), "not_additive")
    row = Row("odd", True, (point,))
    assert row.differs
    assert "OTHER IDS" in shown(row)
    assert not Row("odd", True, (point._replace(outcome="respelled"),)).differs
