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
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from revisage.errors import CheckpointError, OutputError
from revisage.training.importers.architecture import Architecture, Arguments, listed, load_checked
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
from revisage.training.importers.style_retoucher import STYLE_RETOUCHER
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
        STYLE_RETOUCHER,
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
    ignored: tuple[str, ...] = ()  # tensors of the file that belong to something else
    surplus: tuple[str, ...] = ()  # keys of this network that old versions stored; dropped
    absent: tuple[str, ...] = ()  # keys that may be missing and were; constants, counters
    others: tuple[str, ...] = ()  # names of the further networks that the file holds

    def remarks(self) -> list[str]:
        """What was left out or is not there, by name, a line each."""
        lines = (
            ("also there, see --network", self.others),
            ("left out, of other networks or the training", self.ignored),
            ("dropped, of no use", self.surplus),
            ("missing, set to their constant", self.absent),
        )
        return [f"{what}: {listed(names)}" for what, names in lines if names]


@dataclasses.dataclass(frozen=True)
class _Found:
    """A place in a checkpoint where the marks of an architecture are."""

    architecture: Architecture
    path: str  # of the state dict in the file: "", "g_ema.", "model.state_dict."
    tensors: Mapping[str, Any]  # of that state dict
    prefix: str  # of the network's keys in it


def _state_dicts(content: Any, path: str = "", deeper: int = 2) -> dict[str, Mapping[str, Any]]:
    """Mappings with tensors, by their path: the content itself, then what stands inside."""
    if not isinstance(content, Mapping):
        return {}
    found: dict[str, Mapping[str, Any]] = {}
    tensors = {
        key: value
        for key, value in content.items()
        if isinstance(key, str) and isinstance(value, (StoredTensor, torch.Tensor))
    }
    if tensors:
        found[path] = tensors
    if deeper:
        children = [item for item in content.items() if isinstance(item[0], str)]
        # Of a generator and its average ("g" and "g_ema") the average is the one to use.
        children.sort(key=lambda item: "ema" not in item[0].lower().split("_"))
        for key, value in children:
            found |= _state_dicts(value, f"{path}{key}.", deeper - 1)
    return found


def _search(states: Mapping[str, Mapping[str, Any]]) -> Iterator[_Found]:
    """Every network that is there, in the order of `ARCHITECTURES`."""
    for architecture in ARCHITECTURES.values():
        for path, tensors in states.items():
            for prefix in architecture.places():
                if architecture.matches(tensors, prefix):
                    yield _Found(architecture, path, tensors, prefix)


def _recognise(content: Any, wanted: str | None) -> Imported:
    if wanted is not None and wanted not in ARCHITECTURES:
        raise CheckpointError(f"no network {wanted!r}; known: {', '.join(ARCHITECTURES)}")
    states = _state_dicts(content)
    if not states:
        raise CheckpointError("it holds no tensors")
    found = list(_search(states))
    names = list(dict.fromkeys(one.architecture.name for one in found))
    if not found:
        some = sorted(path + key for path, tensors in states.items() for key in tensors)
        raise CheckpointError(
            f"its keys fit no known network ({', '.join(ARCHITECTURES)}); it has {listed(some)}"
        )
    if wanted is not None and wanted not in names:
        raise CheckpointError(f"it holds no {wanted}, but {', '.join(names)}")
    chosen = next(one for one in found if wanted in {None, one.architecture.name})
    # The keys of one network may have the marks of another too, which is then not there.
    place = (chosen.path, chosen.prefix)
    others = dict.fromkeys(
        one.architecture.name for one in found if (one.path, one.prefix) != place
    )
    return _load(chosen, states, tuple(name for name in others if name != chosen.architecture.name))


def _load(
    found: _Found, states: Mapping[str, Mapping[str, Any]], others: tuple[str, ...]
) -> Imported:
    architecture, prefix = found.architecture, found.prefix
    own = {k.removeprefix(prefix): v for k, v in found.tensors.items() if k.startswith(prefix)}

    def load(key: str) -> torch.Tensor:
        value = own[key]
        loaded: torch.Tensor = value.load() if isinstance(value, StoredTensor) else value
        return loaded

    shapes = {key: tuple(value.shape) for key, value in own.items()}
    network, arguments = load_checked(architecture, shapes, load)
    wanted = network.state_dict().keys()
    return Imported(
        architecture.name,
        arguments,
        network,
        ignored=tuple(
            sorted(
                key if path == found.path else path + key
                for path, tensors in states.items()
                for key in tensors
                if path != found.path or not key.startswith(prefix)
            )
        ),
        surplus=tuple(sorted(own.keys() - wanted)),
        absent=tuple(sorted(wanted - own.keys())),
        others=others,
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
            The state dict may stand in dictionaries, up to two deep; of several, an average (a
            name with "ema") goes first.
        network: name of the architecture, where a file holds several; None takes the first of
            `ARCHITECTURES`, which has generators before their critics.

    Raises:
        CheckpointError: not a checkpoint, damaged, of no known network, or with keys or shapes
            that do not fit (listed by name).
    """
    return read_network(path, network).network


def from_state_dict(
    state: Mapping[str, torch.Tensor], network: str | None = None
) -> torch.nn.Module:
    """The network whose tensors `state` holds, in eval mode; see `from_checkpoint`."""
    return _recognise(state, network).network


def save_imported(imported: Imported, out: str | os.PathLike[str], *, force: bool = False) -> Path:
    """Write a network as safetensors with its architecture in the file's metadata.

    Raises:
        OutputError: the file exists and `force` is not set, or it cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save

    place = Path(out)
    if place.exists() and not force:
        raise OutputError(f"{place} exists already: remove it, or import with --force")
    # Copies, because one tensor may have several names, which the format does not allow.
    tensors = {
        key: value.detach().cpu().contiguous().clone()
        for key, value in imported.network.state_dict().items()
    }
    metadata = {
        "architecture": imported.architecture,
        "arguments": json.dumps(imported.arguments, sort_keys=True),
    }
    partial = place.with_name(f".{place.name}.partial")
    try:
        partial.write_bytes(save(tensors, metadata=metadata))
        os.replace(partial, place)
    except (OSError, SafetensorError) as error:
        raise OutputError(f"{place}: cannot be written ({error})") from error
    finally:
        partial.unlink(missing_ok=True)
    return place
