"""Published checkpoints as our networks, without executing anything that they hold.

`from_checkpoint(path)` reads a file, `from_state_dict(mapping)` takes tensors; both recognise the
network by its keys, rebuild it in the size that its tensors tell, and return it in eval mode.
`save_imported` writes our safetensors, which `revisage export` takes.

To add a network: an `Architecture` in a module of its own, and its name in `ARCHITECTURES`.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from revisage.errors import CheckpointError, OutputError
from revisage.training.importers.architecture import Architecture, Arguments, load_checked
from revisage.training.importers.checkpoint_reader import StoredTensor, read_checkpoint
from revisage.training.importers.cyclegan import (
    CYCLEGAN_PATCH,
    CYCLEGAN_PIXEL,
    CYCLEGAN_RESNET,
    CYCLEGAN_UNET,
)
from revisage.training.importers.deeplabv3 import DEEPLABV3
from revisage.training.importers.dmfn import DMFB_BLOCK, DMFN, DMFN_DISCRIMINATOR
from revisage.training.importers.gfrnet import GFRNET_PYRAMID_WARPNET, GFRNET_WARPNET
from revisage.training.importers.lama import LAMA, LAMA_DISCRIMINATOR
from revisage.training.importers.lpips import LPIPS
from revisage.training.importers.pix2pixhd import (
    PIX2PIXHD_DISCRIMINATOR,
    PIX2PIXHD_GLOBAL,
    PIX2PIXHD_LOCAL,
)
from revisage.training.importers.skin_retouching import (
    SKIN_BLEND,
    SKIN_DETECTION,
    SKIN_INPAINTING,
)
from revisage.training.importers.stargan import STARGAN, STARGAN_DISCRIMINATOR
from revisage.training.importers.stylegan2 import (
    NV_STYLEGAN2,
    STYLEGAN2,
    STYLEGAN2_DISCRIMINATOR,
)
from revisage.training.importers.unet import UNET
from revisage.training.importers.unetpp import UNETPP

__all__ = [
    "ARCHITECTURES",
    "Imported",
    "from_checkpoint",
    "from_state_dict",
    "read_network",
    "save_imported",
]

# The first that matches is taken, so a file with a generator and its critic gives the generator.
ARCHITECTURES: dict[str, Architecture] = {
    architecture.name: architecture
    for architecture in (
        LAMA,
        LAMA_DISCRIMINATOR,
        UNETPP,
        UNET,
        DEEPLABV3,
        GFRNET_WARPNET,
        GFRNET_PYRAMID_WARPNET,
        PIX2PIXHD_LOCAL,
        *PIX2PIXHD_GLOBAL,
        PIX2PIXHD_DISCRIMINATOR,
        CYCLEGAN_RESNET,
        CYCLEGAN_UNET,
        CYCLEGAN_PATCH,
        CYCLEGAN_PIXEL,
        STARGAN,
        STARGAN_DISCRIMINATOR,
        DMFN,
        DMFN_DISCRIMINATOR,
        DMFB_BLOCK,
        STYLEGAN2,
        STYLEGAN2_DISCRIMINATOR,
        NV_STYLEGAN2,
        LPIPS,
        SKIN_DETECTION,
        SKIN_INPAINTING,
        SKIN_BLEND,
    )
}

Tensors = Mapping[str, StoredTensor] | Mapping[str, torch.Tensor]


@dataclasses.dataclass(frozen=True)
class Imported:
    """A network that came from a checkpoint."""

    architecture: str
    arguments: Arguments  # of its constructor
    network: torch.nn.Module  # float32, eval mode
    ignored: tuple[str, ...]  # keys of the checkpoint that belong to other networks


def _candidates(content: Any) -> list[Mapping[str, Any]]:
    """Mappings that may be a state dict: the content itself, then what stands one level down."""
    if not isinstance(content, Mapping):
        return []
    children = [item for item in content.items() if isinstance(item[1], Mapping)]
    # Of a generator and its average ("g" and "g_ema") the average is the one to use.
    children.sort(key=lambda item: "ema" not in str(item[0]).lower().split("_"))
    found = [content, *(child for _, child in children)]
    kept: list[Mapping[str, Any]] = []
    for mapping in found:
        tensors = {
            key: value
            for key, value in mapping.items()
            if isinstance(key, str) and isinstance(value, (StoredTensor, torch.Tensor))
        }
        if tensors:
            kept.append(tensors)
    return kept


def _loader(tensors: Mapping[str, Any], prefix: str) -> Callable[[str], torch.Tensor]:
    def load(key: str) -> torch.Tensor:
        value = tensors[prefix + key]
        loaded: torch.Tensor = value.load() if isinstance(value, StoredTensor) else value
        return loaded

    return load


def _recognise(content: Any, wanted: str | None) -> Imported:
    if wanted is not None and wanted not in ARCHITECTURES:
        raise CheckpointError(f"no network {wanted!r}; known: {', '.join(ARCHITECTURES)}")
    candidates = _candidates(content)
    if not candidates:
        raise CheckpointError("it holds no tensors")
    for architecture in ARCHITECTURES.values():
        if wanted not in {None, architecture.name}:
            continue
        for tensors in candidates:
            for prefix in architecture.prefixes:
                if not architecture.matches(tensors, prefix):
                    continue
                shapes = {
                    key.removeprefix(prefix): tuple(value.shape)
                    for key, value in tensors.items()
                    if key.startswith(prefix)
                }
                network, arguments = load_checked(architecture, shapes, _loader(tensors, prefix))
                ignored = tuple(sorted(k for k in tensors if not k.startswith(prefix)))
                return Imported(architecture.name, arguments, network, ignored)
    some = sorted(candidates[0])
    raise CheckpointError(
        f"its keys fit no known network ({', '.join(ARCHITECTURES)}); it has "
        f"{', '.join(some[:4])}{' ...' if len(some) > 4 else ''}"
    )


def read_network(path: str | os.PathLike[str], network: str | None = None) -> Imported:
    """Read a checkpoint file and say what was found; see `from_checkpoint`."""
    checkpoint = read_checkpoint(path)
    try:
        return _recognise(checkpoint.content, network)
    except CheckpointError as error:
        raise CheckpointError(f"{Path(path)}: {error}") from error.__cause__


def from_checkpoint(path: str | os.PathLike[str], network: str | None = None) -> torch.nn.Module:
    """The network that a checkpoint file holds, in eval mode, float32.

    Args:
        path: a torch file (zip or legacy format, foreign class references allowed) or safetensors.
        network: name of the architecture, where a file holds several; None takes the first known.

    Raises:
        CheckpointError: not a checkpoint, damaged, of no known network, or with keys or shapes
            that do not fit (listed by name).
    """
    return read_network(path, network).network


def from_state_dict(
    state: Mapping[str, torch.Tensor], network: str | None = None
) -> torch.nn.Module:
    """The network whose tensors `state` holds, in eval mode; see `from_checkpoint`."""
    return _recognise(dict(state), network).network


def save_imported(imported: Imported, out: str | os.PathLike[str], *, force: bool = False) -> Path:
    """Write a network as safetensors with its architecture in the file's metadata.

    Raises:
        OutputError: the file exists and `force` is not set, or it cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    place = Path(out)
    if place.exists() and not force:
        raise OutputError(f"{place} exists already: remove it, or import with --force")
    tensors = {
        key: value.detach().cpu().contiguous()
        for key, value in imported.network.state_dict().items()
    }
    metadata = {
        "architecture": imported.architecture,
        "arguments": json.dumps(imported.arguments, sort_keys=True),
    }
    partial = place.with_name(f".{place.name}.partial")
    try:
        save_file(tensors, partial, metadata=metadata)
        os.replace(partial, place)
    except (OSError, SafetensorError) as error:
        raise OutputError(f"{place}: cannot be written ({error})") from error
    finally:
        partial.unlink(missing_ok=True)
    return place
