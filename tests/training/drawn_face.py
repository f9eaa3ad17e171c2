"""A face drawn from simple shapes, for tests that need landmarks and no portrait."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

SKIN = (205, 160, 135)


def drawn_landmarks(size: int = 512) -> npt.NDArray[np.float64]:
    """68 landmarks [68, 2] of a frontal face in the aligned square of side `size`."""
    points = np.zeros((68, 2))
    angle = np.linspace(np.pi, 0, 17)
    points[:17] = np.stack([256 + 135 * np.cos(angle), 250 + 215 * np.sin(angle)], 1)
    points[17:22] = np.stack([np.linspace(150, 225, 5), 205 - 12 * np.sin(np.linspace(0, 3, 5))], 1)
    points[22:27] = np.stack([np.linspace(287, 362, 5), 205 - 12 * np.sin(np.linspace(0, 3, 5))], 1)
    points[27:31] = np.stack([np.full(4, 256), np.linspace(235, 320, 4)], 1)
    points[31:36] = np.stack([np.linspace(232, 280, 5), [338, 342, 344, 342, 338]], 1)
    ring = np.array([[-1, 0], [-0.4, -0.4], [0.4, -0.4], [1, 0], [0.4, 0.4], [-0.4, 0.4]])
    points[36:42] = [195, 240] + 26 * ring
    points[42:48] = [317, 240] + 26 * ring
    turn = np.linspace(np.pi, 3 * np.pi, 13)[:12]
    points[48:60] = np.stack([256 + 50 * np.cos(turn), 385 + 20 * np.sin(turn)], 1)
    turn = np.linspace(np.pi, 3 * np.pi, 9)[:8]
    points[60:68] = np.stack([256 + 40 * np.cos(turn), 385 + 7 * np.sin(turn)], 1)
    return (points + 0.5) * size / 512 - 0.5


def plain_skin(size: int = 512) -> npt.NDArray[np.uint8]:
    """[size, size, 3] uint8 of one skin colour with a little grain."""
    grain = np.random.default_rng(0).normal(0, 1.0, (size, size, 1))
    return np.clip(np.rint(np.array(SKIN) + grain), 0, 255).astype(np.uint8)
