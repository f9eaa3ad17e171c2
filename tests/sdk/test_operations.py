"""What operations share: the square that they see, the regions that they may touch."""

from __future__ import annotations

import numpy as np
import pytest

from revisage.alignment import invert_affine, square_matrix, transform_points
from revisage.operations.folds import grow_through, keep_folds, spectacle_region, wears_spectacles
from revisage.operations.region import (
    convex_hull,
    dilate,
    erode,
    fill_polygon,
    label_components,
    lengths_and_widths,
    skin_region,
    soften_inside,
)
from revisage.operations.square import sample_square
from revisage.operations.wrinkles import wrinkle_hole
from tests.sdk.stand_ins import average_landmarks, face_at

# --- the square ----------------------------------------------------------------------------------


def test_identity_square_is_the_photo(rng: np.random.Generator) -> None:
    photo = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    square = sample_square(photo, np.array([[1.0, 0, 0], [0, 1.0, 0]]), 32)
    np.testing.assert_allclose(square * 255, photo, atol=1e-4)


@pytest.mark.parametrize("pitch", [1.5, 2.0, 2.5, 3.7, 8.0])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_a_dense_photo_is_averaged_not_skipped(pitch: float, dtype: str) -> None:
    side = int(40 * pitch) + 8
    y, x = np.mgrid[0:side, 0:side]
    full = 255 if dtype == "uint8" else 1
    photo = ((x + y) % 2 * full).astype(dtype)  # aliases to anything where pixels are skipped
    matrix = np.array([[1 / pitch, 0.0, 0.1], [0.0, 1 / pitch, 0.2]])
    inner = sample_square(photo, matrix, 40)[4:-4, 4:-4]
    np.testing.assert_allclose(inner, 0.5, atol=0.13)


@pytest.mark.parametrize("pitch", [0.4, 1.0, 1.7, 2.0, 3.3])
def test_the_square_lies_where_the_matrix_says(pitch: float) -> None:
    """A slope stays the same slope, whatever the averaging: half pixels are right."""
    y, x = np.mgrid[0:200, 0:240].astype(np.float32)
    photo = np.stack([x / 400, y / 400, (x + y) / 800], axis=-1)
    matrix = np.array([[0.9, 0.2, -60.0], [-0.2, 0.9, 10.0]]) / pitch
    size = int(60 / pitch)
    square = sample_square(photo, matrix, size)
    points = np.stack(np.meshgrid(np.arange(size), np.arange(size)), axis=-1)
    where = transform_points(invert_affine(matrix), points)
    np.testing.assert_allclose(square[..., 0], where[..., 0] / 400, atol=2e-5)
    np.testing.assert_allclose(square[..., 1], where[..., 1] / 400, atol=2e-5)


def test_beyond_the_photo_its_edge_is_repeated_even_far_away() -> None:
    photo = np.full((6, 5, 4), 51, dtype=np.uint8)
    far = np.array([[1.0, 0, -500.0], [0, 1.0, 900.0]])
    np.testing.assert_allclose(sample_square(photo, far, 16), 0.2, atol=1e-6)


# --- regions -------------------------------------------------------------------------------------


def test_polygons_and_discs_have_obvious_answers() -> None:
    box = fill_polygon([(1.5, 2.5), (5.5, 2.5), (5.5, 6.5), (1.5, 6.5)], 9)
    expected = np.zeros((9, 9), bool)
    expected[3:7, 2:6] = True
    np.testing.assert_array_equal(box, expected)
    np.testing.assert_array_equal(fill_polygon([(-5, -5), (20, -5), (20, 20), (-5, 20)], 9), True)
    dot = np.zeros((11, 11), bool)
    dot[5, 5] = True
    y, x = np.mgrid[-5:6, -5:6]
    for radius in (1.0, 2.5, 4.0):
        np.testing.assert_array_equal(dilate(dot, radius), x * x + y * y <= radius * radius)
    np.testing.assert_array_equal(erode(dilate(dot, 3.0), 3.0), dot)
    np.testing.assert_array_equal(dilate(dot, 0.5), dot)
    hull = convex_hull([(0, 0), (4, 0), (2, 1), (4, 4), (0, 4), (2, 2)])
    assert {tuple(corner) for corner in hull} == {(0, 0), (4, 0), (4, 4), (0, 4)}


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_soft_edges_stay_inside(width: int) -> None:
    region = np.zeros((40, 40), bool)
    region[8:32, 8:32] = True
    region[10:12, 2:20] = True
    soft = soften_inside(region, width)
    assert (soft[~region] == 0).all()
    assert soft.max() == 1.0
    assert soft[20, 20] == 1.0
    edge = soft[20, 8 : 8 + 2 * width + 1]
    assert (np.diff(edge) > 0).all()
    assert edge[0] < 0.5
    assert edge[-1] == 1.0


def test_parts_are_numbered_as_scipy_does(rng: np.random.Generator) -> None:
    from scipy import ndimage

    for density in (0.05, 0.3, 0.45, 0.6):
        region = rng.random((70, 90)) < density
        labels, count = label_components(region)
        expected, expected_count = ndimage.label(region, np.ones((3, 3)))
        assert count == expected_count
        pairs = {(int(a), int(b)) for a, b in zip(labels.flat, expected.flat, strict=True)}
        assert len(pairs) == count + 1  # one to one
    assert label_components(np.zeros((4, 4), bool))[1] == 0


@pytest.mark.parametrize(("dx", "dy"), [(1, 0), (0, 1), (1, 1), (3, -1)])
def test_length_and_width_of_a_bar(dx: int, dy: int) -> None:
    y, x = np.mgrid[0:200, 0:200].astype(float)
    norm = np.hypot(dx, dy)
    along = ((x - 100) * dx + (y - 100) * dy) / norm
    across = ((x - 100) * -dy + (y - 100) * dx) / norm
    bar = (np.abs(along) <= 40) & (np.abs(across) <= 5)
    labels, count = label_components(bar)
    lengths, widths = lengths_and_widths(labels, count)
    assert lengths[0] == pytest.approx(80, abs=2)
    assert widths[0] == pytest.approx(10, abs=1.5)


def test_sure_lines_are_followed_where_they_grow_faint() -> None:
    likely = np.zeros((9, 30), bool)
    likely[2, 3:25] = likely[6, 3:25] = True
    sure = np.zeros_like(likely)
    sure[2, 10:12] = True
    expected = np.zeros_like(likely)
    expected[2, 3:25] = True
    np.testing.assert_array_equal(grow_through(sure, likely), expected)
    np.testing.assert_array_equal(grow_through(sure, sure & False), sure)


SKIN = np.array([0.75, 0.55, 0.45])


def test_folds_are_kept_and_spots_hair_and_frames_are_not() -> None:
    square = np.broadcast_to(SKIN, (512, 512, 3)).astype(np.float32).copy()
    marks = {
        "fold": ((100, 104, 60, 140), SKIN * (0.85, 0.8, 0.76)),
        "mole": ((200, 209, 60, 69), SKIN * (0.8, 0.75, 0.7)),
        "frame": ((300, 304, 60, 140), np.array([0.08, 0.08, 0.08])),
        "gray hair": ((400, 403, 60, 140), np.array([0.55, 0.5, 0.48])),
        "speck": ((450, 452, 60, 63), SKIN * 0.85),
    }
    found = np.zeros((512, 512), bool)
    for (y0, y1, x0, x1), colour in marks.values():
        square[y0:y1, x0:x1] = colour
        found[y0:y1, x0:x1] = True
    skin = np.ones_like(found)
    kept = keep_folds(found, square, skin)
    (y0, y1, x0, x1), _ = marks["fold"]
    expected = np.zeros_like(found)
    expected[y0:y1, x0:x1] = True
    np.testing.assert_array_equal(kept, expected)
    np.testing.assert_array_equal(keep_folds(found[::-1], square[::-1], skin), expected[::-1])
    nothing = np.zeros_like(found)
    np.testing.assert_array_equal(keep_folds(nothing, square, skin), nothing)


def test_lines_in_a_beard_are_not_folds(rng: np.random.Generator) -> None:
    square = np.broadcast_to(SKIN, (512, 512, 3)).astype(np.float32).copy()
    square *= 1 + 0.01 * rng.standard_normal((512, 512, 1), dtype=np.float32)
    square[300:] *= 1 + 0.1 * rng.standard_normal((212, 512, 1), dtype=np.float32)
    found = np.zeros((512, 512), bool)
    for top in (100, 400):
        square[top : top + 4, 60:140] *= 0.85
        found[top : top + 4, 60:140] = True
    kept = keep_folds(found, square, np.ones_like(found))
    assert kept[100:104, 60:140].all()
    assert not kept[300:].any()


def test_spectacles_are_seen_on_the_nose_and_their_band_is_left_alone() -> None:
    points = average_landmarks()
    square = np.broadcast_to(SKIN, (512, 512, 3)).astype(np.float32).copy()
    square += np.linspace(-0.1, 0.1, 512, dtype=np.float32)[:, None, None]  # shading
    assert not wears_spectacles(square, points)
    everywhere = np.ones((512, 512))
    bare = wrinkle_hole(everywhere, 0.5, square, points)
    square[250:256, 150:362] = 0.1
    assert wears_spectacles(square, points)
    band = spectacle_region(points, 512)
    assert bare[band].any()
    worn = wrinkle_hole(everywhere, 0.5, square, points)
    assert not worn[band].any()
    assert worn[~band].any()


@pytest.mark.parametrize("factor", [0.2, 1.0, 1.3])
def test_exposure_does_not_matter_to_folds_and_spectacles(factor: float) -> None:
    """What is judged on a dark skin is judged as on a light one."""
    points = average_landmarks()
    square = np.broadcast_to(SKIN * factor, (512, 512, 3)).astype(np.float32).copy()
    square[100:104, 60:140] *= 0.8
    found = np.zeros((512, 512), bool)
    found[100:104, 60:140] = True
    np.testing.assert_array_equal(keep_folds(found, square, np.ones_like(found)), found)
    assert not wears_spectacles(square, points)


@pytest.mark.parametrize("turn", [0.0, 0.5, -2.0])
def test_only_skin_is_ever_touched(turn: float) -> None:
    """A segmenter that sees wrinkles everywhere may still not reach eyes, brows or lips."""
    face = face_at(400, 380, 600, turn)
    matrix = square_matrix(face.landmarks, 512)
    points = transform_points(matrix, face.landmarks)
    plain = np.full((512, 512, 3), 0.5, np.float32)
    hole = wrinkle_hole(np.ones((512, 512)), 0.5, plain, points)
    skin = skin_region(points, 512)
    assert not hole[~skin].any()
    assert 0.15 < skin.mean() < 0.4
    for part in (slice(17, 22), slice(22, 27), slice(36, 42), slice(42, 48), slice(48, 60)):
        inside = dilate(fill_polygon(points[part], 512), 3)
        assert inside.any()
        assert not hole[inside].any()
    for x, y in points[31:36]:
        assert not hole[round(y), round(x)]
    forehead = points[17:27].mean(axis=0) - (0, 40)
    cheek = (points[2] + points[31]) / 2
    for x, y in (forehead, cheek):
        assert hole[round(y), round(x)]


def test_stand_in_landmarks_are_a_face() -> None:
    """The tests above are worth as much as these points."""
    points = average_landmarks()
    assert points.shape == (68, 2)
    matrix = square_matrix(points, 512)
    np.testing.assert_allclose(transform_points(matrix, points), points, atol=25)
