"""Run a recipe: resolve it, print it, build its task, train.

`revisage train RECIPE [--dry-run] [--set table.key=value] [--out DIR]` comes here, and so does
`python -m revisage.training.train`. The resolved recipe is written beside the weights, so that a
run can be run again; a run that was stopped continues where it was.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from revisage.errors import OutputError, RecipeError
from revisage.training.recipe import Run, read_recipe, recipe_path, section

__all__ = ["main", "resolve", "task_module", "task_names", "train", "write_toml"]


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

    `[run]` is `Run`. Any other table is the task module's dataclass of that name in capitals
    (`[data]` is `Data`); its defaults are filled in too, and a table without one is kept as it is.
    """
    run = section(recipe, "run", Run)
    module = task_module(run.task)
    resolved = {"run": dataclasses.asdict(run)}
    kinds = {
        name.lower(): kind
        for name, kind in vars(module).items()
        if isinstance(kind, type) and dataclasses.is_dataclass(kind) and name.istitle()
    }
    own = {name: kind for name, kind in kinds.items() if kind.__module__ == module.__name__}
    for name in sorted(({*recipe} | {*own}) - {"run"}):
        if name in own:
            resolved[name] = dataclasses.asdict(section(recipe, name, own[name]))
        else:
            resolved[name] = dict(recipe[name])
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
    tables = []
    for name, table in recipe.items():
        lines = [f"{key} = {_toml_value(value)}" for key, value in table.items()]
        tables.append("\n".join([f"[{name}]", *lines]))
    return "\n\n".join(tables) + "\n"


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
        overrides: `table.key=value`, in TOML syntax.
        out: folder of the run; None takes `runs/<recipe>`.
        dry_run: print the resolved recipe and stop.
        device: torch device.

    Raises:
        RecipeError: no such recipe or task, an unknown key or an impossible value.
        OutputError: the folder cannot be written.
    """
    path = recipe_path(recipe)
    resolved = resolve(read_recipe(path, overrides))
    text = write_toml(resolved)
    print(text, end="", flush=True)
    if dry_run:
        return 0
    from revisage.training.loop import fit

    folder = out if out is not None else Path("runs") / path.stem
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "recipe.toml").write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written ({error.strerror})") from error
    run = section(resolved, "run", Run)
    task = task_module(run.task).build(resolved)
    figures = fit(task, run, folder, device=device)
    print(f"\n{folder / 'weights.safetensors'}")
    for name, value in figures.items():
        print(f"  {name}: {value:.4g}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Command line of `python -m revisage.training.train`; see `train`."""
    parser = argparse.ArgumentParser(prog="revisage train", description="Run a training recipe.")
    parser.add_argument("recipe")
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args(argv)
    return train(
        args.recipe, args.overrides, out=args.out, dry_run=args.dry_run, device=args.device
    )


if __name__ == "__main__":
    raise SystemExit(main())
