"""How well a network fills holes in faces, beside fills that need no network.

Three kinds of holes in aligned faces of the held-out split, the same for every network:

- `centre`: a square of 64 px in the middle of 128 px (Pathak et al. 2016);
- `rectangle`: a rectangle anywhere in 256 px, 6 to 30 % of the picture;
- `free_form`: brush strokes anywhere in 256 px, 5 to 50 % of the picture (Yu et al. 2019).

What is compared is the 8-bit picture that a user would get; the figure is the PSNR in the hole,
and a gain is the difference of two in the same picture. `OpenCV's best` is, in each picture, the
best of Telea's and the Navier-Stokes fill at radius 3 and 5.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch

from revisage.training.data import holes
from revisage.training.data.aligned_faces import AlignedFace, aligned_faces
from revisage.training.evaluate_filler import OPENCV
from revisage.training.evaluation.people import age_group, skin_tone
from revisage.training.evaluation.report import Report, Sheet, Table, difference, interval, sheet
from revisage.training.losses.perceptual import load_published
from revisage.training.metrics.psnr import mean_squared_error
from revisage.training.models.coarse_to_fine import CoarseToFine

__all__ = ["HOLES", "Case", "evaluate", "fill_with", "load", "mean_face"]

Image = npt.NDArray[np.uint8]
Fill = Callable[[Image, Image], Image]
Network = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

SIZE = 256  # what the network was trained on
HOLES: dict[str, tuple[int, Callable[[int, np.random.Generator], Image]]] = {
    "centre": (128, lambda size, rng: holes.centre_hole(size)),
    "rectangle": (256, holes.rectangle_hole),
    "free_form": (256, holes.free_form_hole),
}
SHOWN = 8  # rows of a contact sheet
OURS, MEAN, BEST = "network", "mean face", "OpenCV's best"


@dataclasses.dataclass(frozen=True)
class Case:
    """One hole in one face, and how well each way of filling did."""

    face: AlignedFace
    holed: Image  # [S, S, 3]
    mask: Image  # [S, S], 1 = hole
    filled: Image  # by the network
    psnr: dict[str, float]  # decibels in the hole, by the way's name

    def gain(self, over: str) -> float:
        """Decibels of the network above another way."""
        return self.psnr[OURS] - self.psnr[over]


def load(weights: Path) -> CoarseToFine:
    """The compact network with weights from a safetensors file."""
    network = CoarseToFine()
    load_published(network, str(weights), "the inpainting network")
    return network.eval()


def fill_with(network: Network) -> Fill:
    """A network of (image, mask) tensors as a fill of pictures.

    A picture of another size goes through the network at `SIZE`, as the faces that it was trained
    on, and what was filled comes back reduced.
    """

    def fill(image: Image, mask: Image) -> Image:
        size = image.shape[0]
        seen, hole = image, mask
        if size != SIZE:
            # Resampling must not smear what stands in the hole into the pixels around it.
            smooth = cv2.inpaint(image, mask, 3, cv2.INPAINT_TELEA)
            seen = np.asarray(
                cv2.resize(smooth, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC), dtype=np.uint8
            )
            hole = np.asarray(cv2.resize(mask, (SIZE, SIZE), interpolation=cv2.INTER_NEAREST))
        picture = torch.from_numpy(seen.transpose(2, 0, 1).copy())[None].float() / 255
        with torch.inference_mode():
            predicted = network(picture, torch.from_numpy(hole)[None, None].float())
        values = predicted[0].permute(1, 2, 0).clamp(0, 1).float().numpy() * 255
        if size != SIZE:
            values = cv2.resize(values, (size, size), interpolation=cv2.INTER_AREA)
        filled = np.rint(values).astype(np.uint8)
        return np.where(mask[:, :, None] > 0, filled, image)

    return fill


def mean_face(faces: Sequence[AlignedFace]) -> Image:
    """The mean of aligned pictures, [S, S, 3]."""
    total = np.zeros(faces[0].image.shape, np.int64)
    for face in faces:
        total += face.image
    return np.rint(total / len(faces)).astype(np.uint8)


def _psnr(filled: Image, image: Image, mask: Image) -> float:
    return 10 * float(np.log10(255**2 / max(mean_squared_error(filled, image, mask), 1e-4)))


def _cases(
    kind: str, fill: Fill, faces: Sequence[AlignedFace], mean: Image, seeds: int
) -> list[Case]:
    size, draw = HOLES[kind]
    found = []
    for seed in range(seeds):
        for index, face in enumerate(faces):
            image = face.image
            mask = draw(size, np.random.default_rng([1000 + seed, index]))
            hole = mask[:, :, None] > 0
            # The content of the hole must not reach any of them.
            holed = np.where(hole, np.uint8(0), image)
            ways = {OURS: fill(holed, mask), MEAN: np.where(hole, mean, image)}
            ways |= {name: rival(holed, mask) for name, rival in OPENCV.items()}
            psnr = {name: _psnr(filled, image, mask) for name, filled in ways.items()}
            psnr[BEST] = max(psnr[name] for name in OPENCV)
            found.append(Case(face, np.where(hole, np.uint8(255), image), mask, ways[OURS], psnr))
    return found


def _gains(cases: Sequence[Case], over: str) -> str:
    """Mean gain and its interval; the holes of one face are not independent of each other."""
    faces: dict[str, list[float]] = {}
    for case in cases:
        faces.setdefault(case.face.id, []).append(case.gain(over))
    return interval([np.mean(gains) for gains in faces.values()])


def _table(kind: str, cases: Sequence[Case], faces: int) -> Table:
    rows = [
        [
            name,
            f"{np.mean([case.psnr[name] for case in cases]):.2f}",
            "" if name == OURS else _gains(cases, name),
        ]
        for name in (OURS, MEAN, *OPENCV, BEST)
    ]
    return Table(
        f"Holes: {kind}, {HOLES[kind][0]} px",
        ("way of filling", "PSNR in the hole, dB", "gain of the network, dB"),
        rows,
        f"{len(cases)} holes in {faces} faces: means, and 95 % intervals of a bootstrap of faces.",
    )


def _size(kind: str) -> int:
    return HOLES[kind][0]


def _groups(results: Mapping[str, Sequence[Case]]) -> Table:
    groups: dict[str, dict[str, list[Case]]] = {}
    # Of the largest picture that was filled: one face, one tone.
    faces = {
        case.face.id: case.face for kind in sorted(results, key=_size) for case in results[kind]
    }
    tones = {name: skin_tone(face) for name, face in faces.items()}
    for kind, cases in results.items():
        for case in cases:
            for name in (f"skin: {tones[case.face.id]}", f"age: {age_group(case.face)}"):
                groups.setdefault(name, {}).setdefault(kind, []).append(case)
    rows = []
    for name in sorted(groups):
        row = [name, str(max(len({c.face.id for c in cases}) for cases in groups[name].values()))]
        for kind in results:
            cases = groups[name].get(kind, [])
            row.append(_gains(cases, BEST) if cases else "")
        rows.append(row)
    return Table(
        f"Gain over {BEST} by group, dB",
        ("group", "faces", *results),
        rows,
        "Skin tone is measured in the photo, light included; age is what the data set states.",
    )


def _sheets(kind: str, cases: Sequence[Case]) -> list[Sheet]:
    def rows(chosen: Sequence[Case]) -> Image:
        return sheet(
            [(c.holed, c.filled, difference(c.filled, c.face.image), c.face.image) for c in chosen]
        )

    ordered = sorted(cases, key=lambda case: case.gain(BEST))
    places = np.linspace(0, len(ordered) - 1, SHOWN).round().astype(int)
    what = "with the hole, filled, four times the difference, as it is"
    return [
        Sheet(f"{kind}_range", f"{kind}, from the least gain to the largest: {what}",
              rows([ordered[place] for place in dict.fromkeys(places.tolist())])),
        Sheet(f"{kind}_worst", f"{kind}, the lowest gains: {what}", rows(ordered[:SHOWN])),
    ]  # fmt: skip


def evaluate(
    fill: Fill,
    folders: Sequence[str | Path],
    *,
    split: str = "val",
    seeds: int = 1,
    limit: int = 0,
    kinds: Sequence[str] = tuple(HOLES),
) -> tuple[Report, dict[str, list[Case]]]:
    """Fill the same seeded holes in every way.

    Args:
        fill: (image [S, S, 3] uint8 RGB with the hole black, mask [S, S], 1 = hole) -> filled.
        folders: annotated portraits; the mean face is that of their split "train".
        seeds: how many holes of each kind a face gets.
        limit: look at so many faces only; 0 at all.

    Returns:
        The report, and the cases by kind of hole.
    """
    results: dict[str, list[Case]] = {}
    report = Report("Holes in faces", (__doc__ or "").partition("\n\n")[2].strip())
    for kind in kinds:
        size = HOLES[kind][0]
        faces = aligned_faces(folders, split, size, limit=limit)
        mean = mean_face(aligned_faces(folders, "train", size, limit=2000))
        results[kind] = _cases(kind, fill, faces, mean, seeds)
        report.tables.append(_table(kind, results[kind], len(faces)))
        report.sheets += _sheets(kind, results[kind])
    report.tables.append(_groups(results))
    return report, results
