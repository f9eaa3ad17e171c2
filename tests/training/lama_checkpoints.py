"""Checkpoints of a small LaMa, in every format that people save them in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from revisage.training.models.lama import LamaDiscriminator, LamaGenerator


def small_lama(**changes: Any) -> LamaGenerator:
    torch.manual_seed(3)
    arguments: dict[str, Any] = {"ngf": 4, "n_downsampling": 2, "n_blocks": 1, **changes}
    return LamaGenerator(**arguments).eval()


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return list(a) == list(b) and all(torch.equal(a[key], b[key]) for key in a)


def write_checkpoint(folder: Path) -> Path:
    """A training checkpoint as LaMa's trainer writes it."""
    state = {f"generator.{k}": v for k, v in small_lama().state_dict().items()}
    critic = LamaDiscriminator(ndf=4, n_layers=2)
    state |= {f"discriminator.{k}": v for k, v in critic.state_dict().items()}
    state["loss_pl.weight"] = torch.zeros(3)
    path = folder / "last.ckpt"
    torch.save({"epoch": 3, "state_dict": state, "lr_schedulers": []}, path)
    return path


def save_zip(state: Any, path: Path) -> None:
    torch.save({"state_dict": state}, path)


def save_legacy(state: Any, path: Path) -> None:
    torch.save({"state_dict": state}, path, _use_new_zipfile_serialization=False)


def save_bare(state: Any, path: Path) -> None:
    torch.save(state, path)


def save_parameters(state: Any, path: Path) -> None:
    torch.save(
        {k: nn.Parameter(v, requires_grad=v.is_floating_point()) for k, v in state.items()}, path
    )


def save_safetensors(state: Any, path: Path) -> None:
    save_file(dict(state), path)
