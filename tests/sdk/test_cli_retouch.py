"""`revisage retouch` and the frame around it: files, errors of one line, nothing left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from revisage.cli import COMMANDS, main
from revisage.edit import Edit, apply_edits
from revisage.photo import Photo, read_photo, write_photo
from tests.sdk.stand_ins import StandInParts, face_at

FACES = (face_at(80, 70, 130), face_at(180, 90, 80))


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> StandInParts:
    parts = StandInParts(FACES)
    monkeypatch.setattr("revisage.session.Parts", parts.parts)
    return parts


def picture(dtype: str = "uint8", channels: int = 3) -> Any:
    rng = np.random.default_rng(4)
    full = 255 if dtype == "uint8" else 65535
    shape = (150, 240) if channels == 1 else (150, 240, channels)
    return rng.integers(0, full + 1, shape).astype(dtype)


def save(path: Path, dtype: str = "uint8", channels: int = 3) -> Path:
    write_photo(Photo(picture(dtype, channels)), path)
    return path


def fails(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """Run a command that must fail: exit code 2 and exactly one line, which is returned."""
    assert main([str(argument) for argument in arguments]) == 2
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("revisage: error: ")
    assert captured.out == ""
    return lines[0]


def names(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


# --- what it writes ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "dtype", "channels"),
    [("a.png", "uint8", 3), ("a.png", "uint16", 4), ("a.tif", "uint16", 3), ("a.png", "uint8", 1)],
)
def test_one_file_to_one_file_is_exact(
    tmp_path: Path, stand_ins: StandInParts, name: str, dtype: str, channels: int
) -> None:
    source = save(tmp_path / name, dtype, channels)
    out = tmp_path / f"out{source.suffix}"
    assert main(["retouch", str(source), "-o", str(out), "--wrinkles", "1", "--layers"]) == 0
    before, after = read_photo(source).pixels, read_photo(out).pixels
    assert after.dtype == before.dtype
    assert (after != before).any()
    edits = Edit.read_layers(tmp_path / "out_layers")
    assert len(edits) == 2
    np.testing.assert_array_equal(apply_edits(before, edits), after)


@pytest.mark.parametrize(
    ("text", "precisions"),
    [
        ("int8", {"wrinkle_segmenter": "int8", "wrinkle_filler": "int8"}),
        ("wrinkle_filler=fp16", {"wrinkle_segmenter": "fp32", "wrinkle_filler": "fp16"}),
        (
            "wrinkle_segmenter=int8, wrinkle_filler=bf16",
            {"wrinkle_segmenter": "int8", "wrinkle_filler": "bf16"},
        ),
    ],
)
def test_engine_and_precision_reach_the_networks(
    tmp_path: Path, stand_ins: StandInParts, text: str, precisions: dict[str, str]
) -> None:
    out = str(tmp_path / "out.png")
    options = ["--device", "cpu", "--engine", "onnxruntime-cpu", "--precision", text]
    assert main(["retouch", str(save(tmp_path / "a.png")), "-o", out, *options]) == 0
    assert {name: c.precision for name, c in stand_ins.choices.items()} == precisions
    assert {(c.device, c.engine) for c in stand_ins.choices.values()} == {
        ("cpu", "onnxruntime-cpu")
    }


def test_unknown_engines_and_precisions_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("retouch", save(tmp_path / "a.png"), "-o", tmp_path / "out.png")
    assert "engine 'gpu' is not one of onnxruntime-cpu" in fails(
        capsys, *command, "--engine", "gpu"
    )
    assert "precision 'half' is not one of" in fails(capsys, *command, "--precision", "half")
    assert "no bundle" in fails(capsys, *command, "--precision", "wrinkles=int8")


def test_to_a_folder_with_everything(
    tmp_path: Path, stand_ins: StandInParts, capsys: pytest.CaptureFixture[str]
) -> None:
    source = save(tmp_path / "me.png")
    out = tmp_path / "out"
    arguments = ["retouch", str(source), "-o", str(out), "--layers", "--compare", "--receipt"]
    assert main([*arguments, "--json", str(out / "receipt.json")]) == 0
    layers = [
        f"me_layers/wrinkles_face{n}{ending}"
        for n in (1, 2)
        for ending in (".json", "_delta.png", "_delta.tif", "_mask.png", "_mask.tif")
    ]
    assert names(out) == sorted(["me_retouched.png", "me_compare.png", "receipt.json", *layers])
    with Image.open(out / "me_compare.png") as sheet:
        assert sheet.size == (2 * 240 + 8, 150)
        halves = np.asarray(sheet)
    np.testing.assert_array_equal(halves[:, :240], read_photo(source).pixels)
    np.testing.assert_array_equal(halves[:, 248:], read_photo(out / "me_retouched.png").pixels)
    (entry,) = json.loads((out / "receipt.json").read_text())
    assert entry["engine"] == "stand-in"
    assert next(iter(entry["milliseconds"])) == "read"
    assert list(entry["milliseconds"])[-1] == "write"
    printed = capsys.readouterr()
    for word in ("me_retouched.png", "me_compare.png", "me_layers", "stand-in", "composite"):
        assert word in printed.out
    assert "[1/1]" in printed.err


def test_json_on_stdout_is_only_json(
    tmp_path: Path, stand_ins: StandInParts, capsys: pytest.CaptureFixture[str]
) -> None:
    source = save(tmp_path / "me.png")
    assert main(["retouch", str(source), "-o", str(tmp_path / "o.png"), "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["out"] == str(tmp_path / "o.png")


def test_one_bad_file_does_not_lose_the_others(
    tmp_path: Path, stand_ins: StandInParts, capsys: pytest.CaptureFixture[str]
) -> None:
    good, better = save(tmp_path / "good.png"), save(tmp_path / "better.tif", "uint16")
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"\xff\xd8\xff nonsense")
    out = tmp_path / "out"
    arguments = ["retouch", *map(str, (good, bad, better)), "-o", str(out), "--quiet"]
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert "bad.jpg" in captured.err
    assert names(out) == ["better_retouched.tif", "good_retouched.png"]


def test_largest_and_strength_0(tmp_path: Path, stand_ins: StandInParts) -> None:
    source = save(tmp_path / "me.png")
    out = tmp_path / "out"
    assert main(["retouch", str(source), "-o", str(out), "--faces", "largest", "--layers"]) == 0
    assert len(Edit.read_layers(out / "me_layers")) == 1
    assert main(["retouch", str(source), "-o", str(tmp_path / "z.png"), "--wrinkles", "0"]) == 0
    np.testing.assert_array_equal(read_photo(tmp_path / "z.png").pixels, read_photo(source).pixels)


def test_jpeg_stays_close_outside_the_mask(tmp_path: Path, stand_ins: StandInParts) -> None:
    y, x = np.mgrid[0:150, 0:240]
    smooth = np.stack([x, y, (x + y) // 2], axis=-1).astype(np.uint8)
    source = tmp_path / "me.jpg"
    Image.fromarray(smooth).save(source, quality=90)
    assert main(["retouch", str(source), "-o", str(tmp_path / "out.jpg")]) == 0
    before, after = (read_photo(p).pixels.astype(int) for p in (source, tmp_path / "out.jpg"))
    far = (slice(140, 150), slice(0, 240))
    assert np.abs(after - before)[far].max() <= 3


# --- what it refuses -----------------------------------------------------------------------------


def test_bad_photos(
    tmp_path: Path, stand_ins: StandInParts, capsys: pytest.CaptureFixture[str]
) -> None:
    good = save(tmp_path / "good.png")
    files = {
        "missing.png": None,
        "empty.png": b"",
        "text.jpg": b"hello",
        "cut.png": good.read_bytes()[:500],
    }
    for name, content in files.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
        line = fails(capsys, "retouch", tmp_path / name, "-o", tmp_path / "new" / "out.png")
        assert name in line
        assert line.count(name) == 1
    assert not (tmp_path / "new").exists()


def test_no_face(
    tmp_path: Path, stand_ins: StandInParts, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_ins.faces.faces = []
    source = save(tmp_path / "landscape.png")
    line = fails(capsys, "retouch", source, "-o", tmp_path / "out", "--layers", "--compare")
    assert "no face" in line
    assert "landscape.png" in line
    assert names(tmp_path) == ["landscape.png"]


def test_existing_output_needs_force(
    tmp_path: Path, stand_ins: StandInParts, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = save(tmp_path / "me.png"), tmp_path / "out.png"
    out.write_bytes(b"precious")
    assert "--force" in fails(capsys, "retouch", source, "-o", out)
    assert out.read_bytes() == b"precious"
    assert stand_ins.faces.searches == 0  # found before the work
    assert main(["retouch", str(source), "-o", str(out), "--force"]) == 0
    assert read_photo(out).pixels.shape == (150, 240, 3)


def test_when_the_layers_cannot_be_written_nothing_is(
    tmp_path: Path, stand_ins: StandInParts, capsys: pytest.CaptureFixture[str]
) -> None:
    source = save(tmp_path / "me.png")
    (tmp_path / "out_layers").write_text("a file in the way")
    fails(capsys, "retouch", source, "-o", tmp_path / "out.png", "--layers")
    assert names(tmp_path) == ["me.png", "out_layers"]


def test_outputs_that_cannot_be(
    tmp_path: Path, stand_ins: StandInParts, capsys: pytest.CaptureFixture[str]
) -> None:
    source, deep = save(tmp_path / "me.png"), save(tmp_path / "deep.png", "uint16")
    assert "ending" in fails(capsys, "retouch", source, "-o", tmp_path / "out.bmp")
    assert "depth" in fails(capsys, "retouch", deep, "-o", tmp_path / "out.jpg")
    assert "folder" in fails(capsys, "retouch", source, deep, "-o", tmp_path / "out.png")
    line = fails(capsys, "retouch", source, source, "-o", tmp_path / "out")
    assert "would both become" in line
    assert names(tmp_path) == ["deep.png", "me.png"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write into read-only folders")
def test_read_only_folder(
    tmp_path: Path, stand_ins: StandInParts, capsys: pytest.CaptureFixture[str]
) -> None:
    source = save(tmp_path / "me.png")
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    assert "not writable" in fails(capsys, "retouch", source, "-o", locked / "out.png")
    assert not list(locked.iterdir())


def test_a_folder_that_takes_nothing(
    tmp_path: Path, stand_ins: StandInParts, capsys: pytest.CaptureFixture[str]
) -> None:
    """/proc refuses files even to root."""
    source = save(tmp_path / "me.png")
    fails(capsys, "retouch", source, "-o", "/proc/self/out.png")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["frobnicate"],
        ["retouch"],
        ["retouch", "IN"],
        ["retouch", "IN", "-o", "OUT.png", "--wrinkles", "2"],
        ["retouch", "IN", "-o", "OUT.png", "--wrinkles", "lots"],
        ["retouch", "IN", "-o", "OUT.png", "--device", "tpu"],
        ["retouch", "IN", "-o", "OUT.png", "--threads", "0"],
        ["retouch", "IN", "-o", "OUT.png", "--faces", "few"],
        ["retouch", "IN", "-o", "OUT.png", "--blemishes", "1"],
    ],
    ids=" ".join,
)
def test_wrong_arguments(
    tmp_path: Path,
    stand_ins: StandInParts,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
) -> None:
    source = save(tmp_path / "me.png")
    places = {"IN": str(source), "OUT.png": str(tmp_path / "out.png")}
    fails(capsys, *(places.get(argument, argument) for argument in arguments))
    assert names(tmp_path) == ["me.png"]


def test_a_compressed_layer_stays_16_bit(tmp_path: Path, stand_ins: StandInParts) -> None:
    source = save(tmp_path / "me.png")
    assert main(["retouch", str(source), "-o", str(tmp_path / "o.png"), "--layers"]) == 0
    delta = tifffile.imread(tmp_path / "o_layers" / "wrinkles_face1_delta.tif")
    assert delta.dtype == np.uint16


# --- the program ---------------------------------------------------------------------------------


def test_every_command_is_registered(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        main(["--help"])
    assert done.value.code == 0
    shown = capsys.readouterr().out
    for command in COMMANDS:
        assert f"\n    {command}" in shown
        with pytest.raises(SystemExit) as done:
            main([command, "--help"])
        assert done.value.code == 0
    assert main(["--version"]) == 0


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom revisage.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'numpy', 'onnxruntime', 'PIL', 'torch', 'av', 'tifffile'} & set(sys.modules)\n"
        "print('HEAVY', sorted(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "HEAVY []" in done.stdout
