"""Find faces in a photo, and follow them from frame to frame.

Search: the finder network looks at a pyramid of the photo and proposes upright squares. The
landmark network looks at every proposal, gives 68 points and a score, and refuses what is no face;
it looks again at a crop that the points define and at the mirror image of that crop. The mean of
both gives the final points, and where both agree about them it is a face: eyes of animals, wheels
and buttons score high but their points do not survive mirroring. Everything else about a face (box,
roll) follows from its landmarks.

Track: the landmark network looks at the crop that the points of the last frame define. That is
cheap, and it is enough as long as the face moves by less than a sixth of its size between frames.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from revisage.alignment import (
    MIRROR_ORDER,
    face_crop_matrix,
    invert_affine,
    transform_points,
)
from revisage.errors import OptionError
from revisage.faces.face import Face, box_of_landmarks, roll_of_landmarks, same_face
from revisage.faces.views import check_photo, crop_photo, halve, reduce_photo, turned_square

if TYPE_CHECKING:
    from revisage.engines import Engine

__all__ = ["FaceFinder"]

FloatArray = npt.NDArray[np.float32]

FINDER, LANDMARKS = "face_finder", "face_landmarks"
MOST_AT_ONCE = 8  # crops in one call of the landmark network
SMALLEST_LEVEL = 16  # pixels: a level with a shorter side cannot hold a face of a known size


@dataclasses.dataclass(frozen=True)
class _Look:
    """What the landmark network said about one crop."""

    landmarks: FloatArray  # [68, 2] photo pixels
    score: float
    yaw: float
    pitch: float
    moved: float  # how far the points' own crop is from the one looked at, in crop sides


@dataclasses.dataclass(frozen=True)
class _Said:
    """What the landmark network said about a batch of crops, in float64."""

    points: npt.NDArray[np.float64]  # [N, 68, 2] crop pixels
    logits: npt.NDArray[np.float64]  # [N]
    pose: npt.NDArray[np.float64]  # [N, 2] yaw, pitch

    @classmethod
    def of(cls, engine: Engine, crops: FloatArray) -> _Said:
        """Run the network on crops [N, S, S, 3]."""
        out = engine.infer({"image": np.ascontiguousarray(crops.transpose(0, 3, 1, 2))})
        return cls(
            out["landmarks"].astype(np.float64),
            out["score"].astype(np.float64),
            out["pose"].astype(np.float64),
        )

    def joined(self, mirror: _Said, size: int) -> _Said:
        """The mean with what was said about the mirror images of the same crops.

        The mean disagreement about the points, in crop pixels, is taken off the logit.
        """
        there = mirror.points[:, MIRROR_ORDER] * [-1, 1] + [size - 1, 0]
        apart = np.abs(self.points - there).mean(axis=(1, 2))
        return _Said(
            (self.points + there) / 2,
            (self.logits + mirror.logits) / 2 - apart,
            (self.pose + mirror.pose * [-1, 1]) / 2,
        )


class FaceFinder:
    """Finds and follows faces. Engines load on first use and stay; methods are thread-safe.

    Args:
        device: "auto", "cpu" or "cuda"; see `revisage.engines.open_engine`.
        threads: CPU threads of one call; None means all cores. Never changes the result.
        engine: one of `revisage.manifest.ENGINES`; None: the best on the device. The network that
            searches sees photos of any size: where the engine is built for one size, that network
            runs on the best that is not.
        smallest_face: width in pixels of the smallest face to search for, 24 or more. Half of it
            takes about four times as long.
    """

    def __init__(
        self,
        device: str = "auto",
        threads: int | None = None,
        *,
        engine: str | None = None,
        smallest_face: float = 48.0,
    ) -> None:
        if not smallest_face >= 24:
            raise OptionError(f"smallest_face={smallest_face}: must be 24 pixels or more")
        self._device, self._threads, self._engine = device, threads, engine
        self._smallest = smallest_face
        self._engines: dict[str, Engine] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> FaceFinder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the engines; the next call loads them again."""
        with self._lock:
            for engine in self._engines.values():
                engine.deactivate()
            self._engines.clear()

    def engine(self, name: str) -> Engine:
        """The engine of "face_finder" or "face_landmarks", loaded now if it is not yet."""
        from revisage.bundle import shipped_bundle
        from revisage.engines import open_engine
        from revisage.engines.selection import takes_any_size

        with self._lock:
            if name not in self._engines:
                engine, any_size = self._engine, name == FINDER
                if any_size and engine is not None and not takes_any_size(engine):
                    engine = None
                self._engines[name] = open_engine(
                    shipped_bundle(name),
                    self._device,
                    engine=engine,
                    threads=self._threads,
                    any_size=any_size,
                )
            return self._engines[name]

    def find(self, photo: Any) -> list[Face]:
        """All faces of a photo, largest first.

        Args:
            photo: [H, W, 3] RGB, [H, W] or [H, W, 1] gray, with or without alpha as the last
                channel; uint8, uint16, or floating point with 1.0 as white.

        Raises:
            ShapeError: another shape or dtype.
        """
        image = check_photo(photo)
        squares = self._propose(image)
        return self._confirm(image, squares)

    def track(self, photo: Any, previous: Sequence[Face]) -> list[Face]:
        """Follow faces into the next frame, in the order of `previous`.

        Only where they were last: a face that enters the picture is found by `find`. When one of
        `previous` is lost (it left, it was covered, the scene was cut), or when there are none,
        the whole photo is searched, and what that finds is appended.
        """
        image = check_photo(photo)
        floor = self._setting(LANDMARKS, "track_score")
        matrices = [face_crop_matrix(f.landmarks, self._crop_size) for f in previous]
        looks = self._look(image, matrices)
        moved = [i for i, look in enumerate(looks) if look.score >= floor and look.moved > 0.05]
        again = self._look(
            image, [face_crop_matrix(looks[i].landmarks, self._crop_size) for i in moved]
        )
        for index, look in zip(moved, again, strict=True):
            looks[index] = look
        kept = [_face(look) for look in looks if look.score >= floor]
        kept = [f for i, f in enumerate(kept) if not _repeats(f, kept[:i])]
        if len(kept) == len(previous) and kept:
            return kept
        return kept + [face for face in self.find(image) if not _repeats(face, kept)]

    # --- proposals --------------------------------------------------------------------------------

    def _setting(self, name: str, key: str) -> float:
        value = self.engine(name).bundle.manifest.setting(key)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError(f"setting {key!r} of {name} is not a number")
        return float(value)

    @property
    def _crop_size(self) -> int:
        return self.engine(LANDMARKS).bundle.manifest.working_size

    def _propose(self, photo: npt.NDArray[Any]) -> FloatArray:
        """Squares [K, 5] (x, y, side, angle, score) in photo pixels, best first."""
        smallest = self._setting(FINDER, "smallest_side")
        per_width = self._setting(FINDER, "side_per_width")
        factor = max(1, int(self._smallest * per_width / smallest))
        level = reduce_photo(photo, factor)
        found = []
        while True:
            squares = self._look_at_level(level)
            squares[:, :2] = (squares[:, :2] + 0.5) * factor - 0.5
            squares[:, 2] *= factor
            found.append(squares)
            if min(level.shape[:2]) < 2 * SMALLEST_LEVEL:
                break
            level, factor = halve(level), 2 * factor
        every = np.concatenate(found)
        every = every[np.argsort(-every[:, 4], kind="stable")]
        return _without_repeats(every, int(self._setting(FINDER, "most_proposals")))

    def _look_at_level(self, level: FloatArray) -> FloatArray:
        """Proposals [K, 5] in pixels of one level of the pyramid."""
        engine = self.engine(FINDER)
        stride = engine.bundle.manifest.multiple_of
        height, width = level.shape[:2]
        rows, columns = -(-height // stride), -(-width // stride)
        # Mid-gray around the photo, as in training.
        picture = np.full((1, 3, rows * stride, columns * stride), 128 / 255, dtype=np.float32)
        picture[0, :, :height, :width] = level.transpose(2, 0, 1)
        out = engine.infer({"image": picture})["proposals"][0]
        score = 1 / (1 + np.exp(-out[0].astype(np.float64)))
        cell_y, cell_x = np.nonzero(score >= self._setting(FINDER, "proposal_score"))
        values = out[:, cell_y, cell_x].astype(np.float64)
        middle = (stride - 1) / 2
        side = self._setting(FINDER, "reference_side") * np.exp(np.clip(values[3], -2, 2))
        squares = np.stack(
            [
                cell_x * stride + middle + values[1] * stride,
                cell_y * stride + middle + values[2] * stride,
                side,
                np.arctan2(values[5], values[4]),
                score[cell_y, cell_x],
            ],
            axis=1,
        )
        return squares.astype(np.float32)

    # --- landmarks --------------------------------------------------------------------------------

    def _look(
        self,
        photo: npt.NDArray[Any],
        matrices: Sequence[npt.NDArray[np.float64]],
        *,
        mirrored: bool = False,
    ) -> list[_Look]:
        """The landmark network on crops of the photo, given as maps photo -> crop.

        Args:
            mirrored: look at the mirror image of every crop, too, and join both.
        """
        engine, size = self.engine(LANDMARKS), self._crop_size
        looks = []
        for start in range(0, len(matrices), MOST_AT_ONCE):
            some = matrices[start : start + MOST_AT_ONCE]
            crops = np.stack([crop_photo(photo, matrix, size) for matrix in some])
            said = _Said.of(engine, crops)
            if mirrored:
                said = said.joined(_Said.of(engine, crops[:, :, ::-1]), size)
            for index, matrix in enumerate(some):
                inside = said.points[index]
                looks.append(
                    _Look(
                        landmarks=transform_points(invert_affine(matrix), inside).astype(
                            np.float32
                        ),
                        score=float(1 / (1 + np.exp(-said.logits[index]))),
                        yaw=float(said.pose[index, 0]),
                        pitch=float(said.pose[index, 1]),
                        moved=_moved(inside, size),
                    )
                )
        return looks

    def _confirm(self, photo: npt.NDArray[Any], squares: FloatArray) -> list[Face]:
        """Faces from proposals: look, refuse, look again at the upright crop, refuse repeats."""
        first, final = self._setting(LANDMARKS, "first_score"), self._setting(LANDMARKS, "score")
        size = self._crop_size
        looks = self._look(
            photo,
            [
                turned_square(float(x), float(y), float(s), float(a), size)
                for x, y, s, a, _ in squares
            ],
        )
        hopeful = sorted((k for k in looks if k.score >= first), key=lambda k: -k.score)
        kept: list[_Look] = []
        for look in hopeful:
            if _plausible(look) and not _repeats(_face(look), [_face(k) for k in kept]):
                kept.append(look)
        second = self._look(
            photo, [face_crop_matrix(k.landmarks, size) for k in kept], mirrored=True
        )
        faces: list[Face] = []
        for look in sorted(second, key=lambda k: -k.score):
            if look.score >= final and _plausible(look) and not _repeats(_face(look), faces):
                faces.append(_face(look))
        return sorted(faces, key=lambda face: -face.box[2] * face.box[3])


def _face(look: _Look) -> Face:
    return Face(
        box=box_of_landmarks(look.landmarks),
        landmarks=look.landmarks,
        score=look.score,
        yaw=look.yaw,
        pitch=look.pitch,
        roll=roll_of_landmarks(look.landmarks),
    )


def _plausible(look: _Look) -> bool:
    """Whether the points span something: a crop can be made from them."""
    spread = np.ptp(look.landmarks, axis=0)
    return bool(np.isfinite(spread).all() and spread.min() >= 4.0)


def _moved(inside: npt.NDArray[np.float64], size: int) -> float:
    """Distance of the points' own crop from the one they were found in, in crop sides."""
    try:
        own = face_crop_matrix(inside, size)
    except ValueError:
        return 1.0
    corners = np.array([[0.0, 0.0], [size - 1, 0.0], [0.0, size - 1]])
    return float(np.abs(transform_points(own, corners) - corners).max() / size)


def _repeats(face: Face, others: Sequence[Face]) -> bool:
    return any(same_face(face.box, other.box) for other in others)


def _without_repeats(squares: FloatArray, most: int) -> FloatArray:
    """Best squares first; one that lies on a better one of a similar size is left out."""
    kept: list[int] = []
    for index in range(len(squares)):
        x, y, side, _, _ = squares[index]
        others = squares[kept]
        away = np.hypot(others[:, 0] - x, others[:, 1] - y)
        larger = np.maximum(others[:, 2], side)
        smaller = np.minimum(others[:, 2], side)
        if not bool(((away < 0.35 * larger) & (smaller > 0.5 * larger)).any()):
            kept.append(index)
            if len(kept) == most:
                break
    return squares[kept]
