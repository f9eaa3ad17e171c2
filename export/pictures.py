"""What bundles of networks that take and give pictures have in common: tensors and tolerances.

Pictures are NCHW RGB float32 in [0, 1], masks 1 = hole, wrinkle or drawn.
"""

from __future__ import annotations

from revisage.export.compare import Arrays
from revisage.export.reference_set import reference_masks, reference_pictures
from revisage.manifest import TensorSpec, Tolerance

__all__ = [
    "IMAGE",
    "MASK",
    "PAPER_REFERENCES",
    "PAPER_REFERENCE_SIZE",
    "REFERENCES",
    "TOLERANCES",
    "mask_tensor",
    "picture_tensor",
    "pictures",
    "pictures_with_masks",
]


def picture_tensor(name: str) -> TensorSpec:
    """An RGB picture of the working size."""
    return TensorSpec(name, "float32", ("N", 3, "H", "W"), "NCHW", "RGB", (0.0, 1.0))


def mask_tensor(name: str) -> TensorSpec:
    """A mask of the working size."""
    return TensorSpec(name, "float32", ("N", 1, "H", "W"), "NCHW", "mask", (0.0, 1.0))


IMAGE, MASK = picture_tensor("image"), mask_tensor("mask")

REFERENCES = 8
# A paper-size network takes seconds for a picture; what differs shows at any size.
PAPER_REFERENCES, PAPER_REFERENCE_SIZE = 2, 256

# Half a step of an 8-bit picture is 2e-3: these leave room for other instruction sets, and for the
# other summation orders of a GPU, and none for a wrong graph.
TOLERANCES = {
    "onnxruntime-cpu": {"fp32": Tolerance(max_abs=2e-4, mean_abs=1e-5)},
    "onnxruntime-cuda": {"fp32": Tolerance(max_abs=1e-3, mean_abs=5e-5)},
}


def pictures(size: int, count: int = REFERENCES) -> list[Arrays]:
    """Reference inputs of a network that takes a picture."""
    return [{"image": picture[None]} for picture in reference_pictures(count, size)]


def pictures_with_masks(size: int, count: int = REFERENCES) -> list[Arrays]:
    """Reference inputs of a network that fills small holes."""
    pairs = zip(reference_pictures(count, size), reference_masks(count, size), strict=True)
    return [{"image": picture[None], "mask": mask[None]} for picture, mask in pairs]
