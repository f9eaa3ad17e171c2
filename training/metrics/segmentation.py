"""Overlap of masks."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["Overlap"]

BoolLike = npt.NDArray[np.generic]


class Overlap:
    """Intersection over union of masks, pooled over pictures.

    Pooled means: the intersections of all pictures, divided by the unions of all pictures. A
    picture with no wrinkle counts through its false finds alone.
    """

    def __init__(self) -> None:
        self.both = 0
        self.found = 0
        self.truth = 0

    def add(self, found: BoolLike, truth: BoolLike, region: BoolLike | None = None) -> None:
        """Count one picture: masks [H, W], anything but 0 is in; `region` limits the count."""
        if found.shape != truth.shape:
            raise ValueError(f"masks differ in shape: {found.shape} and {truth.shape}")
        a, b = found != 0, truth != 0
        if region is not None:
            a, b = a & (region != 0), b & (region != 0)
        self.both += int(np.count_nonzero(a & b))
        self.found += int(np.count_nonzero(a))
        self.truth += int(np.count_nonzero(b))

    @property
    def iou(self) -> float:
        """Intersection over union, 0 to 1; 1 where both are empty everywhere."""
        union = self.found + self.truth - self.both
        return self.both / union if union else 1.0

    @property
    def precision(self) -> float:
        """Share of what was found that is true; 1 where nothing was found."""
        return self.both / self.found if self.found else 1.0

    @property
    def recall(self) -> float:
        """Share of the truth that was found; 1 where there is none."""
        return self.both / self.truth if self.truth else 1.0

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall, the Dice coefficient; 1 where both are empty."""
        total = self.found + self.truth
        return 2 * self.both / total if total else 1.0

    def figures(self) -> dict[str, float]:
        """All of them under the names that tasks report."""
        return {
            "iou": self.iou, "precision": self.precision, "recall": self.recall, "f1": self.f1,
        }  # fmt: skip
