"""The ridge filter: dark lines on skin are wrinkles, edges and features are not."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from revisage.training.data.ridges import line_response, log_luminance, skin_mask, teacher_labels
from revisage.training.metrics.ridges import ridge_energy, valley_strength
from tests.training.drawn_face import drawn_landmarks, plain_skin


def _with_line(start: tuple[int, int], end: tuple[int, int]) -> npt.NDArray[np.uint8]:
    line = cv2.line(np.zeros((512, 512), np.float32), start, end, 1.0, 2)
    gain = 1 - 0.4 * cv2.GaussianBlur(line, (0, 0), 1.2)
    return np.rint(plain_skin() * gain[..., None]).astype(np.uint8)


def _valley(depth: float, scale: float) -> npt.NDArray[np.float64]:
    row = 0.5 * (1 - depth * np.exp(-0.5 * ((np.arange(128) - 64) / scale) ** 2))
    return np.broadcast_to(row[None, :, None], (128, 128, 3))


def test_a_line_on_the_cheek_is_a_wrinkle() -> None:
    labels = teacher_labels(_with_line((170, 300), (175, 350)), drawn_landmarks())
    assert (labels[305:345, 165:180] == 1).sum() > 60
    assert not (labels[:, 200:] == 1).any()


@pytest.mark.parametrize(
    ("start", "end"),
    [((175, 240), (215, 240)), ((225, 385), (290, 385)), ((20, 100), (20, 300))],
    ids=["eye", "lips", "background"],
)
def test_lines_elsewhere_are_not(start: tuple[int, int], end: tuple[int, int]) -> None:
    assert not (teacher_labels(_with_line(start, end), drawn_landmarks()) == 1).any()


def test_a_step_edge_is_no_line() -> None:
    image = plain_skin().astype(np.float32)
    image[:, 256:] *= 0.6
    response = line_response(log_luminance(image / 255))
    assert response[100:400, 240:272].max() < 0.03


def test_skin_leaves_out_hair_and_features() -> None:
    image, points = plain_skin(), drawn_landmarks()
    image[:160] = (40, 30, 25)  # hair over the forehead
    skin = skin_mask(image, points)
    assert skin[320:350, 165:190].all()
    assert not skin[:150].any()
    assert not skin[236:245, 175:215].any()
    assert not skin[380:390, 215:297].any()


def test_valley_strength_of_known_valleys() -> None:
    for scale in (1.5, 2.2, 3.0):
        strength = valley_strength(_valley(0.2, scale))
        # The Gaussian valley's own maximum over scales, a * 2 / 27 ** 0.5, less the luma offset.
        assert strength[64, 64] == pytest.approx(0.2 * 0.385, rel=0.15)
        assert strength[64, 20] < 1e-3
    # A bright line is no valley.
    assert valley_strength(_valley(-0.2, 2.0))[64, 64] < 1e-3


def test_ridge_energy_halves_with_the_depth() -> None:
    region = np.zeros((128, 128), np.uint8)
    region[20:100, 60:69] = 1
    ratio = ridge_energy(_valley(0.1, 2.0), region) / ridge_energy(_valley(0.2, 2.0), region)
    assert ratio == pytest.approx(0.5, abs=0.04)
    with pytest.raises(ValueError, match="empty"):
        ridge_energy(_valley(0.1, 2.0), np.zeros((128, 128)))
