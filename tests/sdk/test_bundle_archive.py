"""Bundles as one file: the same bytes every time, opened whole, and no abuse of the format."""

from __future__ import annotations

import io
import os
import stat
import struct
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from revisage.bundle import Bundle
from revisage.bundle_archive import MAX_MEMBERS, pack, unpack
from revisage.cli import main
from revisage.engines import open_engine
from revisage.errors import BundleError, OutputError
from tests.sdk.toy_bundle import write_toy_bundle


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_toy_bundle(tmp_path / "toy")


@pytest.fixture
def archive(folder: Path, tmp_path: Path) -> Path:
    return pack(Bundle.open(folder), tmp_path / "toy.zip")


def test_an_archive_is_the_bundle(folder: Path, archive: Path) -> None:
    bundle = Bundle.open(archive)
    assert dict(bundle.files()) == dict(Bundle.open(folder).files())
    assert bundle.digest == Bundle.open(folder).digest
    with open_engine(bundle, "cpu", threads=1) as engine:
        assert engine.active


def test_the_same_bundle_gives_the_same_bytes(
    folder: Path, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "time", lambda: 1e9)
    for name in ("model.onnx", "manifest.json"):
        os.utime(folder / name, (5e8, 5e8))
        (folder / name).chmod(0o600)
    again = pack(Bundle.open(archive), tmp_path / "again.zip")
    assert pack(Bundle.open(folder), tmp_path / "other.zip").read_bytes() == archive.read_bytes()
    assert again.read_bytes() == archive.read_bytes()


def test_any_tool_reads_an_archive(archive: Path) -> None:
    with zipfile.ZipFile(archive) as found:
        assert found.testzip() is None
        assert found.namelist() == ["manifest.json", "certificate.json", "model.onnx"]


def test_unpacking_gives_the_folder_back(folder: Path, archive: Path, tmp_path: Path) -> None:
    place = unpack(Bundle.open(archive), tmp_path / "out")
    assert place == tmp_path / "out" / "toy"
    assert {p.name: p.read_bytes() for p in place.iterdir()} == {
        p.name: p.read_bytes() for p in folder.iterdir()
    }
    assert stat.S_IMODE(place.stat().st_mode) == 0o755


def test_what_exists_is_replaced_only_when_told_to(folder: Path, archive: Path) -> None:
    bundle = Bundle.open(archive)
    for copy in (
        lambda **o: pack(bundle, archive, **o),
        lambda **o: unpack(bundle, folder.parent, **o),
    ):
        with pytest.raises(OutputError, match="exists already"):
            copy()
        assert copy(force=True).exists()
    assert sorted(p.name for p in folder.parent.iterdir()) == ["toy", "toy.zip"]


def test_a_damaged_bundle_is_not_packed(folder: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(folder)
    (folder / "model.onnx").write_bytes(b"")
    with pytest.raises(BundleError, match="sha256"):
        pack(bundle, tmp_path / "out.zip")
    with pytest.raises(BundleError, match="sha256"):
        unpack(bundle, tmp_path / "out")
    assert not (tmp_path / "out.zip").exists()
    assert not list((tmp_path / "out").iterdir())


def test_a_place_that_cannot_be_written(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        pack(Bundle.open(folder), tmp_path / "nowhere" / "toy.zip")
    with pytest.raises(OutputError, match="cannot be written"):
        unpack(Bundle.open(folder), tmp_path / "file")


def test_the_commands(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = tmp_path / "toy.zip", tmp_path / "out"
    assert main(["models", "pack", str(folder), "-o", str(file)]) == 0
    assert main(["models", "verify", str(file)]) == 0
    assert "digests match, certified output on onnxruntime-cpu" in capsys.readouterr().out
    assert main(["models", "unpack", str(file), "-o", str(out)]) == 0
    assert Bundle.open(out / "toy") == Bundle.open(out / "toy")
    assert main(["models", "unpack", str(file), "-o", str(out)]) == 2
    assert "--force" in capsys.readouterr().err
    file.write_bytes(file.read_bytes()[:-100])
    assert main(["models", "verify", str(file)]) == 1
    assert main(["models", "unpack", str(file), "-o", str(tmp_path / "none")]) == 2
    assert not (tmp_path / "none").exists()


# --- hostile archives ----------------------------------------------------------------------------

Files = dict[str, bytes]


def zipped(files: Files, **options: object) -> bytes:
    """What an ordinary program makes of files: `write` is called for every member."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", **options) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            archive.writestr(name, content)
    return made.getvalue()


def with_extra(name: str) -> Callable[[Files], bytes]:
    return lambda files: zipped({**files, name: b"x"})


def with_mode(mode: int) -> Callable[[Files], bytes]:
    def make(files: Files) -> bytes:
        made = io.BytesIO()
        with zipfile.ZipFile(made, "w") as archive:
            for name, content in files.items():
                info = zipfile.ZipInfo(name)
                if name == "model.onnx":
                    info.external_attr, content = mode << 16, b"/etc/hostname"
                archive.writestr(info, content)
        return made.getvalue()

    return make


def duplicated(files: Files) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("model.onnx", b"other")
    return made.getvalue()


def bomb(files: Files) -> bytes:
    """64 MiB of zeros in 64 KiB."""
    return zipped({**files, "model.onnx": bytes(1 << 26)}, compression=zipfile.ZIP_DEFLATED)


def nested(files: Files) -> bytes:
    return zipped({"inner.zip": bomb(files)})


def numerous(files: Files) -> bytes:
    return zipped({**files, **{f"f{i}": b"" for i in range(MAX_MEMBERS)}})


def millions(files: Files) -> bytes:
    """A directory of a gigabyte of members, which a reader would take in whole."""
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 65535, 65535, 1 << 30, 0, 0)
    return zipped(files)[:-22] + end


def directory_offset(content: bytes) -> int:
    return int(struct.unpack("<L", content[-6:-2])[0])


def entry(content: bytes, name: bytes) -> int:
    """Where the directory speaks of a member."""
    return content.index(name, directory_offset(content)) - 46


def patched(
    at: int, form: str, value: int, name: bytes = b"model.onnx"
) -> Callable[[Files], bytes]:
    """A directory entry with one number changed."""

    def make(files: Files) -> bytes:
        content = bytearray(zipped(files))
        struct.pack_into(form, content, entry(bytes(content), name) + at, value)
        return bytes(content)

    return make


def commented(files: Files) -> bytes:
    content = zipped(files)
    return content[:-2] + struct.pack("<H", 5) + b"hello"


def in_64_bits(files: Files) -> bytes:
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, 0, 1)
    content = zipped(files)
    return content[:-22] + locator + content[-22:]


ATTACKS: dict[str, tuple[Callable[[Files], bytes], str]] = {
    "traversal": (with_extra("../outside"), "plain file name"),
    "absolute": (with_extra("/etc/cron.d/x"), "plain file name"),
    "drive": (with_extra("C:\\x"), "plain file name"),
    "folder": (with_extra("sub/"), "plain file name"),
    "hidden": (with_extra(".profile"), "plain file name"),
    "unlisted": (with_extra("readme.txt"), "does not list: readme.txt"),
    "case": (with_extra("MODEL.onnx"), "stands in it twice"),
    "duplicate": (duplicated, "stands in it twice"),
    "link": (with_mode(stat.S_IFLNK | 0o777), "link or a device"),
    "device": (with_mode(stat.S_IFBLK | 0o666), "link or a device"),
    "bomb": (bomb, "compressed"),
    "nested bomb": (nested, r"manifest\.json: missing"),
    "numerous": (numerous, "members, a bundle at most"),
    "millions": (millions, "members, a bundle at most"),
    "encrypted": (patched(8, "<H", 1), "encrypted"),
    "streamed": (patched(8, "<H", 8), "size is not stated"),
    "method": (patched(10, "<H", 99), "is compressed"),
    "size larger": (patched(24, "<L", (1 << 32) - 2), "is compressed"),
    "size smaller": (patched(24, "<L", 1), "is compressed"),
    "overlap": (patched(42, "<L", 0), "overlaps"),
    "checksum": (patched(16, "<L", 1), "damaged archive"),
    "prefix": (lambda files: b"#!/bin/sh\n" + zipped(files), "not where it says"),
    "comment": (commented, "does not end as one"),
    "64 bits": (in_64_bits, "64-bit"),
    "empty": (lambda _: b"", "0 bytes"),
    "no archive": (lambda _: b"x" * 1000, "does not end as one"),
    "nothing inside": (lambda _: zipped({}), "0 members"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_hostile_archive_is_refused(attack: str, folder: Path, tmp_path: Path) -> None:
    make, message = ATTACKS[attack]
    content = make(dict(Bundle.open(folder).files()))
    place = tmp_path / "jail" / "hostile.zip"
    place.parent.mkdir()
    place.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(BundleError, match=message) as refused:
            unpack(Bundle.open(place), tmp_path / "jail" / "out")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert str(place) in str(refused.value)
    assert peak < 8 << 20
    assert sorted(p.name for p in tmp_path.iterdir()) == ["jail", "toy"]
    assert [p.name for p in place.parent.iterdir()] == ["hostile.zip"]


def test_no_cut_of_an_archive_opens(archive: Path) -> None:
    content = archive.read_bytes()
    for length in range(0, len(content), 97):
        archive.write_bytes(content[:length])
        with pytest.raises(BundleError):
            Bundle.open(archive)


def test_a_pipe_in_place_of_an_archive_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.zip")
    with pytest.raises(BundleError, match="no regular file"):
        Bundle.open(tmp_path / "pipe.zip")


def test_an_archive_that_changes_after_opening_is_not_used(archive: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(archive)
    other = write_toy_bundle(tmp_path / "other", version="2.0")
    pack(Bundle.open(other), archive, force=True)
    with pytest.raises(BundleError, match="changed since"):
        dict(bundle.files())
