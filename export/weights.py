"""What an exporter reads from disk: weights, imported arguments, the recipe behind them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn

import revisage.training.models as models
from revisage.errors import CheckpointError
from revisage.manifest import RecipeOrigin

__all__ = ["file_digest", "imported_arguments", "load_weights", "recipe_origin"]


def load_weights(network: nn.Module, weights: Path) -> nn.Module:
    """Fill a network with a safetensors file of exactly its keys and shapes; eval mode.

    Raises:
        CheckpointError: the file is damaged, or made for another network.
    """
    try:
        network.load_state_dict(load_file(weights))
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{weights}: not a readable safetensors file ({error})") from error
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:400]
        raise CheckpointError(f"{weights}: not the weights of this network: {reason}") from error
    return network.eval()


def imported_arguments(weights: Path, architecture: str) -> Mapping[str, Any]:
    """Constructor arguments that `revisage import` wrote into a safetensors file.

    Raises:
        CheckpointError: the file is damaged, or was not imported as this architecture.
    """
    try:
        with safe_open(weights, framework="pt") as file:
            metadata = dict(file.metadata() or {})
        arguments = json.loads(metadata.get("arguments", "null"))
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{weights}: not a readable safetensors file ({error})") from error
    if metadata.get("architecture") != architecture or not isinstance(arguments, dict):
        raise CheckpointError(
            f"{weights}: was not imported as {architecture}: "
            "make it with `revisage import CHECKPOINT -o OUT.safetensors`"
        )
    return arguments


def file_digest(path: Path) -> str:
    """sha256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def recipe_origin(name: str) -> RecipeOrigin:
    """The shipped recipe of a trained network."""
    recipe = Path(models.__file__).parents[1] / "recipes" / f"{name}.toml"
    return RecipeOrigin(name, file_digest(recipe) if recipe.is_file() else "")
