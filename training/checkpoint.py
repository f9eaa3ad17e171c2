"""Files of a run: the state to resume from, the weights that ship, and where they come from.

Every file is replaced as a whole, so that a run killed at any moment leaves readable ones.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import warnings
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from revisage.errors import CheckpointError

__all__ = [
    "foreign_state",
    "origin",
    "read_state",
    "save_state",
    "save_weights",
]

FORMAT = "revisage training state 1"


def save_state(state: Mapping[str, Any], path: Path) -> None:
    """Write the state of a run: tensors, numbers, strings, and lists and dicts of these."""
    partial = path.with_suffix(path.suffix + ".partial")
    with partial.open("wb") as file:
        torch.save({"format": FORMAT, **state}, file)
        file.flush()
        os.fsync(file.fileno())  # else a power cut can leave the name without the content
    os.replace(partial, path)


def read_state(path: Path, device: torch.device) -> dict[str, Any]:
    """Read what `save_state` wrote.

    Raises:
        CheckpointError: the file is damaged, or is not the state of a run.
    """
    try:
        with warnings.catch_warnings():  # what torch warns about here is refused below
            warnings.simplefilter("ignore")
            state = torch.load(path, map_location=device, weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, pickle.UnpicklingError) as error:
        reason = str(error).partition("\n")[0]
        raise CheckpointError(f"{path}: damaged ({reason}); {_REMEDY}") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CheckpointError(f"{path}: not the state of a training run of this version; {_REMEDY}")
    return state


_REMEDY = "move it away to begin the run again, or choose another folder with --out"


def foreign_state(path: Path, reason: object) -> CheckpointError:
    """The error that says that a state belongs to another run."""
    first_line = str(reason).strip().partition("\n")[0]
    return CheckpointError(f"{path}: belongs to another run ({first_line}); {_REMEDY}")


def save_weights(network: nn.Module, path: Path) -> None:
    """Write a network's weights and buffers as safetensors."""
    # Clones: safetensors refuses tensors that share memory, which tied weights do.
    weights = {
        key: value.detach().cpu().contiguous().clone()
        for key, value in network.state_dict().items()
    }
    partial = path.with_suffix(path.suffix + ".partial")
    save_file(weights, partial)
    os.replace(partial, path)


def origin() -> dict[str, str]:
    """Versions of the package and of torch and, where it lies in a git checkout, the commit."""
    found = {"revisage": metadata.version("revisage"), "torch": str(torch.__version__)}
    # An environment can lie in a checkout of something else: ask whether git knows this file.
    here = Path(__file__).resolve()
    if _git(here.parent, "ls-files", here.name):
        found["commit"] = _git(here.parent, "rev-parse", "HEAD")
    return found


def _git(folder: Path, *arguments: str) -> str:
    """What git answers; "" where there is no git, or no checkout."""
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
