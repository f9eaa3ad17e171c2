"""The Gabor baseline finds and removes drawn wrinkles."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from revisage.training.baselines.__main__ import main as run_baseline
from revisage.training.baselines.gabor_wrinkles import (
    Settings,
    detect_wrinkles,
    gabor_features,
    orientation_field,
    remove_wrinkles,
)
from revisage.training.data.wrinkles import draw_wrinkles
from tests.training.drawn_face import drawn_landmarks, plain_skin


def lined(angle: float, size: int = 64) -> npt.NDArray[np.float32]:
    """A picture of log luminance 0 with one dark line through its middle."""
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    across = -np.sin(angle) * x + np.cos(angle) * y
    return np.asarray(-0.2 * np.exp(-0.5 * (across / 1.5) ** 2), dtype=np.float32)


@pytest.mark.parametrize("angle", [0.0, 0.4, np.pi / 2, 2.2])
def test_orientation_of_a_line(angle: float) -> None:
    strongest, by_orientation = gabor_features(lined(angle), (6.0,), 12)
    assert strongest.shape == (1, 64, 64)
    assert by_orientation.shape == (12, 64, 64)
    assert strongest[0, 31:33, 31:33].min() > 0.05
    found, coherence = orientation_field(by_orientation, 2.0)
    turned = abs((float(found[32, 32]) - angle + np.pi / 2) % np.pi - np.pi / 2)
    assert turned < np.radians(5)
    assert coherence[32, 32] > 0.5


def test_bright_lines_and_even_skin_are_no_wrinkles() -> None:
    strongest, _ = gabor_features(-lined(0.3), (6.0,), 12)
    assert strongest[0, 32, 32] < 0.01
    flat, _ = gabor_features(np.full((64, 64), -0.7, np.float32), (6.0,), 12)
    assert np.abs(flat).max() < 1e-5


@pytest.fixture(scope="module")
def wrinkled() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    return draw_wrinkles(plain_skin(), drawn_landmarks(), np.random.default_rng(3), amount=1.5)


def test_finds_drawn_wrinkles(
    wrinkled: tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]],
) -> None:
    image, drawn = wrinkled
    found = detect_wrinkles(image, drawn_landmarks(), skin=np.ones_like(drawn))
    near = cv2.dilate(drawn, np.ones((5, 5), np.uint8))
    precision = near[found > 0].mean()
    recall = found[drawn > 0].mean()
    # By chance both would be the share of the picture.
    assert near.mean() < 0.05
    assert precision > 0.5
    assert recall > 0.6
    assert set(np.unique(found)) == {0, 1}


def test_plain_skin_has_hardly_any() -> None:
    image, landmarks = plain_skin(), drawn_landmarks()
    plain = detect_wrinkles(image, landmarks, skin=np.ones(image.shape[:2], np.uint8))
    assert plain.mean() < 0.01


def test_coupling_drops_freckles_and_keeps_lines() -> None:
    """A freckle is as dark as a wrinkle; its neighbours along its direction are not."""
    rng, size = np.random.default_rng(4), 160
    y, x = np.mgrid[:size, :size]
    shade = 0.2 * np.exp(-0.5 * ((y - 80) / 1.6) ** 2)
    for top, left in rng.uniform(6, size - 6, (60, 2)):
        if abs(top - 80) > 16:
            spot = 0.2 * np.exp(-0.5 * ((y - top) ** 2 + (x - left) ** 2) / 2.2**2)
            shade = np.maximum(shade, spot)
    values = 170 * (1 - shade)[..., None] + rng.normal(0, 2, (size, size, 1)) + np.zeros(3)
    image = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    whole = np.ones((size, size), np.uint8)
    landmarks = drawn_landmarks()  # only their scale counts where the skin is given

    def found(coupling: float) -> tuple[float, int]:
        """Share of the line, and pixels of freckles."""
        settings = Settings(coupling=coupling, least_length=0)
        mask = detect_wrinkles(image, landmarks, skin=whole, settings=settings)
        return float(mask[79:82].max(axis=0).mean()), int(mask[:64].sum() + mask[96:].sum())

    line, freckles = found(Settings().coupling)
    assert line > 0.95
    assert found(0.0)[1] > 20
    assert freckles < 0.2 * found(0.0)[1]


def test_removal_changes_only_the_mask_and_flattens_lines(
    wrinkled: tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]],
) -> None:
    image, drawn = wrinkled
    landmarks = drawn_landmarks()
    result, mask = remove_wrinkles(image, landmarks)
    again, _ = remove_wrinkles(image, landmarks)
    np.testing.assert_array_equal(result, again)
    assert mask.any()
    np.testing.assert_array_equal(result[mask == 0], image[mask == 0])
    where = (mask > 0) & (drawn > 0)
    assert where.sum() > 200
    clean = plain_skin().astype(float)
    before = np.abs(image[where] - clean[where]).mean()
    after = np.abs(result[where] - clean[where]).mean()
    assert after < 0.6 * before


def test_without_landmarks_skin_is_found_by_colour() -> None:
    image = np.full((128, 128, 3), (30, 60, 160), np.uint8)  # blue: no skin
    image[:, 64:] = (205, 160, 135)
    for column in (32, 96):
        image[40:90, column - 1 : column + 2] = (image[0, column] * 0.7).astype(np.uint8)
    image = np.clip(image + np.random.default_rng(0).normal(0, 1, image.shape), 0, 255)
    found = detect_wrinkles(np.rint(image).astype(np.uint8))
    assert found[50:80, 94:99].max(axis=1).mean() > 0.8
    assert not found[:, :60].any()


def test_wrong_pictures_are_refused() -> None:
    with pytest.raises(ValueError, match="uint8"):
        detect_wrinkles(np.zeros((64, 64, 3)))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"\[68, 2\]"):
        detect_wrinkles(np.zeros((64, 64, 3), np.uint8), np.zeros((5, 2)))
    with pytest.raises(ValueError, match="at least 32"):
        remove_wrinkles(np.zeros((16, 64, 3), np.uint8))
    nothing, mask = remove_wrinkles(np.zeros((64, 64, 3), np.uint8))
    assert not nothing.any()
    assert not mask.any()


def test_the_baseline_runs_on_a_photo(
    wrinkled: tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    photo, out, mask = tmp_path / "face.png", tmp_path / "out.png", tmp_path / "mask.png"
    image, drawn = wrinkled
    cv2.imwrite(str(photo), image[..., ::-1])
    face = {"box": [100, 100, 300, 380], "landmarks": drawn_landmarks().tolist()}
    faces = tmp_path / "faces.json"
    faces.write_text(json.dumps([{"photo": str(photo), "faces": [face]}]), encoding="utf-8")
    command = [str(photo), "-o", str(out), "--mask", str(mask), "--faces", str(faces)]
    assert run_baseline(command) == 0
    hidden, result = cv2.imread(str(mask), cv2.IMREAD_GRAYSCALE), cv2.imread(str(out))
    assert (hidden[drawn > 0] > 0).mean() > 0.3
    np.testing.assert_array_equal(result[hidden == 0], image[..., ::-1][hidden == 0])
    assert run_baseline(command) == 2
    assert "--force" in capsys.readouterr().err
    assert run_baseline([str(tmp_path / "none.png"), "-o", str(tmp_path / "new.png")]) == 2
    assert "not a readable picture" in capsys.readouterr().err
    faces.write_text("[]", encoding="utf-8")
    assert run_baseline([*command, "--force"]) == 2
    assert "no face of" in capsys.readouterr().err
