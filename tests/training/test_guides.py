"""Guides: the thin-plate spline, the flow of made guides, and pairs of one identity."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from revisage.kernels import flow_warp
from revisage.training.data.aligned_faces import AlignedFace, aligned_faces
from revisage.training.data.guides import (
    Guide,
    ThinPlateSpline,
    guide_of,
    identity_index,
    paired_faces,
    relight,
    synthetic_guide,
)
from tests.support import shared_folder
from tests.training.drawn_face import drawn_landmarks


def patterned(size: int = 256) -> npt.NDArray[np.uint8]:
    """Smooth coloured waves: every place looks different, nothing is finer than 12 px."""
    y, x = np.mgrid[:size, :size] / size
    waves = [np.sin(2 * np.pi * (a * x + b * y)) for a, b in ((7, 2), (3, 9), (-5, 6))]
    return (127.5 + 90 * np.stack(waves, axis=-1)).astype(np.uint8)


def inside_face(landmarks: npt.NDArray[np.float64], size: int) -> npt.NDArray[np.bool_]:
    mask = np.zeros((size, size), np.uint8)
    hull = cv2.convexHull(np.rint(landmarks).astype(np.int32))
    return np.asarray(cv2.fillConvexPoly(mask, hull, 1) > 0)


def psnr(a: npt.NDArray[np.generic], b: npt.NDArray[np.generic]) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b.astype(float)) ** 2)))


def test_spline_passes_through_its_points() -> None:
    rng = np.random.default_rng(0)
    source = rng.uniform(0, 256, (40, 2))
    target = source + rng.normal(0, 8, (40, 2))
    spline = ThinPlateSpline(source, target)
    np.testing.assert_allclose(spline(source), target, atol=1e-6)


def test_spline_of_an_affine_map_is_the_affine_map() -> None:
    rng = np.random.default_rng(1)
    source, elsewhere = rng.uniform(0, 256, (20, 2)), rng.uniform(-50, 300, (5, 7, 2))
    linear, offset = np.array([[1.1, 0.2], [-0.3, 0.9]]), np.array([4.0, -7.0])
    spline = ThinPlateSpline(source, source @ linear.T + offset)
    np.testing.assert_allclose(spline(elsewhere), elsewhere @ linear.T + offset, atol=1e-6)


def test_smoothing_bends_less() -> None:
    rng = np.random.default_rng(2)
    source = rng.uniform(0, 256, (30, 2))
    target = source + rng.normal(0, 8, (30, 2))
    misses = [
        np.abs(ThinPlateSpline(source, target, smoothing=s)(source) - target).mean()
        for s in (0.0, 0.1, 10.0)
    ]
    assert misses == sorted(misses)
    assert misses[-1] > 1


@pytest.mark.parametrize(
    ("source", "match"),
    [
        (np.zeros((2, 2)), "N >= 3"),
        (np.zeros((5, 3)), "N >= 3"),
        (np.zeros((5, 2)), "coincide"),
    ],
)
def test_spline_refuses_what_it_cannot_fit(source: npt.NDArray[np.float64], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        ThinPlateSpline(source, source)


def test_same_seed_same_guide() -> None:
    image, landmarks = patterned(), drawn_landmarks(256)
    before = image.copy()
    first, again, other = (
        synthetic_guide(image, landmarks, np.random.default_rng(s)) for s in (5, 5, 6)
    )
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.flow, again.flow)
    np.testing.assert_array_equal(first.landmarks, again.landmarks)
    assert (first.image != other.image).any()
    np.testing.assert_array_equal(image, before)
    assert first.image.dtype == np.uint8
    assert first.flow is not None
    assert first.flow.shape == (256, 256, 2)
    assert first.flow.dtype == np.float32


@pytest.mark.parametrize(("size", "least"), [(256, 34.0), (512, 38.0)])
def test_flow_warps_the_guide_back_to_the_target(size: int, least: float) -> None:
    image, landmarks = patterned(size), drawn_landmarks(size)
    face = inside_face(landmarks, size)
    unmoved, moved = [], []
    for seed in range(8):
        guide = synthetic_guide(image, landmarks, np.random.default_rng(seed), relit=0)
        warped = flow_warp(guide.image, guide.flow, padding="border")
        moved.append(psnr(warped[face], image[face]))
        unmoved.append(psnr(guide.image[face], image[face]))
    assert min(moved) > least
    assert np.median(moved) > np.median(unmoved) + 12  # the warp is what makes them alike


def test_landmarks_of_the_guide_lie_where_the_flow_says() -> None:
    landmarks = drawn_landmarks(256)
    distances = []
    for seed in range(8):
        guide = synthetic_guide(patterned(), landmarks, np.random.default_rng(seed))
        assert guide.flow is not None
        whole = np.floor(landmarks).astype(int)
        part = landmarks - whole
        found = np.zeros((68, 2))
        for dx in (0, 1):
            for dy in (0, 1):
                weight = np.abs(1 - dx - part[:, 0]) * np.abs(1 - dy - part[:, 1])
                found += weight[:, None] * guide.flow[whole[:, 1] + dy, whole[:, 0] + dx]
        np.testing.assert_allclose(landmarks + found, guide.landmarks, atol=0.1)
        distances.append(np.abs(guide.landmarks - landmarks).mean())
    assert 0.5 < np.mean(distances) < 12  # pixels at 256: another pose, still the same place


def test_flow_does_not_fold_and_rests_at_the_border() -> None:
    for seed in range(12):
        guide = synthetic_guide(patterned(), drawn_landmarks(256), np.random.default_rng(seed))
        assert guide.flow is not None
        assert guide.visible is not None
        dy, dx = np.gradient(guide.flow.astype(float), axis=(0, 1))
        area = (1 + dx[..., 0]) * (1 + dy[..., 1]) - dx[..., 1] * dy[..., 0]
        assert area.min() > 0.05
        edge = np.concatenate([guide.flow[0], guide.flow[-1], guide.flow[:, 0], guide.flow[:, -1]])
        assert np.abs(edge).max() < 1.5
        assert guide.visible.mean() > 0.98


def test_a_closed_mouth_and_any_pose_keep_the_flow_sane() -> None:
    landmarks = drawn_landmarks(256)
    landmarks[65:68, 1] = landmarks[61:64, 1]  # inner lips touch
    landmarks[65:68, 0] = landmarks[[63, 62, 61], 0]
    for seed in range(6):
        guide = synthetic_guide(patterned(), landmarks, np.random.default_rng(seed))
        assert guide.flow is not None
        assert np.isfinite(guide.flow).all()
        assert np.abs(guide.flow).max() < 40


def test_relighting_changes_light_and_keeps_place() -> None:
    image = patterned()
    np.testing.assert_array_equal(relight(image, np.random.default_rng(0), strength=0.0), image)
    lit = relight(image, np.random.default_rng(0))
    assert np.abs(lit.astype(int) - image).mean() > 3
    correlation = np.corrcoef(lit[..., 1].ravel(), image[..., 1].ravel())[0, 1]
    assert correlation > 0.9


def faces_of(names: list[str]) -> list[AlignedFace]:
    landmarks = drawn_landmarks(64)
    return [
        AlignedFace(
            id=f"f{index}",
            identity=name,
            image=np.full((64, 64, 3), 10 * index, np.uint8),
            landmarks=landmarks,
            native_face_px=64.0,
            extra={},
        )
        for index, name in enumerate(names)
    ]


def test_pairs_are_found_by_identity() -> None:
    faces = faces_of(["a", "b", "a", "", "", "c", "a"])
    assert identity_index(faces) == {"a": [0, 2, 6], "b": [1], "c": [5]}
    assert paired_faces(faces) == [0, 2, 6]


def test_guides_are_real_where_the_person_has_another_photo() -> None:
    faces = faces_of(["a", "b", "a", "", "", "c", "a"])
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(40):
        guide = guide_of(faces, 0, rng)
        assert guide.flow is None
        assert guide.visible is None
        seen.add(int(guide.image[0, 0, 0]) // 10)
    assert seen == {2, 6}
    for index in (1, 3):
        made = guide_of(faces, index, rng)
        assert isinstance(made, Guide)
        assert made.flow is not None


def test_impossible_input_is_refused() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="landmarks"):
        synthetic_guide(patterned(64), np.zeros((5, 2)), rng)
    with pytest.raises(ValueError, match="image"):
        synthetic_guide(np.zeros((64, 32, 3), np.uint8), drawn_landmarks(64), rng)


def test_real_portraits_warp_back() -> None:
    faces = aligned_faces([shared_folder("data", "portraits")], "val", 256, limit=12)
    results = []
    for index, face in enumerate(faces):
        guide = synthetic_guide(face.image, face.landmarks, np.random.default_rng(index), relit=0)
        area = inside_face(face.landmarks, 256)
        results.append(psnr(flow_warp(guide.image, guide.flow)[area], face.image[area]))
    assert np.median(results) > 36
    assert min(results) > 26
