"""The synthesis of faces for training keeps landmarks, boxes and targets where they belong."""

from __future__ import annotations

import dataclasses
import json

import cv2
import numpy as np
import pytest
import torch

from revisage.alignment import MIRROR_ORDER, face_crop_matrix, transform_points
from revisage.errors import RecipeError
from revisage.training.data.face_augment import camera, cover, light, texture
from revisage.training.data.face_scenes import crop_square, scene, scene_batches
from revisage.training.data.faces import (
    FacePool,
    aligned_jitter,
    crop,
    landmark_batches,
    landmark_sample,
    placement,
    read_negatives,
)
from revisage.training.data.portraits import read_portraits
from revisage.training.metrics.landmarks import landmark_error
from revisage.training.models.face_finder import FaceFinder
from revisage.training.models.face_landmarks import FaceLandmarks
from revisage.training.tasks.face_finder import target
from revisage.training.tasks.face_landmarks import HardNegatives


def face_points(side: float = 200.0) -> np.ndarray:
    """68 points of a plain face in a picture of that side."""
    jaw = np.linspace(np.pi, 0, 17)
    points = [np.stack([0.5 + 0.3 * np.cos(jaw), 0.5 + 0.38 * np.sin(jaw)], axis=1)]
    for left, right in ((0.26, 0.44), (0.56, 0.74)):
        points.append(np.stack([np.linspace(left, right, 5), np.full(5, 0.4)], axis=1))
    points.append(np.stack([np.full(4, 0.5), np.linspace(0.45, 0.58, 4)], axis=1))
    points.append(np.stack([np.linspace(0.44, 0.56, 5), np.full(5, 0.62)], axis=1))
    turn = np.pi + np.arange(6) * np.pi / 3
    eye = np.stack([0.05 * np.cos(turn), 0.46 + 0.02 * np.sin(turn)], axis=1)
    points += [eye + np.array([x, 0.0]) for x in (0.36, 0.64)]
    for width, count in ((0.1, 12), (0.07, 8)):
        lips = np.pi + np.arange(count) * 2 * np.pi / count
        points.append(np.stack([0.5 + width * np.cos(lips), 0.73 + 0.04 * np.sin(lips)], axis=1))
    return np.concatenate(points) * side


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory):
    """A folder with two portraits: the landmarks are drawn as white dots on gray."""
    root = tmp_path_factory.mktemp("portraits")
    lines = []
    for index, split in enumerate(("train", "val")):
        points = face_points()
        picture = np.full((200, 200, 3), 90, dtype=np.uint8)
        for x, y in points:
            cv2.circle(picture, (round(x), round(y)), 2, (255, 255, 255), -1)
        cv2.imwrite(str(root / f"p{index}.png"), picture)
        low, size = points.min(axis=0), np.ptp(points, axis=0)
        lines.append(
            {
                "id": f"p{index}",
                "file": f"p{index}.png",
                "identity": f"i{index}",
                "split": split,
                "width": 200,
                "height": 200,
                "box": [*low.tolist(), *size.tolist()],
                "landmarks": points.tolist(),
                "yaw": 12.0,
            }
        )
    (root / "annotations.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    return root


@pytest.fixture(scope="module")
def pool(folder) -> FacePool:
    return FacePool([folder], "train", face_px=90)


def test_portraits_are_read_lazily_and_reduced(folder) -> None:
    (portrait,) = read_portraits(folder, "val")
    assert (portrait.id, portrait.yaw, portrait.gray) == ("p1", 12.0, False)
    assert portrait.image().shape == (200, 200, 3)
    assert portrait.image(0.25).shape == (50, 50, 3)
    assert len(read_portraits(folder)) == 2
    assert read_portraits(folder, min_face_px=1000) == []
    with pytest.raises(RecipeError, match="no annotated portraits"):
        read_portraits(folder / "nowhere")


def test_a_damaged_annotation_is_named(tmp_path) -> None:
    (tmp_path / "annotations.jsonl").write_text('{"id": "a"}\n')
    with pytest.raises(RecipeError, match="line 1"):
        read_portraits(tmp_path)


def test_flipping_twice_is_nothing_and_mirrors_the_face() -> None:
    assert np.array_equal(MIRROR_ORDER[MIRROR_ORDER], np.arange(68))
    points = face_points()
    mirrored = (np.array([200.0, 0.0]) + points * [-1, 1])[MIRROR_ORDER]
    # The plain face is symmetric about x = 100, up to the order around eyes and lips.
    assert np.allclose(mirrored[:36], points[:36], atol=1e-9)
    assert mirrored[36, 0] < mirrored[45, 0]
    assert mirrored[48, 0] < mirrored[54, 0]


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("rough", [False, True])
def test_landmarks_move_with_the_picture(pool: FacePool, flip: bool, rough: bool) -> None:
    face = pool.faces[0]
    rng = np.random.default_rng(3)
    for _ in range(5):
        matrix = aligned_jitter(face.landmarks, 256, rng, rough=rough, flip=flip)
        image = crop(face.picture, matrix, 256)
        points = transform_points(matrix, face.landmarks)
        inside = points[((points > 3) & (points < 252)).all(axis=1)]
        assert len(inside) > 30
        at = np.rint(inside).astype(int)
        assert image[at[:, 1], at[:, 0], 0].min() > 150  # on the white dots, not on the gray


def test_reducing_first_moves_nothing() -> None:
    picture = np.zeros((400, 400, 3), dtype=np.uint8)
    picture[160:240, 80:120] = 255  # centre at (99.5, 199.5)
    matrix = placement([200, 200], 400, 0.0, 40)
    image = crop(picture, matrix, 40)[..., 0].astype(np.float64)
    y, x = np.mgrid[:40, :40]
    centre = np.array([(image * x).sum(), (image * y).sum()]) / image.sum()
    assert np.abs(centre - transform_points(matrix, [99.5, 199.5])).max() < 0.15


def test_samples_repeat_with_the_seed(pool: FacePool) -> None:
    one = [landmark_sample(pool, 64, np.random.default_rng(9)) for _ in range(2)]
    for field in dataclasses.fields(one[0]):
        assert np.array_equal(getattr(one[0], field.name), getattr(one[1], field.name))


def test_landmark_batches(pool: FacePool) -> None:
    batch = next(landmark_batches(pool, 64, 40, np.random.default_rng(1), negative_share=0.5))
    assert batch["image"].shape == (40, 64, 64, 3)
    assert batch["image"].dtype == np.uint8
    assert 8 < batch["is_face"].sum() < 32
    assert np.array_equal(batch["is_face"], batch["points_count"])
    shown = batch["is_face"] > 0.5
    assert set(np.abs(batch["pose"][shown, 0])) == {12.0}  # flipped and not


def test_what_fooled_the_network_is_shown_again() -> None:
    kept = HardNegatives(room=80, size=32)
    images = torch.zeros(40, 32, 32, 3, dtype=torch.uint8)
    is_face = (torch.arange(40) < 20).float()
    kept.add(torch.full((kept.least - 1, 32, 32, 3), 200, dtype=torch.uint8))
    assert torch.equal(kept.mixed_in(images, is_face), images)  # too few yet
    kept.add(torch.full((60, 32, 32, 3), 200, dtype=torch.uint8))
    assert int(kept.images.amin()) == 200  # the ring is full
    mixed = kept.mixed_in(images, is_face)
    assert torch.equal(mixed[:20], images[:20])
    replaced = int((mixed[20:].amax(dim=(1, 2, 3)) > 0).sum())
    assert 3 <= replaced <= 17
    HardNegatives(room=0, size=32).add(images)


def test_scenes_and_their_squares(pool: FacePool) -> None:
    rng = np.random.default_rng(2)
    scenes = [scene(pool, 128, rng) for _ in range(30)]
    assert all(s.image.shape == (128, 128, 3) for s in scenes)
    squares = np.concatenate([s.squares for s in scenes])
    assert len(squares) > 30
    assert np.abs(np.degrees(squares[:, 3])).max() < 60
    batch = next(scene_batches(pool, 128, 3, rng, most=4))
    assert batch["squares"].shape == (3, 4, 4)
    assert set(np.unique(batch["state"])) <= {0.0, 0.5, 1.0}


def test_the_crop_square_is_the_crop() -> None:
    angle = 0.4
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    x, y, side, found = crop_square(face_points() @ turn.T)
    level = crop_square(face_points())
    assert found - level[3] == pytest.approx(angle, abs=1e-6)
    assert side == pytest.approx(level[2], rel=1e-6)
    assert [x, y] == pytest.approx((turn @ level[:2]).tolist(), rel=1e-6)
    matrix = face_crop_matrix(face_points(), 128)
    assert np.hypot(matrix[0, 0], matrix[1, 0]) == pytest.approx(128 / side, rel=1e-6)


def test_targets_of_one_face() -> None:
    squares = torch.tensor([[[35.5, 27.5, 32.0, 0.5], [0.0, 0.0, 0.0, 0.0]]])
    wanted = target(squares, torch.tensor([[1.0, 0.0]]), 16)
    # Pixel 35.5 is the centre of cell 4 (32 .. 39), pixel 27.5 of cell 3.
    assert wanted.face[0, 3, 4] == 1
    assert wanted.face.sum() == 1
    assert wanted.place[0, :, 3, 4].tolist() == pytest.approx(
        [0.0, 0.0, 0.0, np.cos(0.5), np.sin(0.5)], abs=1e-6
    )
    assert wanted.counted[0, 3, 4] == 1
    assert wanted.counted[0, 3, 5] == 0  # a neighbour may say what it likes
    assert wanted.counted[0, 12, 12] == 1
    none = target(squares, torch.tensor([[0.5, 0.0]]), 16)  # cut off: open
    assert none.face.sum() == 0
    assert none.counted[0, 3, 4] == 0


@pytest.mark.parametrize("size", [8.0, 90.0])
def test_faces_of_unknown_size_are_left_open(size: float) -> None:
    wanted = target(torch.tensor([[[35.5, 27.5, size, 0.0]]]), torch.ones(1, 1), 16)
    assert wanted.face.sum() == 0
    assert wanted.counted[0, 3, 4] == 0


def test_effects_keep_the_picture_a_picture() -> None:
    rng = np.random.default_rng(0)
    points = face_points(96).astype(np.float32)
    for _ in range(40):
        picture = texture((96, 96), rng)
        for out in (light(picture, rng), camera(picture, rng), cover(picture, points, rng)):
            assert out.shape == (96, 96, 3)
            assert out.dtype == np.uint8


def test_negatives_are_read_and_reduced(tmp_path) -> None:
    assert read_negatives("") == []
    with pytest.raises(RecipeError, match="no pictures"):
        read_negatives(tmp_path)
    cv2.imwrite(str(tmp_path / "wide.png"), np.zeros((50, 200, 3), dtype=np.uint8))
    (picture,) = read_negatives(tmp_path, longest=100)
    assert picture.shape == (25, 100, 3)


def test_landmark_error_is_a_share_of_the_eye_distance() -> None:
    points = face_points()
    eyes = np.linalg.norm(points[45] - points[36])
    assert landmark_error(points + np.array([0.0, eyes / 10]), points) == pytest.approx(0.1)
    assert landmark_error(points[None], points[None]).shape == (1,)
    with pytest.raises(ValueError, match="68"):
        landmark_error(points[:5], points[:5])


def test_heat_maps_give_points_between_cells() -> None:
    network = FaceLandmarks()
    logits = torch.full((1, 68, 32, 32), -30.0)
    logits[0, :, 10, 20] = 10.0
    logits[0, :, 10, 21] = 10.0
    points = network.expectation(logits)
    # Halfway between cells 20 (80 .. 83) and 21 (84 .. 87), in row 10 (40 .. 43).
    assert points[0, 0].tolist() == pytest.approx([83.5, 41.5], abs=1e-3)


def test_network_shapes() -> None:
    points, score, pose = FaceLandmarks().eval()(torch.rand(2, 3, 128, 128))
    assert (points.shape, score.shape, pose.shape) == ((2, 68, 2), (2,), (2, 2))
    out = FaceFinder().eval()(torch.rand(1, 3, 64, 96))
    assert out.shape == (1, FaceFinder.channels, 8, 12)


@pytest.mark.parametrize("name", ["face_landmarks", "face_finder"])
def test_the_tasks_learn(folder, name: str) -> None:
    import importlib

    recipe = {"data": {"portraits": [str(folder)], "face_px": 90.0}}
    torch.manual_seed(0)
    task = importlib.import_module(f"revisage.training.tasks.{name}").build(recipe)
    batch = task.sample(np.random.default_rng(0), 6)
    optimiser = torch.optim.AdamW(task.networks[task.product].parameters(), lr=3e-3)
    losses = []
    for _ in range(8):
        loss, parts = task.loss(batch)
        assert all(np.isfinite(value) for value in parts.values())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_unknown_settings_are_refused(folder) -> None:
    from revisage.training.tasks import face_landmarks

    with pytest.raises(RecipeError, match="unknown portrait"):
        face_landmarks.build({"data": {"portrait": [str(folder)]}})
