"""The papers' tables: every row resolves at every scale, and runs at the tiny one."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from revisage.cli import main
from revisage.errors import OutputError, RecipeError
from revisage.training import ablate
from revisage.training.ablate import Column, Row, Table, format_table

PAPERS = {
    "wrinkles": {1, 2, 3},
    "style_retoucher": {1, 2},
    "unmask": {3, 4, 5, 6, 7, 8, 9},
    "skip_inpainting": {1, 2},
    "gfrnet": {1},
}


def test_every_table_of_every_paper_is_there() -> None:
    wanted = {f"{paper}_{number}" for paper, numbers in PAPERS.items() for number in numbers}
    assert set(ablate.table_names()) == wanted
    assert ablate.table_names("wrinkles") == ("wrinkles_1", "wrinkles_2", "wrinkles_3")


@pytest.mark.parametrize("name", ablate.table_names())
def test_every_row_resolves_at_every_scale(name: str) -> None:
    for row in ablate.read_table(name).rows:
        if row.recipe:
            recipes = [ablate.row_recipe(row, scale) for scale in ablate.SCALES]
            assert recipes[0]["run"]["steps"] < recipes[2]["run"]["steps"]


def test_rows_of_a_table_are_different_runs() -> None:
    for name in ablate.table_names():
        rows = [row for row in ablate.read_table(name).rows if row.recipe]
        recipes = [json.dumps(ablate.row_recipe(row, "small")) for row in rows]
        assert len(set(recipes)) == len(recipes), name


@pytest.mark.parametrize("name", ablate.table_names())
def test_every_row_runs(
    name: str, portraits_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = [
        f'data.portraits=["{portraits_folder}"]',
        "run.steps=2",
        "run.validate_every=2",
        "run.same_batch=false",
    ]
    overrides = [part for override in short for part in ("--set", override)]
    command = ["ablate", name, "--scale", "tiny", "--out", str(tmp_path), *overrides]
    assert main(command) == 0
    table = ablate.read_table(name)
    content = json.loads((tmp_path / name / "table.json").read_text(encoding="utf-8"))
    for row in table.rows:
        figures = content["figures"][row.label]
        for column in table.columns:
            value = figures.get(column.key, figures.get(column.stand_in, math.nan))
            assert math.isfinite(value), (row.label, column.key)
    printed = capsys.readouterr().out
    assert all(f"| {row.label} |" in printed for row in table.rows)
    # What is done is read back: no row is trained again.
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("weights.safetensors")}
    assert main(command) == 0
    assert before == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("weights.safetensors")}


def test_another_run_in_the_same_folder_is_refused(portraits_folder: Path, tmp_path: Path) -> None:
    common = [f'data.portraits=["{portraits_folder}"]', "run.validate_every=1"]
    ablate.ablate("unmask_8", scale="tiny", overrides=[*common, "run.steps=1"], out=tmp_path)
    with pytest.raises(OutputError, match="another run"):
        ablate.ablate("unmask_8", scale="tiny", overrides=[*common, "run.steps=2"], out=tmp_path)


def test_the_papers_figures_stand_beside_ours() -> None:
    table = Table(
        name="toy",
        title="Toy",
        paper="A. Uthor 2020",
        columns=(Column("psnr", "PSNR", "higher"), Column("l1", "L1", "lower", 3, "l1_stand_in")),
        rows=(
            Row("ours", recipe="x", paper={"psnr": 30.0}),
            Row("bicubic", of="ours", prefix="bicubic_"),
        ),
        source="table 1 of the paper",
    )
    figures = {"ours": {"psnr": 31.234, "l1_stand_in": 0.0123}, "bicubic": {"psnr": math.nan}}
    text = format_table(table, figures, "small")
    assert "| ours | 31.23 (30.00) | 0.012* |" in text
    assert "| bicubic | failed | failed |" in text
    assert "PSNR ↑" in text
    assert "table 1 of the paper" in text
    assert "stand-in" in text


def test_a_paper_figure_needs_its_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ablate, "_folder", lambda: tmp_path)
    (tmp_path / "toy.toml").write_text(
        'title = "Toy"\npaper = "P"\n[[columns]]\nkey = "psnr"\ntitle = "PSNR"\nbetter = "higher"\n'
        '[[rows]]\nlabel = "a"\nrecipe = "unmask"\npaper = { psnr = 30.0 }\n',
        encoding="utf-8",
    )
    with pytest.raises(RecipeError, match="source"):
        ablate.read_table("toy")


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["ablate", "nothing"], "no table 'nothing'"),
        (["ablate", "gfrnet_1", "--scale", "huge"], "no scale 'huge'"),
        (["ablate", "gfrnet_1", "--set", "run.stepz=1"], "unknown stepz"),
    ],
)
def test_mistakes_get_one_line(
    command: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_tables_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ablate"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == sum(len(numbers) for numbers in PAPERS.values())


def test_the_docs_name_every_table() -> None:
    page = Path(__file__).parents[2] / "docs" / "ablations.md"
    text = page.read_text(encoding="utf-8")
    for name in ablate.table_names():
        rows = [row for row in ablate.read_table(name).rows if row.recipe]
        run = ablate.row_recipe(rows[0], "small")["run"]
        cost = f"| {len(rows)} | {run['steps']} x {run['batch']} |"
        assert f"| `revisage ablate {name} --scale small` {cost}" in text
