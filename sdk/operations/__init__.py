"""Operations: each finds what to change in an aligned face and returns an `Edit`.

One file per operation, which `make_operation` knows. An operation never touches the photo.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from revisage.edit import Edit
    from revisage.faces import Face
    from revisage.pixels import Pixels
    from revisage.results import Stopwatch

__all__ = ["BUNDLES", "Network", "Operation", "make_operation"]

# Operation -> names of the bundles that it loads.
BUNDLES = {"wrinkles": ("wrinkle_segmenter", "wrinkle_filler"), "inpaint": ("inpainting",)}


class Network(Protocol):
    """What an operation needs of an engine (`revisage.engines.Engine` is one)."""

    @property
    def manifest(self) -> Any:
        """Its `revisage.manifest.Manifest`: working size and settings."""

    def infer(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Run once; from any thread."""


class Operation(Protocol):
    """One operation with its networks loaded; used from several threads at once."""

    def edit(
        self,
        pixels: Pixels,
        face: Face,
        strength: float,
        *,
        face_index: int,
        stopwatch: Stopwatch,
        threads: int | None,
    ) -> Edit:
        """The edit of one face of a photo (Note [Photos] in `revisage.pixels`)."""


def make_operation(operation: str, networks: Mapping[str, Network]) -> Any:
    """An operation from its networks, by bundle name: an `Operation`, or an `Inpaint`."""
    from revisage.operations.inpaint import Inpaint
    from revisage.operations.wrinkles import Wrinkles

    return {"wrinkles": Wrinkles, "inpaint": Inpaint}[operation](networks)
