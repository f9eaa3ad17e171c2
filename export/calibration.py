"""Portraits to calibrate on: aligned faces as the runtime hands them to a network.

Only the ranges of values inside the network are taken from them; no pixel enters a bundle.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from revisage.alignment import invert_affine, square_matrix
from revisage.errors import MediaError, OptionError
from revisage.kernels import flow_warp
from revisage.manifest import TensorSpec

__all__ = ["PORTRAITS", "Framing", "calibration_inputs", "face_squares"]

PORTRAITS = 16  # of a folder, spread over its list; ranges hardly widen with more
ANNOTATIONS = "annotations.jsonl"

Framing = Callable[[Any, int], NDArray[np.float64]]  # (landmarks [68, 2], size) -> matrix [2, 3]


def face_squares(
    folder: Path, size: int, *, count: int = PORTRAITS, framing: Framing = square_matrix
) -> NDArray[np.float32]:
    """[count, 3, size, size] RGB in [0, 1] of a folder of portraits.

    Args:
        folder: pictures with `annotations.jsonl`, as training reads them: an object for each line
            with `file` and `landmarks` (68 points x, y in its pixels).
        framing: where the face lies in the square; see `revisage.alignment`.

    Raises:
        OptionError: the folder has no such list, or an empty one.
        MediaError: a picture cannot be read.
    """
    try:
        lines = (folder / ANNOTATIONS).read_text(encoding="utf-8").splitlines()
        entries = [json.loads(line) for line in lines if line.strip()]
        faces = [(str(entry["file"]), np.array(entry["landmarks"], float)) for entry in entries]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OptionError(
            f"{folder}: portraits to calibrate on need {ANNOTATIONS} with `file` and `landmarks` "
            f"in each line ({error}); `python -m revisage.training.data.annotate` makes it"
        ) from error
    if not faces:
        raise OptionError(f"{folder / ANNOTATIONS} lists no portrait")
    places = np.unique(np.linspace(0, len(faces) - 1, count).astype(int))
    return np.stack([_square(folder / faces[i][0], faces[i][1], size, framing) for i in places])


def _square(
    path: Path, landmarks: NDArray[np.float64], size: int, framing: Framing
) -> NDArray[np.float32]:
    from PIL import Image

    matrix = framing(landmarks, size)
    pitch = 1 / np.sqrt(abs(np.linalg.det(matrix[:, :2])))  # pixels of the photo in one of ours
    block = max(1, int(pitch))
    try:
        with Image.open(path) as photo:
            reduced = np.asarray(photo.convert("RGB").reduce(block), np.float32) / 255
    except (OSError, ValueError) as error:
        raise MediaError(f"{path}: cannot be read as a picture ({error})") from error
    linear = invert_affine(matrix)
    linear[:, 2] += 0.5  # from the block's corner, so that reduced pixel centres stay whole
    linear /= block
    linear[:, 2] -= 0.5
    square = flow_warp(reduced, matrix=linear, size=(size, size), padding="border")
    return np.ascontiguousarray(np.clip(square, 0, 1).transpose(2, 0, 1))


def calibration_inputs(
    references: Sequence[Mapping[str, NDArray[Any]]],
    specs: Sequence[TensorSpec],
    folder: Path | None,
    framing: Framing = square_matrix,
) -> list[dict[str, NDArray[Any]]]:
    """The reference inputs, their pictures replaced by portraits; as they are without a folder.

    Masks and other inputs repeat those of the references.
    """
    if folder is None:
        return [dict(inputs) for inputs in references]
    coloured = [spec.name for spec in specs if spec.colour == "RGB"]
    made = []
    squares = {
        name: face_squares(folder, max(references[0][name].shape[-2:]), framing=framing)
        for name in coloured
    }
    for index in range(max((len(found) for found in squares.values()), default=0)):
        inputs = dict(references[index % len(references)])
        for name in coloured:
            batch, _, height, width = inputs[name].shape
            chosen = [(index + k) % len(squares[name]) for k in range(batch)]
            inputs[name] = np.ascontiguousarray(squares[name][chosen][..., :height, :width])
        made.append(inputs)
    return made or [dict(inputs) for inputs in references]
