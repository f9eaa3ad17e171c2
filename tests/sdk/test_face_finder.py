"""Faces are found, followed and chosen; what is no face is left alone."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest
import skimage.data
from PIL import Image

from revisage.errors import NoFaceError, OptionError, ShapeError
from revisage.faces import Face, FaceFinder, choose_faces
from revisage.faces.face import box_of_landmarks, overlap, same_face

# The astronaut's face, forehead to chin, marked by hand on the 512 x 512 photo.
ASTRONAUT = (180.0, 67.0, 90.0, 110.0)
EYES = np.array([[203.0, 101.0], [246.5, 103.5]])  # by hand


@pytest.fixture(scope="module")
def finder() -> Iterator[FaceFinder]:
    with FaceFinder(device="cpu", threads=1) as opened:
        yield opened


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return np.ascontiguousarray(skimage.data.astronaut())


def eyes_of(face: Face) -> np.ndarray:
    return np.stack([face.landmarks[36:42].mean(axis=0), face.landmarks[42:48].mean(axis=0)])


def turned(photo: np.ndarray, degrees: float) -> tuple[np.ndarray, np.ndarray]:
    """The photo turned clockwise about its centre, and where the eyes come to lie."""
    out = np.asarray(Image.fromarray(photo).rotate(-degrees, Image.Resampling.BILINEAR))
    angle = np.radians(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    middle = (np.array(photo.shape[1::-1]) - 1) / 2
    return out, (EYES - middle) @ turn.T + middle


def test_the_astronaut_is_the_only_face(finder: FaceFinder, photo: np.ndarray) -> None:
    (face,) = finder.find(photo)
    assert overlap(face.box, ASTRONAUT) > 0.75
    assert np.abs(eyes_of(face) - EYES).max() < 4
    assert face.landmarks.shape == (68, 2)
    assert face.landmarks.dtype == np.float32
    assert face.score > 0.9
    assert abs(face.roll) < 8
    # The corners of the mouth lie below the eyes and beside the nose.
    assert face.landmarks[48, 0] < face.landmarks[33, 0] < face.landmarks[54, 0]
    assert face.landmarks[[48, 54], 1].min() > face.landmarks[36:48, 1].max()


@pytest.mark.parametrize("degrees", [-30, -20, 20, 30])
def test_turned_faces(finder: FaceFinder, photo: np.ndarray, degrees: float) -> None:
    picture, eyes = turned(photo, degrees)
    (face,) = finder.find(picture)
    assert np.abs(eyes_of(face) - eyes).max() < 5
    (upright,) = finder.find(photo)
    assert abs(face.roll - upright.roll - degrees) < 5


@pytest.mark.parametrize("width", [48, 90, 300])
def test_sizes(finder: FaceFinder, photo: np.ndarray, width: int) -> None:
    scale = width / ASTRONAUT[2]
    side = round(512 * scale)
    picture = np.asarray(Image.fromarray(photo).resize((side, side), Image.Resampling.LANCZOS))
    (face,) = finder.find(picture)
    assert overlap(face.box, tuple(v * scale for v in ASTRONAUT)) > 0.7


def test_face_that_fills_the_picture(finder: FaceFinder, photo: np.ndarray) -> None:
    (face,) = finder.find(np.ascontiguousarray(photo[60:184, 168:284]))
    assert overlap((face.box[0] + 168, face.box[1] + 60, *face.box[2:]), ASTRONAUT) > 0.7


def test_small_face_in_a_large_photo(finder: FaceFinder, photo: np.ndarray) -> None:
    scene = np.full((2200, 3000, 3), 120, dtype=np.uint8)
    small = np.asarray(Image.fromarray(photo).resize((300, 300), Image.Resampling.LANCZOS))
    scene[1700:2000, 2500:2800] = small
    (face,) = finder.find(scene)
    expected = (
        2500 + ASTRONAUT[0] * 300 / 512,
        1700 + ASTRONAUT[1] * 300 / 512,
        ASTRONAUT[2] * 300 / 512,
        ASTRONAUT[3] * 300 / 512,
    )
    assert overlap(face.box, expected) > 0.7


def test_several_faces_largest_first(finder: FaceFinder, photo: np.ndarray) -> None:
    half = np.asarray(Image.fromarray(photo).resize((300, 300), Image.Resampling.LANCZOS))
    scene = np.full((512, 1200, 3), 80, dtype=np.uint8)
    scene[100:400, :300] = half
    scene[:, 400:912] = photo
    faces = finder.find(scene)
    assert len(faces) == 2
    assert overlap(faces[0].box, (400 + ASTRONAUT[0], *ASTRONAUT[1:])) > 0.7
    assert faces[1].box[0] < 300


def test_every_depth_gives_the_same_face(finder: FaceFinder, photo: np.ndarray) -> None:
    (face,) = finder.find(photo)
    alpha = np.full((512, 512, 1), 7, dtype=np.uint8)
    unit = photo / np.float32(255)
    for other in (
        photo.astype(np.uint16) * 257,
        unit,
        unit.astype(np.float64),
        unit.astype(np.float16),
        np.concatenate([photo, alpha], axis=2),
        photo[:, ::-1][:, ::-1],  # not contiguous
    ):
        (same,) = finder.find(other)
        assert np.abs(same.landmarks - face.landmarks).max() < 0.5, other.dtype


def test_gray_photos(finder: FaceFinder, photo: np.ndarray) -> None:
    gray = np.rint(photo @ [0.299, 0.587, 0.114]).astype(np.uint8)
    (flat,) = finder.find(gray)
    (column,) = finder.find(gray[..., None])
    assert overlap(flat.box, ASTRONAUT) > 0.75
    assert np.array_equal(flat.landmarks, column.landmarks)


def test_highlights_and_nan_do_no_harm(finder: FaceFinder, photo: np.ndarray) -> None:
    unit = photo / np.float32(255)
    unit[:40] = 40.0
    unit[500:] = np.nan
    unit[490:500] = -np.inf
    (face,) = finder.find(unit)
    assert overlap(face.box, ASTRONAUT) > 0.75


@pytest.mark.parametrize(
    "name", ["brick", "grass", "gravel", "text", "page", "rocket", "coffee", "moon"]
)
def test_no_face_where_none_is(finder: FaceFinder, name: str) -> None:
    assert finder.find(getattr(skimage.data, name)()) == []


def test_no_face_in_flat_and_tiny_pictures(finder: FaceFinder) -> None:
    for shape in ((1, 1, 3), (1, 900, 3), (7, 5, 3), (40, 40, 3), (300, 200, 3)):
        for value in (0, 120, 255):
            assert finder.find(np.full(shape, value, dtype=np.uint8)) == []
    noise = np.random.default_rng(5).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    assert finder.find(noise) == []


def test_tracking_follows_a_moving_face(finder: FaceFinder, photo: np.ndarray) -> None:
    scene = np.pad(photo, ((100, 100), (100, 100), (0, 0)), mode="edge")
    faces = finder.find(scene[100:612, 100:612])
    assert len(faces) == 1
    for step in range(1, 6):
        frame = np.ascontiguousarray(
            scene[100 - 6 * step : 612 - 6 * step, 100 + 8 * step : 612 + 8 * step]
        )
        faces = finder.track(frame, faces)
        moved = EYES + np.array([-8.0, 6.0]) * step
        assert len(faces) == 1
        assert np.abs(eyes_of(faces[0]) - moved).max() < 4


def test_tracking_does_not_search(finder: FaceFinder, photo: np.ndarray) -> None:
    both = np.concatenate([photo, photo], axis=1)
    faces = finder.find(both)
    assert len(faces) == 2
    kept = finder.track(both, faces[:1])
    assert len(kept) == 1
    assert overlap(kept[0].box, faces[0].box) > 0.9


def test_a_lost_face_is_searched(finder: FaceFinder, photo: np.ndarray) -> None:
    scene = np.full((600, 1400, 3), 60, dtype=np.uint8)
    before, after = scene.copy(), scene.copy()
    before[40:552, 20:532] = photo
    after[40:552, 880:1392] = photo
    faces = finder.find(before)
    (face,) = finder.track(after, faces)
    assert face.box[0] > 880
    assert finder.track(scene, faces) == []
    (again,) = finder.track(after, [])
    assert overlap(again.box, face.box) > 0.9


def test_threads_never_change_the_result(finder: FaceFinder, photo: np.ndarray) -> None:
    with FaceFinder(device="cpu", threads=2) as other:
        (two,) = other.find(photo)
    (one,) = finder.find(photo)
    assert np.array_equal(one.landmarks, two.landmarks)
    assert one.score == two.score


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((4, 4, 5), dtype=np.uint8),
        np.zeros((0, 4, 3), dtype=np.uint8),
        np.zeros((2, 4, 4, 3), dtype=np.uint8),
        np.zeros((4, 4, 3), dtype=np.int32),
        np.zeros((4, 4, 3), dtype=bool),
    ],
)
def test_what_is_no_photo_is_refused(finder: FaceFinder, wrong: np.ndarray) -> None:
    with pytest.raises(ShapeError, match="photo"):
        finder.find(wrong)


def test_options_are_checked() -> None:
    with pytest.raises(OptionError, match="smallest_face"):
        FaceFinder(smallest_face=3)
    with pytest.raises(OptionError, match="smallest_face"):
        FaceFinder(smallest_face=float("nan"))


def stand_in(x: float, y: float, width: float, height: float) -> Face:
    points = np.zeros((68, 2), dtype=np.float32)
    return Face((x, y, width, height), points, score=1.0, yaw=0.0, pitch=0.0, roll=0.0)


def test_choosing_faces() -> None:
    small, large = stand_in(0, 0, 10, 10), stand_in(50, 0, 30, 40)
    assert choose_faces([small, large]) == [small, large]
    assert choose_faces([small, large], "largest") == [large]
    assert choose_faces([], "largest") == []
    assert choose_faces([small, large], (2, 2, 10, 10)) == [small]
    with pytest.raises(NoFaceError, match="no face lies"):
        choose_faces([small, large], (200, 200, 5, 5))
    with pytest.raises(NoFaceError):
        choose_faces([], (0, 0, 5, 5))
    for wrong in ("smallest", (0, 0, 0, 5), (1, 2, 3)):
        with pytest.raises(OptionError):
            choose_faces([small], wrong)


def test_boxes() -> None:
    assert overlap((0, 0, 10, 10), (0, 0, 10, 10)) == 1.0
    assert overlap((0, 0, 10, 10), (5, 0, 10, 10)) == pytest.approx(1 / 3)
    assert overlap((0, 0, 10, 10), (20, 0, 10, 10)) == 0.0
    assert same_face((0, 0, 100, 100), (40, 40, 30, 30))  # one inside the other
    assert not same_face((0, 0, 100, 100), (80, 0, 100, 100))


def test_the_box_turns_with_the_landmarks(finder: FaceFinder, photo: np.ndarray) -> None:
    (face,) = finder.find(photo)
    assert box_of_landmarks(face.landmarks) == face.box
    centre = face.landmarks.mean(axis=0)
    upside_down = 2 * centre - face.landmarks
    _, y, width, height = box_of_landmarks(upside_down)
    assert (width, height) == pytest.approx(face.box[2:], rel=1e-3)
    # The forehead is now below the brows.
    assert y + height > upside_down[17:27, 1].max() + 5


def test_command_line(tmp_path, capsys: pytest.CaptureFixture[str], photo: np.ndarray) -> None:
    import argparse

    from revisage.cli import faces as command

    portrait, nobody = tmp_path / "astronaut.png", tmp_path / "coffee.png"
    Image.fromarray(photo).save(portrait)
    Image.fromarray(skimage.data.coffee()).save(nobody)
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers())
    args = parser.parse_args(["faces", str(portrait), str(nobody), "--json", "--device", "cpu"])
    assert args.run(args) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert (first["width"], first["height"]) == (512, 512)
    assert len(first["faces"]) == 1
    assert len(first["faces"][0]["landmarks"]) == 68
    assert overlap(tuple(first["faces"][0]["box"]), ASTRONAUT) > 0.75
    assert second["faces"] == []
    args = parser.parse_args(["faces", str(portrait), str(nobody), "--device", "cpu"])
    assert args.run(args) == 0
    text = capsys.readouterr().out
    assert "1 face\n" in text
    assert "no face" in text
