"""The cache of built engines: damage, other versions, other processes, death, full disks."""

from __future__ import annotations

import dataclasses
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import revisage
from revisage import env
from revisage.bundle import Bundle
from revisage.engines.cache import LOCKS, MAGIC, EngineCache, EngineKey, watched
from revisage.errors import BuildCancelledError, EngineError, OptionError
from tests.sdk.toy_bundle import write_toy_bundle

KEY = EngineKey(
    model_digest="a" * 64,
    shapes="image:1x3x64x64/4x3x64x64/8x3x64x64",
    precision="fp32",
    engine="tensorrt",
    engine_version="10.13.2",
    compute_capability="8.9",
    driver="570.1",
    version="0.1.0",
)
ENGINE = b"machine code" * 1000
TREE = str(Path(env.__file__).parents[1])


def never() -> bytes:
    raise AssertionError("built again")


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    return EngineCache(tmp_path / "engines")


@pytest.fixture
def warnings() -> Iterator[list[str]]:
    """Messages to the user, as they come."""
    messages: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("revisage.engines.cache")
    logger.addHandler(handler)
    yield messages
    logger.removeHandler(handler)


def files(cache: EngineCache) -> list[str]:
    return sorted(path.name for path in cache.folder.iterdir() if path.name != LOCKS)


def test_built_once_then_loaded(cache: EngineCache, warnings: list[str]) -> None:
    assert cache.load(KEY) is None
    assert cache.get_or_build(KEY, lambda: ENGINE, about={"model": "toy"}) == ENGINE
    assert cache.get_or_build(KEY, never) == ENGINE
    assert EngineCache(cache.folder).load(KEY) == ENGINE
    (entry,) = cache.entries()
    assert (entry.key, entry.about) == (KEY, {"model": "toy"})
    assert entry.bytes == entry.path.stat().st_size > len(ENGINE)
    assert files(cache) == [KEY.file_name]
    assert not warnings


def test_every_part_of_the_key_counts(cache: EngineCache) -> None:
    cache.get_or_build(KEY, lambda: ENGINE)
    for field in dataclasses.fields(EngineKey):
        other = dataclasses.replace(KEY, **{field.name: getattr(KEY, field.name) + "0"})
        assert cache.load(other) is None
        assert other.file_name != KEY.file_name
    assert cache.load(KEY) == ENGINE


def test_the_key_of_a_bundle(tmp_path: Path) -> None:
    bundle = Bundle.open(write_toy_bundle(tmp_path / "toy"))
    key = EngineKey.of(
        bundle,
        KEY.shapes,
        precision="fp32",
        engine="tensorrt",
        engine_version="10.13.2",
        compute_capability="8.9",
        driver="570.1",
    )
    assert key == dataclasses.replace(
        KEY, model_digest=bundle.graph_digest("fp32"), version=revisage.__version__
    )


def test_a_library_with_files_of_its_own(cache: EngineCache) -> None:
    places: list[Path] = []

    def load(folder: Path) -> str:
        places.append(folder)
        if (folder / "deep" / "a.engine").exists():
            return "loaded " + (folder / "deep" / "a.engine").read_text()
        (folder / "deep").mkdir()
        (folder / "deep" / "a.engine").write_text("code")
        return "built"

    phases: list[str] = []
    with watched(lambda phase, done, total: phases.append(phase)):
        assert cache.load_with_files(KEY, load, about={"model": "toy"}) == "built"
        assert cache.load_with_files(KEY, load) == "loaded code"
    assert phases == ["building"]
    assert len(set(places)) == 2
    assert not any(place.exists() for place in places)
    assert cache.entries()[0].about == {"model": "toy"}
    cache.path(KEY).write_bytes(b"damaged")
    assert cache.load_with_files(KEY, load) == "built"

    def fail(_: Path) -> str:
        raise EngineError("no room on the GPU")

    cache.clear()
    with pytest.raises(EngineError, match="no room"):
        cache.load_with_files(KEY, fail)
    assert files(cache) == []


# --- damage --------------------------------------------------------------------------------------


def damaged(content: bytes, how: str) -> bytes:
    return {
        "empty": b"",
        "in the magic": b"R" + content[1:],
        "another program's": b"ftrt" + bytes(5000),
        "in the header": content.replace(b'"sha256"', b'"sha255"', 1),
        "endless header": MAGIC + b"\xff\xff\xff\xff" + content[len(MAGIC) + 4 :],
        "deep header": MAGIC + (100000).to_bytes(4, "little") + b"[" * 100000,
        "negative size": content.replace(b'"bytes": 12000', b'"bytes": -1200', 1),
        "cut in the header": content[:100],
        "cut by a byte": content[:-1],
        "a byte more": content + b"\0",
        "a bit turned": content[:-7] + bytes([content[-7] ^ 1]) + content[-6:],
        "of another key": content.replace(b'"8.9"', b'"8.6"', 1),
    }[how]


DAMAGES = {
    "empty": "no engine of Revisage",
    "in the magic": "no engine of Revisage",
    "another program's": "no engine of Revisage",
    "in the header": "header cannot be read",
    "endless header": "header cannot be read",
    "deep header": "header cannot be read",
    "negative size": "impossible size",
    "cut in the header": "header cannot be read",
    "cut by a byte": "11999 of 12000 bytes are there",
    "a byte more": "more of 12000 bytes are there",
    "a bit turned": "sha256",
    "of another key": "for compute capability 8.6, not 8.9",
}


@pytest.mark.parametrize("how", DAMAGES)
def test_damage_is_found_and_built_again(cache: EngineCache, warnings: list[str], how: str) -> None:
    cache.get_or_build(KEY, lambda: b"old " * 3000)
    path = cache.path(KEY)
    path.write_bytes(damaged(path.read_bytes(), how))
    assert cache.get_or_build(KEY, lambda: ENGINE) == ENGINE
    (message,) = warnings
    assert DAMAGES[how] in message
    assert path.name in message
    assert cache.get_or_build(KEY, never) == ENGINE


def test_any_cut_is_found(cache: EngineCache) -> None:
    cache.get_or_build(KEY, lambda: ENGINE)
    path = cache.path(KEY)
    whole = path.read_bytes()
    for size in {*range(0, len(whole) - len(ENGINE), 7), *range(0, len(whole), 997)}:
        path.write_bytes(whole[:size])
        assert cache.load(KEY) is None
        assert not path.exists()
    path.write_bytes(whole)
    assert cache.load(KEY) == ENGINE


@pytest.mark.parametrize(
    ("field", "text"),
    [("driver", "driver 570.1, not 580.2"), ("engine_version", "engine version 10.13.2, not 11")],
)
def test_an_update_is_explained(
    cache: EngineCache, warnings: list[str], field: str, text: str
) -> None:
    cache.get_or_build(KEY, lambda: b"old")
    updated = dataclasses.replace(KEY, **{field: text.rpartition(" ")[2]})
    assert cache.get_or_build(updated, lambda: ENGINE) == ENGINE
    assert [text in message for message in warnings] == [True]
    # Another machine with the old driver still finds its engine, without a word.
    assert cache.get_or_build(KEY, never) == b"old"
    assert cache.get_or_build(updated, never) == ENGINE
    assert len(warnings) == 1


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_what_others_can_write_is_not_loaded(cache: EngineCache, warnings: list[str]) -> None:
    cache.get_or_build(KEY, lambda: b"theirs")
    path = cache.path(KEY)
    assert path.stat().st_mode & 0o022 == 0
    assert cache.folder.stat().st_mode & 0o077 == 0
    path.chmod(0o666)
    assert cache.get_or_build(KEY, lambda: ENGINE) == ENGINE
    assert "other users may write the file" in warnings[0]


def test_a_folder_under_its_name(cache: EngineCache, warnings: list[str]) -> None:
    cache.path(KEY).mkdir(parents=True)
    assert cache.get_or_build(KEY, lambda: ENGINE) == ENGINE
    assert any("cannot be written" in message for message in warnings)


# --- failing builds and disks --------------------------------------------------------------------


def test_a_failed_build_leaves_nothing(cache: EngineCache) -> None:
    def fail() -> bytes:
        raise EngineError("no room on the GPU")

    with pytest.raises(EngineError, match="no room"):
        cache.get_or_build(KEY, fail)
    assert files(cache) == []
    assert cache.get_or_build(KEY, lambda: ENGINE) == ENGINE


def test_a_full_disk_still_gives_the_engine(
    cache: EngineCache, warnings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        assert cache.get_or_build(KEY, lambda: ENGINE) == ENGINE
    assert ["No space left on device" in message for message in warnings] == [True]
    assert files(cache) == []
    assert cache.get_or_build(KEY, lambda: ENGINE) == ENGINE
    assert cache.get_or_build(KEY, never) == ENGINE


def test_a_folder_that_cannot_be_written(tmp_path: Path, warnings: list[str]) -> None:
    (tmp_path / "file").write_bytes(b"")
    cache = EngineCache(tmp_path / "file" / "engines")  # also for root, whom no mode stops
    assert cache.get_or_build(KEY, lambda: ENGINE) == ENGINE
    assert any("REVISAGE_CACHE" in message for message in warnings)
    assert cache.entries() == []


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write all")
def test_a_read_only_folder_serves(cache: EngineCache, warnings: list[str]) -> None:
    cache.get_or_build(KEY, lambda: ENGINE)
    cache.folder.chmod(0o500)
    try:
        assert cache.get_or_build(KEY, never) == ENGINE
        other = dataclasses.replace(KEY, precision="fp16")
        assert cache.get_or_build(other, lambda: b"other") == b"other"
    finally:
        cache.folder.chmod(0o700)
    assert ["cannot be written" in message for message in warnings] == [True]


# --- size ----------------------------------------------------------------------------------------


def test_the_least_recently_used_go(tmp_path: Path) -> None:
    keys = [dataclasses.replace(KEY, shapes=f"{n}") for n in range(4)]
    cache = EngineCache(tmp_path, limit=3 * len(ENGINE) + 3000)
    for age, key in enumerate(keys[:3]):
        cache.get_or_build(key, lambda: ENGINE)
        os.utime(cache.path(key), (age, age))
    assert cache.load(keys[0]) == ENGINE  # used: keys[1] is now the oldest
    cache.get_or_build(keys[3], lambda: ENGINE)
    assert [cache.path(key).exists() for key in keys] == [True, False, True, True]
    tiny = EngineCache(tmp_path, limit=1)
    tiny.get_or_build(keys[1], lambda: ENGINE)
    assert [entry.key for entry in tiny.entries()] == [keys[1]]  # what runs now stays


def test_clear_removes_engines_and_nothing_else(cache: EngineCache) -> None:
    cache.get_or_build(KEY, lambda: ENGINE)
    cache.path(KEY).with_suffix(".mine").write_bytes(b"kept")
    size = cache.path(KEY).stat().st_size
    assert cache.clear() == (1, size)
    assert [Path(name).suffix for name in files(cache)] == [".mine"]
    assert EngineCache(cache.folder / "missing").clear() == (0, 0)


def test_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("REVISAGE_CACHE", str(tmp_path))
    monkeypatch.setenv("REVISAGE_CACHE_GIGABYTES", "0.5")
    assert (EngineCache().folder, EngineCache().limit) == (tmp_path, 500_000_000)
    for wrong in ("none", "0", "-1", "inf", "nan"):
        monkeypatch.setenv("REVISAGE_CACHE_GIGABYTES", wrong)
        with pytest.raises(OptionError, match="REVISAGE_CACHE_GIGABYTES"):
            env.cache_bytes()
    monkeypatch.delenv("REVISAGE_CACHE")
    assert env.cache_folder().parts[-2:] == ("revisage", "engines")


# --- several threads and processes ---------------------------------------------------------------

# A builder in a process of its own: tells its builds, and stops where the test wants it to.
PROCESS = """
import json, os, sys, time
from pathlib import Path
from revisage.engines.cache import EngineCache, EngineKey

folder, key, stop = Path(sys.argv[1]), EngineKey(**json.loads(sys.argv[2])), sys.argv[3]
told = folder.parent

def wait(*_):
    (told / "stopped").touch()
    time.sleep(60)

def build():
    with (told / "builds").open("a") as file:
        file.write("one\\n")
    wait() if stop == "building" else time.sleep(0.5)
    return b"machine code" * 1000

if stop == "writing":
    os.fsync = wait
print(len(EngineCache(folder).get_or_build(key, build)))
"""


def start(cache: EngineCache, stop: str = "") -> subprocess.Popen[str]:
    import json

    arguments = [str(cache.folder), json.dumps(dataclasses.asdict(KEY)), stop]
    return subprocess.Popen(
        [sys.executable, "-c", PROCESS, *arguments],
        env={**os.environ, "PYTHONPATH": TREE},
        stdout=subprocess.PIPE,
        text=True,
    )


def wait_for(path: Path) -> None:
    end = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < end, f"{path.name} did not appear"
        time.sleep(0.01)


def test_processes_that_ask_at_once_build_once(cache: EngineCache, tmp_path: Path) -> None:
    processes = [start(cache) for _ in range(4)]
    assert [process.communicate()[0].strip() for process in processes] == ["12000"] * 4
    assert (tmp_path / "builds").read_text() == "one\n"
    assert cache.get_or_build(KEY, never) == ENGINE


def test_threads_that_ask_at_once_build_once(cache: EngineCache) -> None:
    builds, found = [], []

    def build() -> bytes:
        builds.append(1)
        time.sleep(0.3)
        return ENGINE

    threads = [
        threading.Thread(target=lambda: found.append(cache.get_or_build(KEY, build)))
        for _ in range(5)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(builds), found) == (1, [ENGINE] * 5)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no kill -9 here")
@pytest.mark.parametrize("stop", ["building", "writing"])
def test_kill_9_leaves_a_usable_cache(cache: EngineCache, tmp_path: Path, stop: str) -> None:
    process = start(cache, stop)
    wait_for(tmp_path / "stopped")
    cancelled = threading.Event()
    phases: list[tuple[str, int]] = []

    def progress(phase: str, seconds: int, total: int) -> None:
        phases.append((phase, total))
        cancelled.set()

    with (
        watched(progress, cancelled),
        pytest.raises(BuildCancelledError, match="cancelled while another"),
    ):
        cache.get_or_build(KEY, never)
    assert phases == [("waiting for another build", 0)]
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert [Path(name).suffix for name in files(cache)] == [".part"] * (stop == "writing")
    assert cache.load(KEY) is None
    assert cache.get_or_build(KEY, lambda: ENGINE) == ENGINE
    assert files(cache) == [KEY.file_name]
    assert cache.get_or_build(KEY, never) == ENGINE


def test_old_leftovers_of_other_engines_go(cache: EngineCache) -> None:
    cache.folder.mkdir()
    old, new = (cache.folder / f".{n}.part" for n in ("old", "new"))
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    cache.get_or_build(KEY, lambda: ENGINE)
    assert (old.exists(), new.exists()) == (False, True)
