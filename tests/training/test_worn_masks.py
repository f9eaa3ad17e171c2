"""Worn masks: where they lie, what they leave alone, how light and wear change them."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from revisage.alignment import MIRROR_ORDER
from revisage.errors import MediaError, RecipeError
from revisage.training.data.aligned_faces import aligned_faces
from revisage.training.data.mask_shapes import HEAD, fit_camera
from revisage.training.data.mask_templates import MaskTemplates, face_anchors
from revisage.training.data.photo_light import estimate_light
from revisage.training.data.worn_masks import STYLES, WEARS, wear_mask
from tests.support import shared_folder
from tests.training.drawn_face import drawn_landmarks
from tests.training.drawn_portraits import drawn_portrait

SIZE = 128


def _face(person: int = 1) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float64]]:
    return drawn_portrait(person, 0, SIZE)


def _at(mask: npt.NDArray[np.float32], point: npt.NDArray[np.float64]) -> float:
    x, y = np.clip(np.rint(point).astype(int), 0, mask.shape[0] - 1)
    return float(mask[y, x])


@pytest.mark.parametrize("style", STYLES)
def test_a_mask_covers_nose_and_mouth_and_not_the_eyes(style: str) -> None:
    for seed in range(6):
        image, points = _face(seed)
        worn = wear_mask(image, points, np.random.default_rng(seed), kind=style)
        assert worn.kind == style
        assert worn.image.shape == image.shape
        assert worn.image.dtype == np.uint8
        assert worn.mask.shape == (SIZE, SIZE)
        assert worn.mask.dtype == np.float32
        assert worn.mask.min() >= 0
        assert worn.mask.max() <= 1
        for landmark in (30, 33, 48, 51, 54, 57):
            assert _at(worn.mask, points[landmark]) > 0.95, landmark
        for landmark in (19, 24, 37, 41, 43, 47):
            assert _at(worn.mask, points[landmark]) < 0.05, landmark
        assert 0.08 < worn.mask.mean() < 0.45


@pytest.mark.parametrize("kind", [None, *STYLES])
def test_same_seed_same_mask(kind: str | None) -> None:
    image, points = _face()
    before = image.copy()
    first = wear_mask(image, points, np.random.default_rng(5), kind=kind)
    again = wear_mask(image, points, np.random.default_rng(5), kind=kind)
    other = wear_mask(image, points, np.random.default_rng(6), kind=kind)
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.mask, again.mask)
    assert first.kind == again.kind
    assert (first.image != other.image).any()
    np.testing.assert_array_equal(image, before)


def test_the_picture_changes_only_under_and_beside_the_mask() -> None:
    image, points = _face()
    worn = wear_mask(image, points, np.random.default_rng(0), kind="surgical")
    changed = np.abs(worn.image.astype(int) - image).max(axis=2) > 0
    near = cv2.dilate((worn.mask > 0.002).astype(np.uint8), np.ones((2 * 20 + 1,) * 2)) > 0
    assert not changed[~near].any()
    assert changed[worn.mask > 0.9].mean() > 0.9
    # Beside the mask there is only shadow.
    beside = changed & (worn.mask < 0.002)
    assert beside.any()
    assert (worn.image.astype(int) - image)[beside].max() <= 1


def test_ways_of_wearing_bare_what_they_say() -> None:
    for seed in range(4):
        image, points = _face(seed)
        for style in STYLES:
            rng = np.random.default_rng(seed)
            bare_nose = wear_mask(image, points, rng, kind=f"{style}/nose_out")
            assert bare_nose.kind == f"{style}/nose_out"
            assert _at(bare_nose.mask, points[30]) < 0.1
            assert _at(bare_nose.mask, points[57]) > 0.95
            bare_chin = wear_mask(image, points, rng, kind=f"{style}/chin_out")
            assert _at(bare_chin.mask, points[8] - [0, 1]) < 0.1
            assert _at(bare_chin.mask, points[33]) > 0.95


def test_kinds_are_mixed_and_wrong_wear_is_rare() -> None:
    image, points = _face()
    small = cv2.resize(image, (48, 48), interpolation=cv2.INTER_AREA)
    less = (points + 0.5) * 48 / SIZE - 0.5
    rng = np.random.default_rng(0)
    kinds = [wear_mask(small, less, rng).kind for _ in range(300)]
    styles = [kind.partition("/")[0] for kind in kinds]
    for style in STYLES:
        assert styles.count(style) > 30
    wrong = [kind for kind in kinds if "/" in kind]
    assert 0 < len(wrong) < 45
    assert {kind.partition("/")[2] for kind in wrong} <= set(WEARS)


def test_an_edge_is_soft() -> None:
    image, points = _face()
    mask = wear_mask(image, points, np.random.default_rng(1), kind="surgical").mask
    partial = (mask > 0.05) & (mask < 0.95)
    outline = cv2.morphologyEx((mask > 0.5).astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((3, 3)))
    assert partial.sum() > 0.5 * outline.sum() / 2


def test_a_mask_is_lit_from_where_the_face_is() -> None:
    image, points = _face()
    ramp = np.linspace(0.45, 1.1, SIZE)[None, :, None]
    ratios = []
    for light in (ramp, ramp[:, ::-1]):
        lit = np.clip(image * light, 0, 255).astype(np.uint8)
        worn = wear_mask(lit, points, np.random.default_rng(3), kind="surgical")
        inside = worn.mask > 0.95
        columns = np.arange(SIZE)[None] + np.zeros((SIZE, 1))
        right = columns > points[33, 0]
        gray = worn.image.mean(axis=2)
        ratios.append(gray[inside & right].mean() / gray[inside & ~right].mean())
    assert ratios[0] > 1.08
    assert ratios[1] < 0.93


def test_a_gray_photo_gets_a_gray_mask() -> None:
    image, points = _face()
    gray = np.repeat(image.mean(axis=2, keepdims=True).astype(np.uint8), 3, axis=2)
    for seed in range(4):
        worn = wear_mask(gray, points, np.random.default_rng(seed))
        assert np.ptp(worn.image.astype(int), axis=2).max() <= 1 + 8  # the eye white's own tint


def test_grain_and_blur_are_estimated() -> None:
    image, points = _face()
    camera = fit_camera(points)
    soft = cv2.GaussianBlur(image, (0, 0), 2.0)
    assert estimate_light(soft, points, camera).blur > estimate_light(image, points, camera).blur
    grain = np.random.default_rng(0).normal(0, 6, image.shape[:2])[..., None]
    noisy = np.clip(soft + grain, 0, 255).astype(np.uint8)
    light = estimate_light(noisy, points, camera)
    assert 2 < light.noise <= 8
    assert estimate_light(soft, points, camera).noise < 1


def test_the_camera_sees_the_head_where_it_is() -> None:
    points = HEAD[:, :2] * 30 + [60, 50]
    camera = fit_camera(points)
    np.testing.assert_allclose(camera.residual, 0, atol=1e-9)
    np.testing.assert_allclose(camera.project(HEAD)[:, :2], points, atol=1e-9)
    assert camera.unit == pytest.approx(30)
    # A head turned by 25 degrees: its depth axis turns with it.
    turn = np.radians(25)
    turned = np.column_stack([HEAD[:, 0] * np.cos(turn) + HEAD[:, 2] * np.sin(turn), HEAD[:, 1]])
    towards = fit_camera(30 * turned).matrix[2]
    np.testing.assert_allclose(towards / 30, [-np.sin(turn), 0, np.cos(turn)], atol=1e-6)
    with pytest.raises(ValueError, match="one line"):
        fit_camera(np.stack([np.arange(68.0), np.arange(68.0)], axis=1))
    with pytest.raises(ValueError, match=r"\[68, 2\]"):
        fit_camera(np.full((68, 2), np.nan))


def test_a_turned_head_shows_more_of_the_mask_on_the_near_side() -> None:
    turn = np.radians(30)
    for sign in (-1, 1):
        x = HEAD[:, 0] * np.cos(turn) + sign * HEAD[:, 2] * np.sin(turn)
        points = np.column_stack([x, HEAD[:, 1]]) * 28 + [64, 50]
        image = np.full((SIZE, SIZE, 3), 150, np.uint8)
        mask = wear_mask(image, points, np.random.default_rng(0), kind="surgical").mask
        assert _at(mask, points[30]) > 0.95
        right = np.arange(SIZE) > points[30, 0]
        assert (mask[:, right].sum() > 1.5 * mask[:, ~right].sum()) == (sign < 0)
        assert (mask[:, ~right].sum() > 1.5 * mask[:, right].sum()) == (sign > 0)
    mirrored = HEAD[MIRROR_ORDER] * [-1, 1, 1]
    np.testing.assert_allclose(mirrored, HEAD, atol=0.011)


def test_bad_arguments_are_refused() -> None:
    image, points = _face()
    rng = np.random.default_rng(0)
    for kind in ("scarf", "surgical/ears_out", "template/nose_out"):
        with pytest.raises(ValueError, match="unknown kind"):
            wear_mask(image, points, rng, kind=kind)
    with pytest.raises(ValueError, match="needs templates"):
        wear_mask(image, points, rng, kind="template")
    with pytest.raises(ValueError, match="square"):
        wear_mask(image[:100], points, rng)


def test_a_face_at_the_border_and_a_small_square_work() -> None:
    image, points = _face()
    for shift in ([-60, 0], [60, 40], [0, 75]):
        worn = wear_mask(image, points + shift, np.random.default_rng(0), kind="surgical")
        assert worn.image.shape == image.shape
    small = cv2.resize(image, (32, 32), interpolation=cv2.INTER_AREA)
    for style in STYLES:
        worn = wear_mask(small, (points + 0.5) / 4 - 0.5, np.random.default_rng(0), kind=style)
        assert worn.mask.mean() > 0.08


# Templates ---------------------------------------------------------------------------------------


def _templates(folder: Path) -> Path:
    """A red front view and a blue view for faces turned to the left, both plain with a hole."""
    folder.mkdir()
    entries = {}
    for name, colour in (("plain.png", (0, 0, 200)), ("plain_left.png", (200, 0, 0))):
        picture = np.zeros((80, 120, 4), np.uint8)
        picture[5:75, 5:115] = (*colour, 255)
        assert cv2.imwrite(str(folder / name), picture)
        points = {
            "a": [5, 20],
            "b": [60, 5],
            "c": [114, 20],
            "d": [10, 55],
            "e": [60, 74],
            "f": [110, 55],
        }
        entries[name] = {"points": points}
    (folder / "anchors.json").write_text(json.dumps(entries), encoding="utf-8")
    return folder


def test_a_template_lies_on_its_anchors_and_turns_with_the_head(tmp_path: Path) -> None:
    templates = MaskTemplates(_templates(tmp_path / "templates"))
    assert templates.names == ["plain"]
    turn = np.radians(25)
    colours = {}
    for name, sign in (("front", 0), ("left", -1), ("right", 1)):
        x = HEAD[:, 0] * np.cos(sign * turn) + HEAD[:, 2] * np.sin(sign * turn)
        points = np.column_stack([x, HEAD[:, 1]]) * 28 + [64, 50]
        image = np.full((SIZE, SIZE, 3), (180, 150, 130), np.uint8)
        worn = templates.wear(image, points, np.random.default_rng(0))
        assert worn.kind == "template:plain"
        assert _at(worn.mask, points[51]) > 0.95
        assert _at(worn.mask, points[37]) < 0.05
        colours[name] = worn.image[worn.mask > 0.95].mean(axis=0).argmax()
    # Red from the front; blue to the left; to the right there is no view, so the front one.
    assert colours == {"front": 0, "left": 2, "right": 0}


def test_anchors_of_a_frontal_face() -> None:
    points = drawn_landmarks(256)
    anchors = face_anchors(points)
    assert anchors[0, 0] < points[48, 0] < anchors[1, 0] < points[54, 0] < anchors[2, 0]
    np.testing.assert_allclose(anchors[1], points[28], atol=1e-3)
    np.testing.assert_allclose(anchors[4], points[8], atol=1e-3)
    np.testing.assert_allclose(anchors[[0, 2], 1], points[33, 1], atol=0.5)
    np.testing.assert_allclose(anchors[[3, 5], 1], points[57, 1], atol=0.5)


def test_wear_mask_takes_templates_in_half_of_the_cases(tmp_path: Path) -> None:
    templates = MaskTemplates(_templates(tmp_path / "templates"))
    image, points = _face()
    rng = np.random.default_rng(0)
    kinds = [wear_mask(image, points, rng, templates=templates).kind for _ in range(40)]
    assert 10 < kinds.count("template:plain") < 30
    assert wear_mask(image, points, rng, kind="template", templates=templates).mask.max() > 0.9


def test_damaged_templates_are_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"anchors\.json"):
        MaskTemplates(tmp_path)
    folder = _templates(tmp_path / "templates")
    cv2.imwrite(str(folder / "plain.png"), np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(MediaError, match=r"plain\.png"):
        MaskTemplates(folder)
    (folder / "anchors.json").write_text('{"plain.png": {"points": {"a": [1, 2]}}}')
    with pytest.raises(RecipeError, match="points a to f"):
        MaskTemplates(folder)


def test_masks_on_photographs() -> None:
    faces = aligned_faces([shared_folder("data", "portraits")], "val", SIZE, limit=12)
    templates = MaskTemplates(shared_folder("data", "mask_templates"))
    assert len(templates.names) == 6
    for number, face in enumerate(faces):
        for kind in (None, "template"):
            worn = wear_mask(
                face.image, face.landmarks, np.random.default_rng(number), kind=kind,
                templates=templates,
            )  # fmt: skip
            assert _at(worn.mask, face.landmarks[57]) > 0.9, (face.id, worn.kind)
            assert _at(worn.mask, face.landmarks[[37, 41]].mean(axis=0)) < 0.1, (face.id, worn.kind)
