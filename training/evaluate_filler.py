"""How well the wrinkle filler fills, beside OpenCV's inpainting, on portraits kept back.

    python -m revisage.training.evaluate_filler --portraits FOLDER --weights FILE

Pictures are aligned squares of 512 px. Two sets of holes per picture:

- `skin`: drawn wrinkles (`revisage.training.data.wrinkles`), dilated, where skin is clean: inside
  the skin mask and away from lines that are already there;
- `face`: free-form strokes and blobs anywhere in the box of the landmarks.

What is compared is the 8-bit picture that a user would get; the figure is the PSNR in the hole.
`mean` is the mean of the pictures' PSNR, `pooled` the PSNR of all holes' pixels together. A gain is
against the better of Telea and Navier-Stokes in that picture, at radius 3 and 5.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file

from revisage.training.data.holes import stroke_holes
from revisage.training.data.ridges import line_response, log_luminance, skin_mask
from revisage.training.data.wrinkles import wrinkle_mask
from revisage.training.evaluation.fills import OPENCV, Fill
from revisage.training.metrics.psnr import mean_squared_error
from revisage.training.models.wrinkle_filler import CompactFiller, prefill
from revisage.training.tasks.wrinkle_filler import aligned_squares

__all__ = ["OPENCV", "Scores", "clean_skin", "evaluate", "main"]

Image = npt.NDArray[np.uint8]
SIZE = 512
LEAST_HOLE = 300  # pixels; below this the figure of a picture is chance


def _as_fill(network: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Fill:
    def fill(image: Image, mask: Image) -> Image:
        picture = torch.from_numpy(image.transpose(2, 0, 1).copy())[None].float() / 255
        with torch.inference_mode():
            filled = network(picture, torch.from_numpy(mask)[None, None].float())
        values = filled[0].permute(1, 2, 0).clamp(0, 1).numpy() * 255
        return np.asarray(np.rint(values), dtype=np.uint8)

    return fill


def clean_skin(image: Image, landmarks: npt.ArrayLike) -> Image:
    """[S, S] uint8, 1 where skin shows no line deeper than 3 % of its luminance within 4 px."""
    lines = (line_response(log_luminance(image)) > 0.03).astype(np.uint8)
    near = cv2.dilate(lines, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (9, 9)))
    return np.asarray((skin_mask(image, landmarks) > 0) & (near == 0), dtype=np.uint8)


def _face_box(landmarks: npt.NDArray[np.float64]) -> Image:
    low = np.clip(landmarks.min(axis=0), 0, SIZE).astype(int)
    high = np.clip(landmarks.max(axis=0), 0, SIZE).astype(int)
    box = np.zeros((SIZE, SIZE), np.uint8)
    box[low[1] : high[1], low[0] : high[0]] = 1
    return box


@dataclasses.dataclass
class Scores:
    """Squared errors in the holes of one set: one figure per picture and way of filling."""

    errors: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    pixels: list[int] = dataclasses.field(default_factory=list)

    def add(self, image: Image, mask: Image, fills: dict[str, Image]) -> None:
        self.pixels.append(int(mask.sum()))
        for name, filled in fills.items():
            self.errors.setdefault(name, []).append(mean_squared_error(filled, image, mask))

    def decibels(self, name: str) -> npt.NDArray[np.float64]:
        """PSNR per picture; an error below a hundredth of a step counts as that."""
        return 10 * np.log10(255**2 / np.maximum(self.errors[name], 1e-4))

    def pooled(self, name: str) -> float:
        error = float(np.average(self.errors[name], weights=self.pixels))
        return 10 * float(np.log10(255**2 / max(error, 1e-4)))

    def gain(self, name: str) -> npt.NDArray[np.float64]:
        """Decibels above the best of OpenCV's fills in each picture."""
        best = np.max([self.decibels(rival) for rival in OPENCV], axis=0)
        return np.asarray(self.decibels(name) - best)

    def table(self, title: str) -> str:
        lines = [
            f"{title}: {len(self.pixels)} pictures, {sum(self.pixels)} pixels in holes",
            f"  {'':16} {'mean':>6} {'s.d.':>5} {'pooled':>7}   gain over OpenCV's best",
        ]
        for name in self.errors:
            values = self.decibels(name)
            line = f"  {name:16} {values.mean():6.2f} {values.std():5.2f} {self.pooled(name):7.2f}"
            if name not in OPENCV:
                gain = self.gain(name)
                low, middle, high = np.percentile(gain, (10, 50, 90))
                line += (
                    f"   mean {gain.mean():+.2f}, 10/50/90 %: {low:+.2f} {middle:+.2f} {high:+.2f}"
                )
            lines.append(line)
        return "\n".join(lines)


def evaluate(
    fills: dict[str, Fill],
    squares: Sequence[Image],
    landmarks: Sequence[npt.NDArray[np.float64]],
    *,
    grow: int = 2,
    seed: int = 0,
    save: Path | None = None,
) -> tuple[Scores, Scores]:
    """Fill the same seeded holes in every way; returns the scores for `skin` and `face`.

    Args:
        fills: name -> function of (image [S, S, 3] uint8, mask [S, S] uint8) to a filled image.
        squares: [512, 512, 3] uint8 RGB aligned faces.
        landmarks: [68, 2] in each square.
        grow: drawn wrinkles are dilated by this many pixels.
        save: folder for pictures: original, holes, and each fill side by side.
    """
    skin_scores, face_scores = Scores(), Scores()
    for index, (square, points) in enumerate(zip(squares, landmarks, strict=True)):
        rng = np.random.default_rng([seed, index])
        drawn = wrinkle_mask(points, SIZE, rng, amount=1.6, grow=grow)
        anywhere = stroke_holes(SIZE, rng, coverage=(0.03, 0.06), width=(3, 11), blobs=0.1)
        sets = (
            ("skin", skin_scores, drawn & clean_skin(square, points)),
            ("face", face_scores, anywhere & _face_box(points)),
        )
        for name, scores, mask in sets:
            if int(mask.sum()) < LEAST_HOLE:
                continue
            # The content of the hole must not reach any of them.
            holed = np.where(mask[:, :, None] > 0, np.uint8(0), square).astype(np.uint8)
            results = {way: fill(holed, mask) for way, fill in fills.items()}
            scores.add(square, mask, results)
            if save is not None:
                save.mkdir(parents=True, exist_ok=True)
                row = np.concatenate([square, holed, *results.values()], axis=1)
                cv2.imwrite(str(save / f"{index:03d}_{name}.png"), row[:, :, ::-1])
    return skin_scores, face_scores


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables; see the module's docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    shipped = Path(__file__).parent / "weights" / "wrinkle_filler.safetensors"
    parser.add_argument("--portraits", action="append", required=True, metavar="FOLDER")
    parser.add_argument("--weights", type=Path, default=shipped)
    parser.add_argument("--split", default="val")
    parser.add_argument("--min-native-face-px", type=float, default=200.0)
    parser.add_argument("--pictures", type=int, default=0, help="at most this many; 0 for all")
    parser.add_argument("--grow", type=int, action="append", help="dilation of drawn wrinkles")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--save", type=Path, help="folder for pictures")
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    cv2.setNumThreads(1)

    network = CompactFiller()
    network.load_state_dict(load_file(given.weights))
    network.eval()
    fills = {"ours": _as_fill(network), "prefill": _as_fill(prefill), **OPENCV}
    squares, landmarks = aligned_squares(
        tuple(given.portraits), given.split, SIZE, given.min_native_face_px
    )
    if given.pictures:
        squares, landmarks = squares[: given.pictures], landmarks[: given.pictures]
    for grow in given.grow or [2, 4]:  # 4 is what `revisage.operations.wrinkles` dilates by
        skin, face = evaluate(fills, squares, landmarks, grow=grow, save=given.save)
        print(skin.table(f"wrinkle-shaped holes on clean skin (dilated by {grow} px)"))
    print(face.table("free-form holes anywhere in the face"))


if __name__ == "__main__":
    main()
