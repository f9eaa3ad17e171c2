"""Trained weights for an evaluation: those that ship, or a checkpoint with its run's recipe."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from revisage.errors import CheckpointError, RecipeError
from revisage.training.losses.perceptual import load_published
from revisage.training.recipe import read_recipe, recipe_path

__all__ = ["Recipe", "described", "filled", "named", "needed", "recipe_of", "shipped"]

Recipe = Mapping[str, Mapping[str, Any]]
Network = TypeVar("Network", bound=nn.Module)


def shipped(name: str) -> Path:
    """Where the trained weights of a network lie in a source checkout."""
    return Path(__file__).parents[1] / "weights" / f"{name}.safetensors"


def needed(name: str, why: str) -> Path:
    """The trained weights of a network that an evaluation cannot do without.

    Raises:
        CheckpointError: they are not here.
    """
    path = shipped(name)
    if not path.is_file():
        raise CheckpointError(
            f"{path}: no such weights, which {why}; they come with a source checkout and not with "
            "an installed package: evaluate from there"
        )
    return path


def named(weights: Path) -> Path:
    """The file, if it is there.

    Raises:
        CheckpointError: it is not.
    """
    if not weights.is_file():
        raise CheckpointError(f"{weights}: no such weights; name a safetensors file with --weights")
    return weights


def recipe_of(
    weights: Path, default: str, given: str = "", *, others: tuple[str, ...] = ()
) -> Recipe:
    """The recipe that says which network a checkpoint holds.

    Args:
        default: name of the recipe of the network that ships.
        given: a recipe's name or file; "" takes `recipe.toml` beside the weights, which a run
            leaves there, else the default.
        others: tasks that the recipe may have beside the default's.

    Raises:
        RecipeError: it is of another task.
    """
    beside = weights.parent / "recipe.toml"
    path = recipe_path(given) if given else beside if beside.is_file() else recipe_path(default)
    recipe = read_recipe(path)
    wanted = read_recipe(recipe_path(default))["run"]["task"]
    task = recipe.get("run", {}).get("task")
    if task not in {wanted, *others}:
        raise RecipeError(
            f"{path}: a recipe of the task {task!r}, where one of {wanted!r} is judged; name "
            "another with --recipe"
        )
    return recipe


def filled(network: Network, weights: Path, what: str) -> Network:
    """The network with its weights, in eval mode.

    Raises:
        CheckpointError: there is no such file, or it holds another network.
    """
    load_published(network, str(named(weights)), what)
    return network.eval().requires_grad_(False)


def described(weights: Path) -> str:
    """File name and SHA-256, for the report."""
    return f"{weights.name}, sha256 {hashlib.sha256(weights.read_bytes()).hexdigest()[:16]}"
