"""What bundles of networks that take and give pictures have in common: tensors and tolerances.

Pictures are NCHW RGB float32 in [0, 1], masks 1 = hole, wrinkle or drawn.
"""

from __future__ import annotations

from revisage.export.bundle_from_onnx import stated_tolerances
from revisage.export.compare import Arrays
from revisage.export.reference_set import reference_masks, reference_pictures
from revisage.manifest import TensorSpec, Tolerance

__all__ = [
    "IMAGE",
    "MASK",
    "PAPER_REFERENCES",
    "PAPER_REFERENCE_SIZE",
    "PROBABILITY_TOLERANCES",
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

# Half a step of an 8-bit picture is 2e-3: at fp32 these leave room for other instruction sets, and
# for the other summation orders of a GPU, and none for a wrong graph.
_CPU, _GPU = Tolerance(max_abs=2e-4, mean_abs=1e-5), Tolerance(max_abs=1e-3, mean_abs=5e-5)
# A picture may be one step off at fp16, three at bf16, ten in single pixels at int8, as long as the
# average stays below half a step.
TOLERANCES = stated_tolerances(
    _CPU,
    _GPU,
    fp16=Tolerance(max_abs=4e-3, mean_abs=2e-4),
    bf16=Tolerance(max_abs=1.2e-2, mean_abs=1e-3),
    int8=Tolerance(max_abs=4e-2, mean_abs=1.5e-3),
)
# A probability is compared with a threshold: what counts is how many pixels change sides, at most
# one in 500 (`compare.PICTURE_LIMITS`). The edge of a line is steep: where low precision moves it
# by a part of a pixel, single pixels change much and the average does not.
PROBABILITY_TOLERANCES = stated_tolerances(
    _CPU,
    _GPU,
    fp16=Tolerance(max_abs=5e-2, mean_abs=2e-4),
    bf16=Tolerance(max_abs=1e-1, mean_abs=5e-4),
    int8=Tolerance(max_abs=1.0, mean_abs=1e-3),
)


def pictures(size: int, count: int = REFERENCES) -> list[Arrays]:
    """Reference inputs of a network that takes a picture."""
    return [{"image": picture[None]} for picture in reference_pictures(count, size)]


def pictures_with_masks(size: int, count: int = REFERENCES) -> list[Arrays]:
    """Reference inputs of a network that fills small holes."""
    pairs = zip(reference_pictures(count, size), reference_masks(count, size), strict=True)
    return [{"image": picture[None], "mask": mask[None]} for picture, mask in pairs]
