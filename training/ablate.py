"""The papers' tables, run at a chosen scale.

A table is a TOML file in `training/tables`: columns, and rows that are a recipe plus overrides.
Every row is trained by its recipe and judged by its task's validation figures; the table is printed
in the paper's shape, the paper's own figure in parentheses beside ours wherever the file holds one
with its source. Rows that need no training (bicubic, Telea, ...) take figures that another row's
validation measured on the same pictures.

`revisage ablate NAME [--scale tiny|small|paper]` comes here. A row that is done is not run again,
and one that was stopped continues where it was.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from revisage.errors import OutputError, RecipeError
from revisage.training.recipe import overridden, read_recipe, recipe_path
from revisage.training.train import resolve, run_recipe, task_module, write_toml

__all__ = [
    "SCALES",
    "Column",
    "Row",
    "Table",
    "ablate",
    "format_table",
    "read_table",
    "row_recipe",
    "table_names",
]

# "paper" is the recipe as it stands; the others are the task module's overrides of that name.
SCALES = ("tiny", "small", "paper")
Recipe = dict[str, dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Column:
    """One measure of a table."""

    key: str  # of the validation figures, "psnr"
    title: str  # as the paper heads it
    better: str  # "higher" or "lower"
    digits: int = 2
    # Taken, and marked with *, where a run had no published network for `key`: "lpips_stand_in".
    stand_in: str = ""


@dataclasses.dataclass(frozen=True)
class Row:
    """One method of a table: either a recipe with overrides, or figures of another row."""

    label: str
    recipe: str = ""
    set: tuple[str, ...] = ()  # table.key=value, as for `revisage train --set`
    of: str = ""  # label of the row whose validation measured this one too
    prefix: str = ""  # ... under keys that begin with this, "bicubic_"
    paper: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Table:
    """One table of one paper."""

    name: str
    title: str
    paper: str  # citation
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    source: str = ""  # where the paper's figures were read
    note: str = ""  # what of it is ours


def _folder() -> Path:
    return Path(__file__).parent / "tables"


def table_names(name: str = "") -> tuple[str, ...]:
    """Names of the tables that ship: all, one, or those of a family ("wrinkles").

    Raises:
        RecipeError: there is none of that name.
    """
    known = tuple(sorted(path.stem for path in _folder().glob("*.toml")))
    if not name:
        return known
    found = tuple(
        stem for stem in known if stem == name or re.fullmatch(re.escape(name) + r"_\d+", stem)
    )
    if not found:
        raise RecipeError(f"no table {name!r}; known: {', '.join(known)}")
    return found


def _fields(kind: type, given: Mapping[str, Any], where: str) -> dict[str, Any]:
    fields = {field.name: field for field in dataclasses.fields(kind)}
    unknown = sorted(set(given) - set(fields))
    if unknown:
        raise RecipeError(f"{where}: unknown {', '.join(unknown)}; known: {', '.join(fields)}")
    return {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}


def read_table(name: str) -> Table:
    """A table that ships, checked.

    Raises:
        RecipeError: unknown keys, a row without figures, or a duplicate label.
    """
    path = _folder() / f"{name}.toml"
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecipeError(f"no table {name!r}; known: {', '.join(table_names())}") from None
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{path}: not a readable table ({error})") from error
    columns, rows = content.pop("columns", []), content.pop("rows", [])
    try:
        table = Table(
            name=name,
            columns=tuple(Column(**_fields(Column, column, path.name)) for column in columns),
            rows=tuple(Row(**_fields(Row, row, path.name)) for row in rows),
            **_fields(Table, content, path.name),
        )
    except TypeError as error:
        raise RecipeError(f"{path}: not a table ({error})") from error
    labels = [row.label for row in table.rows]
    if len(set(labels)) != len(labels) or not table.columns:
        raise RecipeError(f"{path}: needs columns, and rows of different labels")
    keys = {column.key for column in table.columns}
    for row in table.rows:
        if bool(row.recipe) == bool(row.of) or (row.of and row.of not in labels):
            raise RecipeError(f"{path}: row {row.label!r} needs a recipe, or `of` another row")
        if set(row.paper) - keys or (row.paper and not table.source):
            raise RecipeError(
                f"{path}: row {row.label!r}: paper figures need a column and a source"
            )
    return table


def row_recipe(row: Row, scale: str, overrides: Sequence[str] = ()) -> Recipe:
    """The resolved recipe of a row: its recipe, then the scale, then the row, then the user.

    Raises:
        RecipeError: an unknown scale, key or task.
    """
    if scale not in SCALES:
        raise RecipeError(f"no scale {scale!r}; known: {', '.join(SCALES)}")
    path = recipe_path(row.recipe)
    recipe = read_recipe(path)
    if scale != "paper":
        module = task_module(str(recipe.get("run", {}).get("task", "")))
        recipe = overridden(recipe, getattr(module, scale.upper()))
    return resolve(read_recipe(path, [*row.set, *overrides], start=recipe))


def _slug(label: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", label.lower()).strip("_")


def _run_row(row: Row, recipe: Recipe, folder: Path, device: str) -> dict[str, float]:
    """Figures of one row; those of a finished run of the same recipe are read, not run again."""
    text = write_toml(recipe)
    digest = hashlib.sha256(text.encode()).hexdigest()
    done = folder / "figures.json"
    if done.exists():
        kept = json.loads(done.read_text(encoding="utf-8"))
        if kept["recipe_sha256"] == digest:
            return {key: float(value) for key, value in kept["figures"].items()}
        raise OutputError(
            f"{folder} holds another run of row {row.label!r}: remove it, or give another --out"
        )
    figures = run_recipe(recipe, folder, device=device)
    partial = done.with_suffix(".partial")
    content = {"label": row.label, "recipe_sha256": digest, "figures": figures}
    partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    os.replace(partial, done)
    return figures


def _cell(column: Column, figures: Mapping[str, float], paper: float | None) -> str:
    marked = column.key not in figures and column.stand_in in figures
    value = figures.get(column.stand_in if marked else column.key, math.nan)
    ours = f"{value:.{column.digits}f}{'*' if marked else ''}" if math.isfinite(value) else "failed"
    return ours if paper is None else f"{ours} ({paper:.{column.digits}f})"


def format_table(table: Table, figures: Mapping[str, Mapping[str, float]], scale: str) -> str:
    """A table as Markdown: ours, and in parentheses the paper's where it is known.

    Args:
        figures: label -> validation figures.
    """
    arrows = {"higher": "↑", "lower": "↓"}
    head = ["", *(f"{column.title} {arrows[column.better]}" for column in table.columns)]
    lines = [head, ["---", *(["--:"] * len(table.columns))]]
    for row in table.rows:
        cells = [
            _cell(column, figures[row.label], row.paper.get(column.key)) for column in table.columns
        ]
        lines.append([row.label, *cells])
    body = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    known = any(row.paper for row in table.rows)
    beside = (
        f"in parentheses: the paper ({table.source})"
        if known
        else ("the paper's figures are not stated here: no copy of the table was at hand")
    )
    notes = [f"Scale: {scale}; {beside}.", *([table.note] if table.note else [])]
    if "*" in body:
        notes.append("\\* measured with the stand-in network, not with the published one.")
    return f"### {table.title}\n\n{table.paper}\n\n{body}\n\n" + "\n\n".join(notes) + "\n"


def ablate(
    name: str,
    *,
    scale: str = "small",
    overrides: Sequence[str] = (),
    out: Path | None = None,
    device: str = "cpu",
    dry_run: bool = False,
) -> int:
    """Run a table, or all tables of a family, and print them; returns the exit code.

    Args:
        name: of a table ("wrinkles_1") or of a family ("wrinkles").
        scale: "tiny" (seconds a row: shows that every row runs), "small", or "paper".
        overrides: `table.key=value`, for every row.
        out: folder of the runs, `table.md` and `table.json`; None takes `runs/ablate/<scale>`.
        dry_run: print the resolved recipe of every row and stop.

    Raises:
        RecipeError: no such table or scale, or an override that a row's recipe does not know.
        OutputError: the folder cannot be written, or holds other runs.
    """
    base = out if out is not None else Path("runs") / "ablate" / scale
    tables = [read_table(found) for found in table_names(name)]
    # Every row is resolved first: a mistake shows before hours of training, not after.
    recipes = {
        (table.name, row.label): row_recipe(row, scale, overrides)
        for table in tables
        for row in table.rows
        if row.recipe
    }
    if dry_run:
        for (table_name, label), recipe in recipes.items():
            print(f"# {table_name}: {label}\n{write_toml(recipe)}")
        return 0
    for table in tables:
        folder = base / table.name
        trained: dict[str, dict[str, float]] = {}
        for row in table.rows:
            if row.recipe:
                print(f"== {table.name}: {row.label}", flush=True)
                try:
                    (folder / _slug(row.label)).mkdir(parents=True, exist_ok=True)
                except OSError as error:
                    raise OutputError(f"{folder}: cannot be written ({error.strerror})") from error
                recipe = recipes[table.name, row.label]
                trained[row.label] = _run_row(row, recipe, folder / _slug(row.label), device)
        figures = dict(trained)
        for row in table.rows:
            if row.of:
                measured = trained[row.of]
                figures[row.label] = {
                    key.removeprefix(row.prefix): value
                    for key, value in measured.items()
                    if key.startswith(row.prefix)
                }
        text = format_table(table, figures, scale)
        print(f"\n{text}", flush=True)
        (folder / "table.md").write_text(text, encoding="utf-8")
        content = {"table": table.name, "scale": scale, "figures": figures}
        (folder / "table.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return 0
