"""Stand-ins for the networks of a session: simple, exact, with the interface of the real ones."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from revisage.faces import Face
from revisage.faces.face import box_of_landmarks
from revisage.session import EngineChoice, Parts, Session

FACE_SIZE = 512  # the square that `average_landmarks` are drawn in
SIZE = 128  # of the networks: quick
Array = npt.NDArray[Any]


def average_landmarks() -> npt.NDArray[np.float64]:
    """68 points of a plain frontal face, in the pixels of a 512 px aligned square."""
    jaw_angles = np.linspace(np.pi * 0.97, np.pi * 0.03, 17)
    jaw = np.stack([256 + 128 * np.cos(jaw_angles), 262 + 160 * np.sin(jaw_angles)], axis=1)

    def arc(x: float, y: float, width: float, height: float, count: int, ends: float) -> Array:
        angles = np.linspace(np.pi * (1 + ends), np.pi * (2 - ends), count)
        return np.stack([x + width * np.cos(angles), y + height * np.sin(angles)], axis=1)

    def ring(x: float, y: float, width: float, height: float, count: int) -> Array:
        angles = np.pi + np.arange(count) * 2 * np.pi / count
        return np.stack([x + width * np.cos(angles), y + height * np.sin(angles)], axis=1)

    brows = [arc(x, 216, 40, 14, 5, 0.0) for x in (196, 316)]
    ridge = np.stack([np.full(4, 256.0), np.linspace(240, 290, 4)], axis=1)
    base = np.stack([np.linspace(238, 274, 5), [306, 309, 311, 309, 306]], axis=1)
    eyes = [ring(x, 240, 22, 9, 6) for x in (196, 316)]
    lips = [ring(256, 350, 42, 18, 12), ring(256, 350, 30, 6, 8)]
    return np.concatenate([jaw, *brows, ridge, base, *eyes, *lips])


def face_at(x: float, y: float, side: float, turn: float = 0.0) -> Face:
    """A face whose aligned square has about that side and centre in the photo, turned (radians)."""
    points = (average_landmarks() - (FACE_SIZE - 1) / 2) * (side / FACE_SIZE)
    cos, sin = np.cos(turn), np.sin(turn)
    placed = points @ np.array([[cos, sin], [-sin, cos]]) + (x, y)
    return Face(
        box=box_of_landmarks(placed),
        landmarks=placed.astype(np.float32),
        score=1.0,
        yaw=0.0,
        pitch=0.0,
        roll=float(np.degrees(turn)),
    )


class StandInFaces:
    """Finds the faces it was given; tracking moves nothing."""

    def __init__(self, faces: Sequence[Face]) -> None:
        self.faces = list(faces)
        self.searches = 0

    def find(self, photo: Any) -> list[Face]:
        self.searches += 1
        return list(self.faces)

    def track(self, photo: Any, previous: Sequence[Face]) -> list[Face]:
        return list(previous)


class StandInEngine:
    """An engine of the protocol whose network is a function of its inputs."""

    name, device, precision, reason = "stand-in", "cpu", "fp32", "for a test"

    def __init__(self, bundle: str, size: int) -> None:
        self.manifest = SimpleNamespace(working_size=size, settings={"threshold": 0.5})
        self.bundle = SimpleNamespace(name=bundle, model_digest=bundle.encode().hex())
        self.active = True
        self.calls = 0
        self._lock = threading.Lock()
        self._infer = {
            "wrinkle_segmenter": lines,
            "wrinkle_filler": smooth_fill,
            "inpainting": smooth_fill,
        }[bundle]

    def infer(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        assert self.active
        for array in inputs.values():
            assert array.dtype == np.float32
            assert array.flags.c_contiguous
            assert 0.0 <= array.min() <= array.max() <= 1.0
        with self._lock:
            self.calls += 1
        return self._infer(inputs)

    def deactivate(self) -> None:
        self.active = False


def lines(inputs: Mapping[str, Array]) -> dict[str, Array]:
    """A segmenter that sees level lines across the whole square, 4 px thick, every 16 px."""
    size = inputs["image"].shape[2]
    rows = np.arange(size) % 16 < 4
    probability = np.where(rows[:, None], 0.9, 0.1) * np.ones((1, 1, size, size))
    return {"probability": probability.astype(np.float32)}


def smooth_fill(inputs: Mapping[str, Array]) -> dict[str, Array]:
    """A filler that paints the hole in the mean colour of the rest, and is wrong outside it."""
    image, mask = inputs["image"], inputs["mask"]
    kept = 1.0 - mask
    mean = (image * kept).sum((2, 3), keepdims=True) / kept.sum((2, 3), keepdims=True)
    # A network predicts the whole square; what it says outside the hole must not matter.
    return {"filled": np.where(mask > 0, mean, 1.0 - image).astype(np.float32)}


class StandInParts:
    """`Parts` for a session, with what they made kept for looking at."""

    def __init__(self, faces: Sequence[Face], size: int = SIZE) -> None:
        self.faces = StandInFaces(faces)
        self.engines: dict[str, StandInEngine] = {}
        self.size = size
        self.loads: list[str] = []
        self.choices: dict[str, EngineChoice] = {}  # bundle -> what it was asked to run on

    def parts(self) -> Parts:
        return Parts(faces=lambda choice: self.faces, engine=self._engine)

    def _engine(self, bundle: str, choice: EngineChoice) -> StandInEngine:
        self.loads.append(bundle)
        self.choices[bundle] = choice
        self.engines[bundle] = StandInEngine(bundle, self.size)
        return self.engines[bundle]


def session_for(*faces: Face, threads: int | None = None, size: int = SIZE) -> Session:
    """A session of stand-ins that finds these faces."""
    return Session(threads=threads, parts=StandInParts(faces, size).parts())
