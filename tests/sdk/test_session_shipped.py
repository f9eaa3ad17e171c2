"""The whole way with the networks that ship, on a real portrait (scikit-image's astronaut)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from skimage import data
from skimage.filters import sato

import revisage as rv
from revisage import kernels
from revisage.alignment import square_matrix, transform_points
from revisage.cli import main
from revisage.operations.region import fill_polygon
from revisage.operations.square import sample_square

FULL = rv.Retouch(wrinkles=1.0)


@pytest.fixture(scope="module")
def session() -> Any:
    with rv.Session(device="cpu") as opened:
        yield opened


@pytest.fixture(scope="module")
def result(session: rv.Session) -> rv.Result:
    return session.retouch(data.astronaut(), FULL, faces="largest")


def test_the_astronaut_is_retouched_only_where_the_mask_is(result: rv.Result) -> None:
    photo = data.astronaut()
    (face,), (edit,) = result.faces, result.edits
    x, y, width, height = face.box
    assert 150 < x < 210
    assert 50 < y < 100
    assert 70 < width < 130
    changed = (result.image != photo).any(axis=2)
    assert not changed[edit.mask_on(512, 512) == 0].any()
    # Two smile lines of a face 93 px wide.
    assert 50 < changed.sum() < 0.1 * width * height
    # Brighter or darker by a shade, never painted over.
    assert np.abs(result.image.astype(int) - photo).max() < 90


def test_eyes_brows_and_lips_are_not_touched(result: rv.Result) -> None:
    (edit,) = result.edits
    assert edit.face is not None
    points = transform_points(edit.matrix, edit.face.landmarks)
    for part in (slice(17, 22), slice(22, 27), slice(36, 42), slice(42, 48), slice(48, 60)):
        assert not edit.mask[fill_polygon(points[part], edit.size)].any()


def test_ridges_under_the_mask_go(result: rv.Result) -> None:
    """Dark lines, as an independent ridge filter sees them, lose at least 40 % of their energy."""
    (edit,) = result.edits
    before, after = (
        sato(sample_square(photo, edit.matrix, 512).mean(axis=2), sigmas=(1, 1.5, 2, 3))
        for photo in (data.astronaut(), result.image)
    )
    inside = edit.mask > 0
    lines = inside & (before > np.median(before[inside]))
    assert np.square(after[lines]).sum() < 0.6 * np.square(before[lines]).sum()


def test_threads_and_repetition_change_no_byte(result: rv.Result) -> None:
    for threads in (1, 2):
        with rv.Session(device="cpu", threads=threads) as session:
            again = session.retouch(data.astronaut(), FULL, faces="largest")
        assert again.image.tobytes() == result.image.tobytes()
        assert again.edits[0].delta.tobytes() == result.edits[0].delta.tobytes()


@pytest.mark.parametrize("dtype", ["uint16", "float16", "float32"])
def test_other_depths_give_the_same_picture(
    session: rv.Session, result: rv.Result, dtype: str
) -> None:
    photo = data.astronaut()
    deep = photo.astype(np.uint16) * 257 if dtype == "uint16" else (photo / 255).astype(dtype)
    out = session.retouch(deep, FULL, faces=result.faces).image
    assert out.dtype == deep.dtype
    eight = out / 257 if dtype == "uint16" else out.astype(np.float64) * 255
    # The rounding of float16 may tip a pixel over the threshold of a wrinkle, here and there.
    assert np.quantile(np.abs(eight - result.image), 0.9995) < 1.0


def test_gray_and_transparent_portraits(session: rv.Session) -> None:
    photo = data.astronaut()
    gray = photo.mean(axis=2).astype(np.uint8)
    out = session.retouch(gray, FULL, faces="largest")
    assert out.image.shape == gray.shape
    assert (out.image != gray).any()
    alpha = np.arange(512 * 512, dtype=np.uint8).reshape(512, 512, 1)
    see_through = session.retouch(np.concatenate([photo, alpha], axis=2), FULL, faces="largest")
    np.testing.assert_array_equal(see_through.image[:, :, 3:], alpha)


def test_upside_down_square_is_the_same_face(result: rv.Result) -> None:
    """The square turns with the face: its matrix is a similarity, mirrored never."""
    assert result.edits[0].face is not None
    matrix = square_matrix(result.edits[0].face.landmarks, 512)
    np.testing.assert_array_equal(matrix, result.edits[0].matrix)
    assert np.linalg.det(matrix[:, :2]) > 0


def test_receipt_names_all_four_networks(result: rv.Result) -> None:
    receipt = result.receipt
    assert set(receipt.models) == {
        *("face_finder", "face_landmarks", "wrinkle_segmenter", "wrinkle_filler")
    }
    assert all(len(digest) == 64 for digest in receipt.models.values())
    assert (receipt.device, receipt.precision) == ("cpu", "fp32")
    ours = "portable" if kernels.onnxruntime_library() is None else "native"
    assert receipt.operators == receipt.to_dict()["operators"]
    assert "FftConv" in receipt.operators
    assert set(receipt.operators.values()) == {ours}
    assert ours in str(receipt)


def test_a_photo_of_nobody_is_one_line_and_no_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    y, x = np.mgrid[0:300, 0:400]
    Image.fromarray(((x + y) // 3).astype(np.uint8)).save(tmp_path / "slope.png")
    assert main(["retouch", str(tmp_path / "slope.png"), "-o", str(tmp_path / "out")]) == 2
    captured = capsys.readouterr()
    assert (
        captured.err == f"revisage: error: {tmp_path}/slope.png: no face was found in the photo\n"
    )
    assert [p.name for p in tmp_path.iterdir()] == ["slope.png"]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
def test_12_megapixels_take_less_than_700_mb(tmp_path: Path) -> None:
    """Peak memory of a fresh process: the whole command, file to file."""
    sheet = Image.new("RGB", (4000, 3000), (90, 100, 120))
    sheet.paste(Image.fromarray(data.astronaut()).resize((3000, 3000)), (500, 0))
    sheet.save(tmp_path / "large.jpg", quality=90)
    code = (
        "import json\n"
        "from pathlib import Path\n"
        "from revisage.cli import main\n"
        f"arguments = ['retouch', {str(tmp_path / 'large.jpg')!r}, '-o', "
        f"{str(tmp_path / 'out.jpg')!r}, '--quiet']\n"
        "code = main(arguments)\n"
        # Not ru_maxrss: that starts at the size of the process that started this one.
        "status = Path('/proc/self/status').read_text()\n"
        "peak = int(status.split('VmHWM:')[1].split()[0]) / 1024\n"
        "print(json.dumps({'code': code, 'peak_mb': peak}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["code"] == 0
    assert report["peak_mb"] < 700
