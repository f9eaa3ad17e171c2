"""Inputs of any severity from one pair of a clean and a blemished face."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

__all__ = ["LambdaRange", "lambda_augment"]

FloatArray = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class LambdaRange:
    """How lambda is drawn: evenly from low..high, and exactly 0 for a share of the samples.

    low and high are ours (see `lambda_augment`): from a faint trace to half as much again.
    """

    low: float = 0.1
    high: float = 1.5
    clean_share: float = 0.05

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high or not 0 <= self.clean_share <= 1:
            raise ValueError(
                "lambda needs 0 <= low <= high and a clean_share in 0..1, got "
                f"{self.low}, {self.high}, {self.clean_share}"
            )


def lambda_augment(
    clean: npt.NDArray[np.generic],
    residual: npt.NDArray[np.floating],
    rng: np.random.Generator,
    *,
    range_: LambdaRange | None = None,
) -> tuple[FloatArray, FloatArray, float]:
    """Draw an input of another severity from a pair of clean and blemished face.

        input = clip(clean + lambda * residual, 0, 1), target = clean

    This is the augmentation of StyleRetoucher (Su et al. 2023, arXiv 2312.14389): the residual
    between a photo and its retouch, scaled by a lambda. No code of it is public; the distribution
    of lambda here is ours: even over `LambdaRange`, beyond 1 so that the network meets skin worse
    than in any pair, and now and then 0 so that it learns to leave clean skin alone. The target is
    the clean face whatever lambda is; the strength dial belongs to the network.

    Args:
        clean: [H, W, 3] uint8, or float in 0..1.
        residual: [H, W, 3] float, blemished - clean in 0..1 units, e.g. `Blemished.residual`, or
            the difference of a retouched pair.

    Returns:
        input and target, [H, W, 3] float32 in 0..1, and the lambda.

    Raises:
        ValueError: shapes differ.
    """
    if clean.shape != residual.shape:
        raise ValueError(
            f"clean and residual must have one shape, got {list(clean.shape)} and "
            f"{list(residual.shape)}"
        )
    chosen = range_ or LambdaRange()
    is_clean = rng.random() < chosen.clean_share
    factor = float(rng.uniform(chosen.low, chosen.high))
    if is_clean:
        factor = 0.0
    target = clean.astype(np.float32)
    if np.issubdtype(clean.dtype, np.integer):
        target /= np.float32(255)
    blemished = np.clip(target + np.float32(factor) * residual.astype(np.float32), 0, 1)
    return blemished.astype(np.float32), target, factor
