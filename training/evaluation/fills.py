"""Ways to fill holes that need no network, and how fills are judged."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import cv2
import numpy as np
import numpy.typing as npt

from revisage.errors import MediaError, RecipeError
from revisage.training.data.aligned_faces import AlignedFace, aligned_faces
from revisage.training.evaluation.report import difference, gray
from revisage.training.evaluation.study import OURS, Case, Kind, Measure
from revisage.training.metrics.psnr import psnr
from revisage.training.metrics.report import LARGEST_PSNR

__all__ = [
    "BEST",
    "BEST_NAVIER_STOKES",
    "BEST_TELEA",
    "MEAN",
    "TELEA",
    "Fill",
    "decibels",
    "hole_case",
    "hole_kind",
    "levels",
    "mean_face",
    "mean_of_others",
]

Image = npt.NDArray[np.uint8]
Fill = Callable[[Image, Image], Image]  # picture [S, S, 3] and hole [S, S], 1 = hole
MOST_FACES = 2000  # that a mean face is made of
MEAN, BEST = "mean face", "OpenCV's best"
BEST_TELEA, BEST_NAVIER_STOKES = "Telea", "Navier-Stokes"  # at the better radius


def _opencv(radius: int, way: int) -> Fill:
    return lambda image, mask: np.asarray(cv2.inpaint(image, mask, radius, way), dtype=np.uint8)


TELEA: dict[str, Fill] = {
    "telea 3": _opencv(3, cv2.INPAINT_TELEA),
    "telea 5": _opencv(5, cv2.INPAINT_TELEA),
}
NAVIER_STOKES: dict[str, Fill] = {
    "navier-stokes 3": _opencv(3, cv2.INPAINT_NS),
    "navier-stokes 5": _opencv(5, cv2.INPAINT_NS),
}
OPENCV = {**TELEA, **NAVIER_STOKES}


def decibels(found: Image, true: Image, region: npt.NDArray[np.generic] | None = None) -> float:
    """PSNR in a region of 8-bit pictures, at most `LARGEST_PSNR`."""
    return min(psnr(found, true, region), LARGEST_PSNR)


def levels(found: Image, true: Image, region: npt.NDArray[np.bool_]) -> float:
    """Mean absolute difference in a region, levels of 255."""
    return float(np.abs(found[region].astype(np.int16) - true[region]).mean())


def hole_kind(title: str, size: int) -> Kind:
    """The kind of cases that `hole_case` makes."""
    return Kind(
        title,
        size,
        (Measure("psnr", "PSNR in the hole, dB"),),
        "with the hole, the hole, filled, four times the difference, as it is",
        over=BEST,
        best_of={BEST_TELEA: tuple(TELEA), BEST_NAVIER_STOKES: tuple(NAVIER_STOKES)},
    )


def hole_case(
    image: Image,
    mask: Image,
    fill: Fill,
    rivals: Mapping[str, Fill] | None = None,
    tags: tuple[str, ...] = (),
) -> Case:
    """A hole in a picture, filled by a network, by rivals, and by all of `OPENCV`."""
    hole = mask[:, :, None] > 0
    # The content of the hole must not reach any of them.
    holed = np.where(hole, np.uint8(0), image)
    ours = fill(holed, mask)
    psnr = {OURS: decibels(ours, image, mask)}
    for name, other in {**(rivals or {}), **OPENCV}.items():
        psnr[name] = decibels(other(holed, mask), image, mask)
    psnr[BEST] = max(psnr[name] for name in OPENCV)
    shown = np.where(hole, np.uint8(255), image)
    return Case({"psnr": psnr}, (shown, gray(mask), ours, difference(ours, image), image), tags)


def mean_face(faces: Iterable[AlignedFace]) -> tuple[Image, list[str]]:
    """The mean of aligned pictures [S, S, 3] that can be read, and what is wrong with the others.

    Raises:
        MediaError: none can be read.
    """
    total, count, broken = np.zeros((), np.int64), 0, []
    for face in faces:
        try:
            total = total + face.image
            count += 1
        except MediaError as error:
            broken.append(str(error))
    if not count:
        raise MediaError(f"no picture to make a mean face of: {'; '.join(broken)}")
    return np.rint(total / count).astype(np.uint8), broken


def mean_of_others(
    folders: Sequence[str], size: int, faces: Sequence[AlignedFace]
) -> tuple[Image, list[str]]:
    """The mean face of the split "train" of folders, and remarks for the report.

    Of faces without a worn mask. Where a folder has no such split the faces that are judged make
    the mean, which flatters it.
    """
    try:
        others = aligned_faces(folders, "train", size, limit=MOST_FACES)
        remarks = []
    except RecipeError:
        others = list(faces)
        remarks = ["No split train: the mean face is of the judged faces themselves"]
    mean, broken = mean_face(one for one in others if not one.extra.get("face_mask"))
    if broken:
        remarks.append(f"{len(broken)} pictures not in the mean face. {'; '.join(broken)}")
    return mean, remarks
