"""Video: times, colours, other streams stay; edits touch only their mask; errors leave nothing."""

from __future__ import annotations

import builtins
import hashlib
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import revisage as rv
from revisage.cli import main
from revisage.edit import Edit
from revisage.errors import MediaError, MissingExtraError, OutputError
from revisage.session import Session
from revisage.video import VideoFrame, open_video
from revisage.video.frames import FrameBatch
from tests.sdk.stand_ins import StandInParts, face_at, session_for
from tests.support import ROOT

av = pytest.importorskip("av")

FACE = face_at(80, 60, 110)
WIDTH, HEIGHT = 160, 120
# Variable frame rate: presentation times in 1/90000 s, no two steps alike.
TIMES = [0, 3000, 6100, 9000, 15000, 15900, 24000, 27000, 30500, 39000]


def make_video(
    path: Path,
    *,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    times: list[int] | None = None,
    audio: str | None = "aac",
    turn: int = 0,
    options: dict[str, str] | None = None,
    start: int = 0,
) -> Path:
    """A small moving picture with sound, colour tags and variable times."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=30, options=options or {})
        context = stream.codec_context
        context.width, context.height, context.pix_fmt = WIDTH, HEIGHT, pix_fmt
        context.time_base = stream.time_base = Fraction(1, 90000)
        context.color_range, context.colorspace = 1, 1
        context.color_primaries, context.color_trc = 1, 1
        if turn:
            stream.set_display_rotation(turn)
        sound = None
        if audio:
            sound = out.add_stream(audio, rate=48000, layout="mono")
        for number, time in enumerate(TIMES if times is None else times):
            y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
            rgb = np.stack([x + 3 * number, y + 40, (x + y) // 2 + number], -1) % 200
            frame = av.VideoFrame.from_ndarray(rgb.astype(np.uint8), "rgb24").reformat(
                format=pix_fmt, dst_colorspace="ITU709"
            )
            frame.pts, frame.time_base = time + start, Fraction(1, 90000)
            for packet in stream.encode(frame):
                out.mux(packet)
        for packet in stream.encode(None):
            out.mux(packet)
        if sound is not None:
            for number in range(20):
                wave = np.sin(np.arange(1024) / 9.0 + number)[None].astype(np.float32)
                frame = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
                frame.sample_rate, frame.pts = 48000, number * 1024
                for packet in sound.encode(frame):
                    out.mux(packet)
            for packet in sound.encode(None):
                out.mux(packet)
    return path


def packets(path: Path, kind: str) -> list[tuple[Any, ...]]:
    with av.open(str(path)) as container:
        stream = next(s for s in container.streams if s.type == kind)
        return [
            (p.pts * stream.time_base, hashlib.sha256(bytes(p)).hexdigest())
            for p in container.demux(stream)
            if p.size
        ]


def frames(path: Path) -> list[tuple[Fraction, Any]]:
    with av.open(str(path)) as container:
        return [(Fraction(f.pts * f.time_base), f.to_ndarray()) for f in container.decode(video=0)]


def copy(source: Path, out: Path, wrinkles: float, session: Session | None = None) -> None:
    session = session or session_for(FACE)
    with rv.open_video(source) as src, src.writer(out) as dst:
        for batch in session.stream(src, rv.Retouch(wrinkles=wrinkles)):
            dst.write(batch)


@pytest.mark.parametrize("ending", [".mp4", ".mkv", ".mov"])
@pytest.mark.parametrize("start", [0, 4500])
def test_times_sound_and_colours_stay(tmp_path: Path, ending: str, start: int) -> None:
    source = make_video(tmp_path / f"in{ending}", start=start)
    out = tmp_path / f"out{ending}"
    copy(source, out, 1.0)
    before, after = frames(source), frames(out)
    assert [time for time, _ in after] == [time for time, _ in before]
    assert packets(out, "audio") == packets(source, "audio")
    with av.open(str(source)) as a, av.open(str(out)) as b:
        for tag in ("color_range", "colorspace", "color_primaries", "color_trc", "pix_fmt"):
            one = getattr(a.streams.video[0].codec_context, tag)
            assert getattr(b.streams.video[0].codec_context, tag) == one
        assert b.streams.video[0].codec_context.name == "h264"


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "gray"])
def test_outside_the_mask_a_lossless_encoder_gets_the_decoded_samples(
    tmp_path: Path, pix_fmt: str
) -> None:
    source = make_video(tmp_path / "in.mkv", codec="ffv1", pix_fmt=pix_fmt, audio=None)
    out = tmp_path / "out.mkv"
    copy(source, out, 1.0)
    edit = session_for(FACE).retouch(np.zeros((HEIGHT, WIDTH, 3), np.uint8), rv.Retouch(wrinkles=1))
    covered = edit.edits[0].mask_on(HEIGHT, WIDTH) > 0
    # Chroma samples cover 2 x 2 pixels and are read bilinearly: leave a margin of 3.
    grown = covered.copy()
    for dy in range(-3, 4):
        for dx in range(-3, 4):
            grown |= np.roll(covered, (dy, dx), axis=(0, 1))
    before, after = frames_rgbless(source), frames_rgbless(out)
    changed_somewhere = False
    for old, new in zip(before, after, strict=True):
        for one, other in zip(old, new, strict=True):
            step_y, step_x = HEIGHT // one.shape[0], WIDTH // one.shape[1]
            outside = ~grown[::step_y, ::step_x]
            np.testing.assert_array_equal(one[outside], other[outside])
            changed_somewhere |= bool((one != other).any())
    assert changed_somewhere


def frames_rgbless(path: Path) -> list[list[Any]]:
    """Planes of every frame, as stored."""
    with av.open(str(path)) as container:
        found = []
        for frame in container.decode(video=0):
            dtype = np.uint16 if "10" in frame.format.name else np.uint8
            found.append(
                [
                    np.frombuffer(plane, dtype)
                    .reshape(-1, plane.line_size // np.dtype(dtype).itemsize)[
                        : plane.height, : plane.width
                    ]
                    .copy()
                    for plane in frame.planes
                ]
            )
        return found


@pytest.mark.parametrize("pix_fmt", ["yuv444p", "yuv420p", "yuv444p10le", "yuvj420p"])
@pytest.mark.parametrize("turn", [0, 90, 180, 270])
def test_an_edit_on_planes_is_the_edit_on_the_picture(pix_fmt: str, turn: int) -> None:
    """A brightening of a soft spot looks the same whether done in RGB or on the planes."""
    gray = np.full((HEIGHT, WIDTH, 3), (90, 110, 130), dtype=np.uint8)
    native = av.VideoFrame.from_ndarray(gray, "rgb24").reformat(
        format=pix_fmt, dst_colorspace="ITU709"
    )
    native.colorspace = 1
    frame = VideoFrame(0, native, turn)
    picture = frame.rgb()
    y, x = np.mgrid[0:32, 0:32]
    mask = np.clip(1.2 - np.hypot(x - 15.5, y - 15.5) / 12, 0, 1)
    delta = np.broadcast_to([0.2, 0.1, -0.1], (32, 32, 3))
    matrix = np.array([[0.5, 0.0, -10.0], [0.0, 0.5, -5.0]])
    edit = Edit("wrinkles", None, delta, mask, matrix, 1.0)
    expected = edit.apply(picture)
    shown = frame.with_edits([edit], []).rgb()
    worst = 3 if "444" in pix_fmt else 8  # chroma of 2 x 2 pixels together at the rim
    assert np.abs(shown.astype(int) - expected).max() <= worst
    assert np.abs(expected.astype(int) - picture).max() > 40


def test_a_turned_video_is_edited_upright_and_stays_turned(tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mp4", turn=90, audio=None)
    seen: list[tuple[int, ...]] = []
    parts = StandInParts([FACE])
    find = parts.faces.find
    parts.faces.find = lambda photo: seen.append(photo.shape) or find(photo)  # type: ignore[func-returns-value, method-assign]
    copy(source, tmp_path / "out.mp4", 1.0, Session(parts=parts.parts()))
    assert set(seen) == {(WIDTH, HEIGHT, 3)}
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert next(container.decode(video=0)).rotation == 90


def test_strength_0_and_frames_without_faces_pass_unchanged(tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mkv", codec="ffv1", audio=None)
    copy(source, tmp_path / "zero.mkv", 0.0)
    copy(source, tmp_path / "nobody.mkv", 1.0, session_for())
    for name in ("zero.mkv", "nobody.mkv"):
        for (_, old), (_, new) in zip(frames(source), frames(tmp_path / name), strict=True):
            np.testing.assert_array_equal(old, new)


def test_faces_are_followed_and_searched_for_now_and_then(tmp_path: Path) -> None:
    times = [3000 * n for n in range(30)]
    source = make_video(tmp_path / "in.mkv", times=times, audio=None)
    parts = StandInParts([FACE])
    tracked = []
    follow = parts.faces.track
    parts.faces.track = lambda photo, previous: tracked.append(1) or follow(photo, previous)  # type: ignore[func-returns-value, method-assign]
    copy(source, tmp_path / "out.mkv", 1.0, Session(parts=parts.parts()))
    assert parts.faces.searches == 3
    assert len(tracked) == 27


def test_one_frame_at_a_time_is_in_memory(tmp_path: Path) -> None:
    """The stream is lazy: the next frame is decoded when the one before has been taken."""
    source = make_video(tmp_path / "in.mp4")
    with open_video(source) as src:
        stream = session_for(FACE).stream(src, rv.Retouch(wrinkles=1.0))
        for count, batch in enumerate(stream):
            assert isinstance(batch, FrameBatch)
            assert len(batch.frames) <= 1
            assert src.frames_read <= count + 1
            for frame in batch.frames:
                assert frame.time == Fraction(TIMES[frame.index], 90000)
                assert frame.rgb().shape == (HEIGHT, WIDTH, 3)
                assert [edit.operation for edit in frame.edits] == ["wrinkles"]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
def test_memory_does_not_grow_with_the_length(tmp_path: Path) -> None:
    """Peak memory of fresh processes: four times the frames, hardly more memory."""
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from tests.sdk.test_video import FACE, copy, session_for\n"
        "source = Path(sys.argv[1])\n"
        "copy(source, source.with_suffix('.out.mkv'), 1.0, session_for(FACE, size=16))\n"
        # Not ru_maxrss: that starts at the size of the process that started this one.
        "status = Path('/proc/self/status').read_text()\n"
        "print(int(status.split('VmHWM:')[1].split()[0]) // 1024)\n"
    )
    peaks = []
    for count in (80, 320):  # both beyond what the encoder looks ahead
        times = [3000 * n for n in range(count)]
        source = make_video(tmp_path / f"{count}.mkv", times=times, audio=None)
        command = [sys.executable, "-c", code, str(source)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
        peaks.append(int(done.stdout))
    print(f"peaks: {peaks} MB")
    # 240 frames more of 160 x 120 in RGB and as floats would be 60 MB.
    assert peaks[1] - peaks[0] < 20


def test_metadata_and_a_second_sound_track_are_copied(tmp_path: Path) -> None:
    first = make_video(tmp_path / "in.mkv", audio="flac")
    source = tmp_path / "two.mkv"
    with av.open(str(first)) as a, av.open(str(source), "w") as out:
        out.metadata["title"] = "a title"
        streams = {s.index: out.add_stream_from_template(s) for s in a.streams}
        again = out.add_stream_from_template(a.streams.audio[0])
        for packet in a.demux():
            if not packet.size:
                continue
            target = streams[packet.stream_index]
            data = bytes(packet)
            if packet.stream.type == "audio":
                twin = av.Packet(data)
                twin.pts, twin.dts, twin.time_base = packet.pts, packet.dts, packet.time_base
                twin.stream = again
                packet.stream = target
                out.mux([packet, twin])
            else:
                packet.stream = target
                out.mux(packet)
    copy(source, tmp_path / "out.mkv", 0.5)
    with av.open(str(tmp_path / "out.mkv")) as container:
        assert container.metadata["title"] == "a title"
        assert [s.type for s in container.streams] == ["video", "audio", "audio"]


# --- errors --------------------------------------------------------------------------------------


def refused(path: Path) -> str:
    with pytest.raises(MediaError) as caught, open_video(path) as source:
        for _ in source:
            pass
    assert "\n" not in str(caught.value)
    assert path.name in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("ending", "share"),
    # Matroska states its duration only: a cut of the last 5 % and one second cannot be seen.
    [(".mp4", 0.1), (".mp4", 0.5), (".mp4", 0.9), (".mkv", 0.1), (".mkv", 0.5)],
)
def test_truncated_videos_are_errors(tmp_path: Path, ending: str, share: float) -> None:
    times = [3000 * n for n in range(90)]
    whole = make_video(tmp_path / f"in{ending}", times=times, audio=None)
    cut = tmp_path / f"cut{ending}"
    data = whole.read_bytes()
    cut.write_bytes(data[: int(len(data) * share)])
    refused(cut)


def test_truncated_with_the_index_in_front(tmp_path: Path) -> None:
    """A "fast start" MP4 opens well however short the rest is."""
    times = [3000 * n for n in range(60)]
    plain = make_video(tmp_path / "in.mp4", times=times, audio=None)
    front = tmp_path / "front.mp4"
    with (
        av.open(str(plain)) as a,
        av.open(str(front), "w", options={"movflags": "faststart"}) as out,
    ):
        target = out.add_stream_from_template(a.streams.video[0])
        for packet in a.demux(video=0):
            if packet.size:
                packet.stream = target
                out.mux(packet)
    data = front.read_bytes()
    front.write_bytes(data[: int(len(data) * 0.7)])
    refused(front)


def test_what_is_no_video(tmp_path: Path) -> None:
    assert "no such file" in refused(tmp_path / "missing.mp4")
    (tmp_path / "empty.mp4").touch()
    assert "empty" in refused(tmp_path / "empty.mp4")
    (tmp_path / "text.mp4").write_text("hello")
    refused(tmp_path / "text.mp4")
    assert "folder" in refused(tmp_path)
    with av.open(str(tmp_path / "sound.mka"), "w") as out:
        sound = out.add_stream("flac", rate=48000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.int16), "s16", "mono")
        frame.sample_rate, frame.pts = 48000, 0
        out.mux(sound.encode(frame))
        out.mux(sound.encode(None))
    assert "no video stream" in refused(tmp_path / "sound.mka")
    make_video(tmp_path / "rgb.mkv", codec="ffv1", pix_fmt="bgr0", audio=None)
    assert "bgr0" in refused(tmp_path / "rgb.mkv")


def test_nothing_is_left_when_the_work_fails(tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mp4")

    def stops() -> None:
        with open_video(source) as src, src.writer(tmp_path / "out.mp4") as dst:
            for batch in src:
                dst.write(batch)
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stops()
    assert [p.name for p in tmp_path.iterdir()] == ["in.mp4"]


def test_outputs_that_cannot_be(tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mp4")
    (tmp_path / "there.mp4").write_bytes(b"precious")
    with open_video(source) as src:
        with pytest.raises(OutputError, match="exists already"):
            src.writer(tmp_path / "there.mp4")
        with pytest.raises(OutputError):
            src.writer(tmp_path / "out.nonsense")
    assert (tmp_path / "there.mp4").read_bytes() == b"precious"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mp4", "there.mp4"]


def test_without_pyav_the_error_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    genuine = builtins.__import__

    def refuse(name: str, *rest: Any) -> Any:
        if name == "av":
            raise ModuleNotFoundError("No module named 'av'", name="av")
        return genuine(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MissingExtraError, match=r"revisage\[video\]"):
        open_video(tmp_path / "in.mp4")


# --- the command ---------------------------------------------------------------------------------


def test_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = StandInParts([FACE])
    monkeypatch.setattr("revisage.session.Parts", parts.parts)
    source, out = make_video(tmp_path / "in.mp4"), tmp_path / "out.mp4"
    assert main(["video", str(source), str(out), "--wrinkles", "0.7"]) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{out}\n"
    assert "10 frames" in captured.err
    for arguments, word in (
        ([source, out], "--force"),
        ([source, source], "itself"),
        ([tmp_path / "none.mp4", tmp_path / "o.mp4"], "no such file"),
    ):
        assert main(["video", *map(str, arguments)]) == 2
        line = capsys.readouterr().err
        assert word in line
        assert line.count("\n") == 1
    parts.faces.faces = []
    assert main(["video", str(source), str(tmp_path / "none.mp4")]) == 2
    assert "no face" in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mp4", "out.mp4"]
