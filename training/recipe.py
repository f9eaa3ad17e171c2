"""Recipes: a training run as a short TOML file.

A recipe has a `[run]` table (the fields of `Run`) and free tables for the task (`[model]`,
`[data]`, `[loss]`), each a frozen dataclass of the task. Unknown keys are errors, types must match,
and what was resolved is written beside the weights.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from revisage.errors import RecipeError

__all__ = ["Run", "read_recipe", "recipe_path", "section"]

Settings = TypeVar("Settings")


@dataclasses.dataclass(frozen=True)
class Run:
    """How long and how to optimise, the same for every task."""

    task: str  # name in revisage.training.tasks
    steps: int
    batch: int
    learning_rate: float
    warmup_steps: int = 100
    final_learning_rate: float = 0.0  # cosine from learning_rate down to this
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    ema_decay: float = 0.999
    precision: str = "fp32"  # "fp32" or "bf16" (autocast)
    seed: int = 0
    threads: int = 0  # 0 leaves torch's own choice
    prefetch: int = 4  # batches made ahead, in one background thread
    log_every: int = 50
    validate_every: int = 1000
    save_every: int = 500


def recipe_path(name: str) -> Path:
    """Path of a recipe: a file, or the name of one that ships beside this module."""
    given = Path(name)
    if given.suffix == ".toml" and given.exists():
        return given
    folder = Path(__file__).parent / "recipes"
    shipped = folder / f"{given.stem}.toml"
    if shipped.exists():
        return shipped
    known = ", ".join(sorted(p.stem for p in folder.glob("*.toml")))
    raise RecipeError(f"no recipe {name!r}: give a .toml file or one of {known}")


def read_recipe(path: Path, overrides: Sequence[str] = ()) -> dict[str, dict[str, Any]]:
    """Read a recipe and apply `table.key=value` overrides (values in TOML syntax)."""
    try:
        recipe: dict[str, dict[str, Any]] = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RecipeError(f"{path}: not a readable TOML recipe ({error})") from error
    for override in overrides:
        name, equals, text = override.partition("=")
        table, dot, key = name.strip().partition(".")
        if not equals or not dot:
            raise RecipeError(f"override {override!r} is not of the form table.key=value")
        try:
            value = tomllib.loads(f"v = {text}")["v"]
        except tomllib.TOMLDecodeError:
            value = text.strip()
        recipe.setdefault(table, {})[key] = value
    for table, content in recipe.items():
        if not isinstance(content, dict):
            raise RecipeError(f"{path}: {table!r} stands outside a table such as [run]")
    return recipe


def section(recipe: Mapping[str, Mapping[str, Any]], name: str, kind: type[Settings]) -> Settings:
    """One table of a recipe as a frozen dataclass; unknown keys and wrong types are errors."""
    given = dict(recipe.get(name, {}))
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(set(given) - set(fields))
    if unknown:
        raise RecipeError(f"[{name}]: unknown {', '.join(unknown)}; known: {', '.join(fields)}")
    missing = [
        key
        for key, field in fields.items()
        if key not in given
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise RecipeError(f"[{name}]: missing {', '.join(missing)}")
    for key, value in given.items():
        wanted = str(fields[key].type)
        if isinstance(value, list):
            given[key] = tuple(value)
        elif wanted == "float" and isinstance(value, int) and not isinstance(value, bool):
            given[key] = float(value)
        elif wanted in {"int", "float", "str", "bool"} and type(value).__name__ != wanted:
            raise RecipeError(f"[{name}] {key}: expected {wanted}, got {value!r}")
    return kind(**given)
