"""Recipes: a training run as a short TOML file.

A recipe has a `[run]` table (the fields of `Run`), a table `[optimiser.NAME]` (the fields of
`Optimiser`) for each optimiser that shall differ from what `[run]` says, and the tables `[model]`,
`[data]` and `[loss]`, each a frozen dataclass of the task. Unknown keys are errors, types must
match, and what was resolved is written beside the weights.
"""

from __future__ import annotations

import copy
import dataclasses
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from revisage.errors import RecipeError

__all__ = [
    "Optimiser",
    "Run",
    "optimiser",
    "overridden",
    "read_recipe",
    "recipe_names",
    "recipe_path",
    "section",
]

Settings = TypeVar("Settings")

KINDS = ("adamw", "adam", "rmsprop", "sgd")
SCHEDULES = ("cosine", "constant", "linear", "step")
PRECISIONS = ("fp32", "bf16")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimiser:
    """One optimiser: its kind, its rate over time, its clipping.

    Every schedule begins with `warmup_steps` of linear warm-up to `learning_rate`. Then `cosine`
    falls to `final_learning_rate` at the last step, `constant` stays, `linear` stays until the step
    `decay_from` and falls evenly to `final_learning_rate` at the last step, and `step` multiplies
    by `gamma` at each of the `milestones`.
    """

    learning_rate: float
    kind: str = "adamw"  # "adamw", "adam", "rmsprop" or "sgd"
    betas: tuple[float, float] = (0.9, 0.99)  # of adamw and adam
    momentum: float = 0.0  # of sgd and rmsprop
    smoothing: float = 0.99  # of rmsprop: decay of the mean square (its alpha)
    epsilon: float = 1e-8  # of adamw, adam and rmsprop
    weight_decay: float = 0.0  # decoupled for adamw, an L2 penalty for the others
    clip_norm: float = 1.0  # largest gradient norm over all parameters; 0 does not clip
    schedule: str = "cosine"  # "cosine", "constant", "linear" or "step"
    warmup_steps: int = 100
    final_learning_rate: float = 0.0  # where cosine and linear end
    decay_from: int = 0  # of linear: the step at which the fall begins
    milestones: tuple[int, ...] = ()  # of step
    gamma: float = 0.1  # of step

    def __post_init__(self) -> None:
        _one_of("kind", self.kind, KINDS)
        _one_of("schedule", self.schedule, SCHEDULES)
        _at_least("learning_rate", self.learning_rate, 0)
        _at_least("clip_norm", self.clip_norm, 0)
        _at_least("warmup_steps", self.warmup_steps, 0)
        if len(self.betas) != 2:
            raise RecipeError(f"betas: expected two numbers, got {self.betas}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run(Optimiser):
    """How long and how to optimise, the same for every task.

    The fields of `Optimiser` are the defaults of all optimisers of the run.
    """

    task: str  # name in revisage.training.tasks
    steps: int
    batch: int  # samples of one micro-batch of one process
    accumulate: int = 1  # micro-batches whose gradients are added up for one optimiser step
    ema_decay: float = 0.999  # approached from below: (1 + step) / (10 + step) while that is less
    precision: str = "fp32"  # "fp32" or "bf16" (autocast)
    seed: int = 0
    threads: int = 0  # 0 leaves torch's own choice
    prefetch: int = 4  # micro-batches made ahead in one background thread; 0 makes none ahead
    same_batch: bool = False  # every step sees the first batch and noise: can this recipe learn?
    log_every: int = 50
    validate_every: int = 1000
    save_every: int = 500
    pictures_every: int = 0  # 0 writes none
    tensorboard: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _one_of("precision", self.precision, PRECISIONS)
        for name in ("batch", "accumulate", "log_every", "validate_every", "save_every"):
            _at_least(name, getattr(self, name), 1)
        for name in ("steps", "seed", "threads", "prefetch", "pictures_every"):
            _at_least(name, getattr(self, name), 0)


def _one_of(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise RecipeError(f"{name}: no {value!r}; known: {', '.join(known)}")


def _at_least(name: str, value: float, least: float) -> None:
    if value < least:
        raise RecipeError(f"{name}: expected at least {least}, got {value}")


def recipe_names() -> tuple[str, ...]:
    """Names of the recipes that ship beside this module."""
    return tuple(sorted(p.stem for p in (Path(__file__).parent / "recipes").glob("*.toml")))


def recipe_path(name: str) -> Path:
    """Path of a recipe: a file, or the name of one that ships beside this module."""
    given = Path(name)
    if given.suffix == ".toml" and given.exists():
        return given
    shipped = Path(__file__).parent / "recipes" / f"{given.stem}.toml"
    if shipped.exists():
        return shipped
    raise RecipeError(
        f"no recipe {name!r}: give a .toml file or one of {', '.join(recipe_names())}"
    )


def read_recipe(
    path: Path,
    overrides: Sequence[str] = (),
    *,
    start: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, dict[str, Any]]:
    """Read a recipe and apply overrides `table.key=value` or `optimiser.NAME.key=value`.

    Values are in TOML syntax; what is not TOML is taken as a string.

    Args:
        start: the recipe in the file, changed already; None reads the file.
    """
    recipe: dict[str, dict[str, Any]]
    try:
        if start is None:
            recipe = tomllib.loads(path.read_text(encoding="utf-8"))
        else:
            recipe = overridden(start, {})
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RecipeError(f"{path}: not a readable TOML recipe ({error})") from error
    for override in overrides:
        name, equals, text = override.partition("=")
        *tables, key = name.strip().split(".")
        if not equals or not tables or not all([*tables, key]):
            raise RecipeError(
                f"override {override!r} is not of the form table.key=value "
                "or optimiser.NAME.key=value"
            )
        try:
            value = tomllib.loads(f"v = {text}")["v"]
        except tomllib.TOMLDecodeError:
            value = text.strip()
        change: dict[str, Any] = {key: value}
        for table in reversed(tables):
            change = {table: change}
        recipe = overridden(recipe, change)
    for table, content in recipe.items():
        if not isinstance(content, dict):
            raise RecipeError(f"{path}: {table!r} stands outside a table such as [run]")
    return recipe


def overridden(recipe: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """A copy of a recipe in which `changes`, of the same nested shape, replace what they name."""
    result = copy.deepcopy(dict(recipe))
    for key, value in changes.items():
        if isinstance(value, Mapping):
            inner = result.get(key, {})
            if not isinstance(inner, Mapping):
                raise RecipeError(f"{key!r} is a value, not a table")
            result[key] = overridden(inner, value)
        else:
            result[key] = copy.deepcopy(value)
    return result


def section(recipe: Mapping[str, Mapping[str, Any]], name: str, kind: type[Settings]) -> Settings:
    """One table of a recipe as a frozen dataclass; unknown keys and wrong types are errors."""
    return _settings(recipe.get(name, {}), f"[{name}]", kind)


def optimiser(run: Run, name: str, given: Mapping[str, Any]) -> Optimiser:
    """The table `[optimiser.NAME]`: what it leaves out is as `[run]` says."""
    defaults = {field.name: getattr(run, field.name) for field in dataclasses.fields(Optimiser)}
    if not isinstance(given, Mapping):
        raise RecipeError(f"[optimiser] {name}: expected a table [optimiser.{name}]")
    return _settings({**defaults, **given}, f"[optimiser.{name}]", Optimiser)


def _settings(table: Mapping[str, Any], where: str, kind: type[Settings]) -> Settings:
    given = dict(table)
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(set(given) - set(fields))
    if unknown:
        raise RecipeError(f"{where}: unknown {', '.join(unknown)}; known: {', '.join(fields)}")
    missing = [
        key
        for key, field in fields.items()
        if key not in given
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise RecipeError(f"{where}: missing {', '.join(missing)}")
    for key, value in given.items():
        given[key] = _of_type(value, str(fields[key].type), f"{where} {key}")
    try:
        return kind(**given)
    except RecipeError as error:
        raise RecipeError(f"{where} {error}") from error


def _of_type(value: Any, wanted: str, where: str) -> Any:
    """A TOML value as the annotation of a field wants it: float(1), tuple([1, 2])."""
    inner = re.fullmatch(r"tuple\[(.*)\]", wanted)
    if inner:
        if not isinstance(value, (list, tuple)):
            raise RecipeError(f"{where}: expected a list, got {value!r}")
        kinds = [part.strip() for part in inner[1].split(",")]
        if kinds[-1] == "...":
            kinds = kinds[:1] * len(value)
        if len(kinds) != len(value):
            raise RecipeError(f"{where}: expected {len(kinds)} values, got {value!r}")
        return tuple(_of_type(v, k, where) for v, k in zip(value, kinds, strict=True))
    if wanted == "float" and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if wanted in {"int", "float", "str", "bool"} and type(value).__name__ != wanted:
        raise RecipeError(f"{where}: expected {wanted}, got {value!r}")
    return value
