"""Files of a run: the state to resume from, the weights that ship, and where they come from.

Every file is replaced as a whole, so that a run killed at any moment leaves readable ones.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors.torch import save
from torch import nn

from revisage.errors import CheckpointError, OutputError

__all__ = [
    "foreign_state",
    "origin",
    "read_state",
    "replaced",
    "save_state",
    "save_weights",
]

FORMAT = "revisage training state 1"


@contextlib.contextmanager
def replaced(path: Path) -> Iterator[BinaryIO]:
    """A file to write that takes the place of `path` when it is complete, and only then.

    Raises:
        OutputError: it cannot be written; what stood there before still does.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # else a power cut can leave the name without the content
        os.replace(partial, path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror or error})") from error
    except RuntimeError as error:  # what torch.save makes of an error of the disk
        reason = str(error).partition("\n")[0]
        raise OutputError(f"{path}: cannot be written; is the disk full? ({reason})") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def save_state(state: Mapping[str, Any], path: Path) -> None:
    """Write the state of a run: tensors, numbers, strings, and lists and dicts of these."""
    with replaced(path) as file:
        torch.save({"format": FORMAT, **state}, file)


def read_state(path: Path, device: torch.device) -> dict[str, Any]:
    """Read what `save_state` wrote.

    Raises:
        CheckpointError: the file is damaged, or is not the state of a run.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            changed = archive.testzip()  # torch reads tensors without looking at the check sums
        if changed is not None:
            raise ValueError(f"the check sum of {changed} is wrong")
        with warnings.catch_warnings():  # what torch warns about here is refused below
            warnings.simplefilter("ignore")
            state = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # damaged bytes are read as anything, and fail as anything
        reason = str(error).partition("\n")[0]
        raise CheckpointError(f"{path}: damaged ({reason}); {_REMEDY}") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CheckpointError(f"{path}: not the state of a training run of this version; {_REMEDY}")
    return state


_REMEDY = "move it away to begin the run again, or choose another folder with --out"


def foreign_state(path: Path, reason: object) -> CheckpointError:
    """The error that says that a state belongs to another run."""
    in_one_line = " ".join(str(reason).split())
    if len(in_one_line) > 300:
        in_one_line = in_one_line[:300] + " ..."
    return CheckpointError(f"{path}: belongs to another run ({in_one_line}); {_REMEDY}")


def save_weights(network: nn.Module, path: Path) -> None:
    """Write a network's weights and buffers as safetensors."""
    # Clones: safetensors refuses tensors that share memory, which tied weights do.
    weights = {
        key: value.detach().cpu().contiguous().clone()
        for key, value in network.state_dict().items()
    }
    with replaced(path) as file:
        file.write(save(weights))


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
