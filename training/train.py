"""Run a recipe: resolve it, print it, build its task, train.

`revisage train RECIPE [--dry-run] [--set table.key=value] [--out DIR]` comes here, and so does
`python -m revisage.training.train`, which torchrun can start several times. The resolved recipe is
written beside the weights, so that a run can be run again; a run that was stopped continues where
it was.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import os
import pkgutil
import re
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from revisage.errors import OutputError, RecipeError, RevisageError
from revisage.training.recipe import (
    Optimiser,
    Run,
    optimiser,
    read_recipe,
    recipe_names,
    recipe_path,
    section,
)

__all__ = [
    "list_recipes",
    "main",
    "resolve",
    "run_recipe",
    "task_module",
    "task_names",
    "train",
    "write_toml",
]

TABLES = {"model": "Model", "data": "Data", "loss": "Loss"}  # and the task's dataclass of each


def task_names() -> tuple[str, ...]:
    """Names of the tasks that a recipe's `[run] task` may state."""
    import revisage.training.tasks as tasks

    return tuple(sorted(found.name for found in pkgutil.iter_modules(tasks.__path__)))


def task_module(name: str) -> ModuleType:
    """The module `revisage.training.tasks.<name>`, which has `build(recipe)`.

    Raises:
        RecipeError: there is no such task.
    """
    if name not in task_names():
        raise RecipeError(f"[run] task: no task {name!r}; known: {', '.join(task_names())}")
    module = importlib.import_module(f"revisage.training.tasks.{name}")
    if not callable(getattr(module, "build", None)):
        raise RecipeError(f"revisage.training.tasks.{name} has no build(recipe)")
    return module


def resolve(recipe: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """A recipe with every default filled in.

    `[run]` is `Run`, each `[optimiser.NAME]` is `Optimiser` with the defaults of `[run]`, and
    `[model]`, `[data]` and `[loss]` are the task module's dataclasses `Model`, `Data` and `Loss`.

    Raises:
        RecipeError: an unknown table, task or key, or an impossible value.
    """
    run = section(recipe, "run", Run)
    module = task_module(run.task)
    kinds = {
        table: getattr(module, kind)
        for table, kind in TABLES.items()
        if dataclasses.is_dataclass(getattr(module, kind, None))
    }
    known = ("run", "optimiser", *kinds)
    unknown = sorted(set(recipe) - set(known))
    if unknown:
        raise RecipeError(f"unknown table {', '.join(unknown)}; known: {', '.join(known)}")
    shared = {field.name for field in dataclasses.fields(Optimiser)}
    own_first = sorted(dataclasses.asdict(run).items(), key=lambda item: item[0] in shared)
    resolved = {"run": dict(own_first)}
    optimisers = recipe.get("optimiser", {})
    if optimisers:
        resolved["optimiser"] = {
            name: dataclasses.asdict(optimiser(run, name, table))
            for name, table in optimisers.items()
        }
    for table, kind in kinds.items():
        resolved[table] = dataclasses.asdict(section(recipe, table, kind))
    return resolved


def _toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_toml_value(item) for item in value)}]"
    return repr(value)


def write_toml(recipe: Mapping[str, Mapping[str, Any]]) -> str:
    """A resolved recipe as TOML."""
    tables = {}
    for name, table in recipe.items():
        if name == "optimiser":
            tables.update({f"optimiser.{key}": inner for key, inner in table.items()})
        else:
            tables[name] = table
    return "\n".join(
        "\n".join([f"[{name}]", *(f"{k} = {_toml_value(v)}" for k, v in table.items())]) + "\n"
        for name, table in tables.items()
    )


def list_recipes() -> str:
    """The recipes that ship, one per line with the first sentence of its comment."""
    lines = []
    for name in recipe_names():
        comment, _, _ = recipe_path(name).read_text(encoding="utf-8").partition("\n\n")
        paragraph, _, _ = comment.partition("\n#\n")
        words = " ".join(line.removeprefix("#").strip() for line in paragraph.splitlines())
        first = re.split(r"(?<=\.)\s+(?=[A-Z])", words)[0]  # "et al. 2018" goes on
        lines.append((name, textwrap.shorten(first, 110, placeholder=" ...")))
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"{name:<{width}}  {text}".rstrip() for name, text in lines)


def train(
    recipe: str,
    overrides: Sequence[str] = (),
    *,
    out: Path | None = None,
    dry_run: bool = False,
    device: str = "cpu",
) -> int:
    """Train by a recipe; returns the exit code.

    Args:
        recipe: a .toml file, or the name of a recipe that ships.
        overrides: `table.key=value` or `optimiser.NAME.key=value`, in TOML syntax.
        out: folder of the run; None takes `runs/<recipe>`.
        dry_run: print the resolved recipe and stop.
        device: torch device.

    Raises:
        RecipeError: no such recipe or task, an unknown key or an impossible value.
        OutputError: the folder cannot be written.

    Ctrl-C says where the run can go on from, and returns 130.
    """
    path = recipe_path(recipe)
    resolved = resolve(read_recipe(path, overrides))
    if _first():
        print(write_toml(resolved), flush=True)
    if dry_run:
        return 0
    folder = out if out is not None else Path("runs") / path.stem
    try:
        figures = run_recipe(resolved, folder, device=device, progress=True)
    except KeyboardInterrupt:
        kept = folder / "state.pt"
        last = f"the same command goes on from {kept}" if kept.exists() else "nothing was saved yet"
        if _first():
            print(f"revisage: interrupted; {last}", file=sys.stderr)
        return 130
    if _first():
        print(f"\n{folder / 'weights.safetensors'}")
        for name, value in figures.items():
            print(f"  {name}: {value:.4g}")
    return 0


def _first() -> bool:
    """Whether this is the first, or the only one, of the processes that torchrun started."""
    return os.environ.get("RANK", "0") == "0"


def run_recipe(
    resolved: Mapping[str, Mapping[str, Any]],
    folder: Path,
    *,
    device: str = "cpu",
    progress: bool = False,
) -> dict[str, float]:
    """Train by a resolved recipe, or go on with it, and write it beside the weights.

    Args:
        resolved: what `resolve` gave.
        folder: where the run is written.
        device: torch device.
        progress: print a line whenever one is logged.

    Returns:
        The last validation figures.

    Raises:
        RecipeError: an impossible value, or a task that cannot be built by it.
        OutputError: the folder cannot be written.
    """
    import torch

    from revisage.training.loop import fit

    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder}: is a file; name a folder for the run")
    run = section(resolved, "run", Run)
    torch.manual_seed(run.seed)  # the first weights are a function of the recipe too
    task = task_module(run.task).build(resolved)
    if progress and _first():
        for name, note in task.notes.items():
            print(f"{name}: {note}", flush=True)

    def show(line: Mapping[str, float]) -> None:
        watched = f"{task.watch} {line[task.watch]:.4g}  " if task.watch in line else ""
        print(f"{line['step']}/{run.steps}  {watched}{line['samples_s']:.3g} samples/s", flush=True)

    return fit(
        task,
        run,
        folder,
        optimisers=resolved.get("optimiser"),
        device=device,
        progress=show if progress else None,
        beside={"recipe.toml": write_toml(resolved)},
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Command line of `python -m revisage.training.train`; see `train`."""
    parser = argparse.ArgumentParser(prog="revisage train", description="Run a training recipe.")
    parser.add_argument("recipe", nargs="?")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args(argv)
    if args.list:
        print(list_recipes())
        return 0
    if args.recipe is None:
        parser.error("give a RECIPE, or --list")
    try:
        return train(
            args.recipe, args.overrides, out=args.out, dry_run=args.dry_run, device=args.device
        )
    except RevisageError as error:
        print(f"revisage: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
