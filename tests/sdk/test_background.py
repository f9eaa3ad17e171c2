"""A session whose engines are built in the background, with stand-ins for the builder."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import revisage as rv
from revisage.engines.background import Background
from revisage.engines.cache import EngineCache, EngineKey, current_watch
from revisage.errors import BuildCancelledError, DeviceError, EngineError, OptionError
from revisage.session import EngineChoice, Parts, Session
from tests.sdk.stand_ins import SIZE, StandInEngine, StandInFaces, face_at

FULL = rv.Retouch(wrinkles=1.0)
BUNDLES = ("wrinkle_segmenter", "wrinkle_filler")


class Builder:
    """Builds for as long as the test says, and serves a stand-in once it is done."""

    def __init__(self, folder: Path) -> None:
        self.cache = EngineCache(folder)
        self.begun = threading.Event()
        self.go_on = threading.Event()
        self.error: Exception | None = None
        self.builds: list[str] = []
        self.opened: list[StandInEngine] = []

    def open(self, bundle: str, choice: EngineChoice) -> StandInEngine:
        if choice.engine == "tensorrt-rtx":
            key = EngineKey(bundle, "", "fp16", "tensorrt-rtx", "1.7", "8.9", "any", "0.1.0")
            self.cache.get_or_build(key, lambda: self.build(bundle))
        elif choice.engine != "onnxruntime-cpu":
            raise DeviceError("no GPU here")
        engine = StandInEngine(bundle, SIZE)
        engine.name, engine.precision = choice.engine, choice.precision
        engine.reason = "as asked for"
        self.opened.append(engine)
        return engine

    def build(self, bundle: str) -> bytes:
        watch = current_watch()
        assert watch.progress is not None
        assert watch.cancel is not None
        self.builds.append(bundle)
        watch.progress("timing kernels", 3, 10)
        self.begun.set()
        while not self.go_on.is_set():
            if watch.cancel.is_set():
                raise BuildCancelledError("cancelled")
            time.sleep(0.005)
        if self.error is not None:
            raise self.error
        return b"machine code"

    def session(self, **options: Any) -> Session:
        faces = StandInFaces([face_at(60, 55, 100)])
        options = {"engine": "tensorrt-rtx", "precision": "fp16"} | options
        options = {"while_building": "onnxruntime-cpu"} | options
        return Session(**options, parts=Parts(faces=lambda choice: faces, engine=self.open))


@pytest.fixture
def builder(tmp_path: Path) -> Iterator[Builder]:
    made = Builder(tmp_path / "engines")
    yield made
    made.go_on.set()
    assert not threads_of_builds()


def threads_of_builds() -> list[threading.Thread]:
    end = time.monotonic() + 10
    while True:
        threads = [t for t in threading.enumerate() if t.name.startswith("opening ")]
        if not threads or time.monotonic() > end:
            return threads
        time.sleep(0.01)


@pytest.fixture
def photo(rng: np.random.Generator) -> Any:
    return rng.integers(0, 256, (110, 120, 3), dtype=np.uint8)


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.01)


def test_the_stand_by_serves_until_the_build_is_done(builder: Builder, photo: Any) -> None:
    with builder.session() as session:
        before = session.retouch(photo, FULL)
        assert before.receipt.engine == "onnxruntime-cpu"
        assert before.receipt.precision == "fp32"
        for name in BUNDLES:
            reason = f"{name} on tensorrt-rtx fp16 is being built (timing kernels, 3 of 10)"
            assert reason in before.receipt.reason
        standbys = list(builder.opened)
        builder.go_on.set()
        until(lambda: session.retouch(photo, FULL).receipt.engine == "tensorrt-rtx")
        after = session.retouch(photo, FULL)
        assert after.receipt.engines == dict.fromkeys(BUNDLES, "tensorrt-rtx fp16")
        assert after.receipt.reason == "as asked for"
        assert before.receipt.engine == "onnxruntime-cpu"  # a receipt never changes
        np.testing.assert_array_equal(after.image, before.image)
        calls = [engine.calls for engine in standbys]
        session.retouch(photo, FULL)
        assert [engine.calls for engine in standbys] == calls
        # One builds while the other waits: never more than one try for each.
        assert sorted(builder.builds) == sorted(BUNDLES)
    assert not any(engine.active for engine in builder.opened if engine not in standbys)


def test_what_was_built_ahead_serves_from_the_first_photo(builder: Builder, photo: Any) -> None:
    builder.go_on.set()
    with builder.session(while_building=None) as session, pytest.raises(AssertionError):
        session.retouch(photo, FULL)  # without a stand-by nobody watches, and the caller waits
    with builder.session() as session:
        until(lambda: session.retouch(photo, FULL).receipt.engine == "tensorrt-rtx")
    builder.opened.clear()
    builder.go_on.clear()
    with builder.session() as session:
        assert session.retouch(photo, FULL).receipt.engine == "tensorrt-rtx"
    assert {engine.name for engine in builder.opened} == {"tensorrt-rtx"}


def test_one_photo_is_served_by_one_engine(builder: Builder, photo: Any) -> None:
    """An engine that gets ready in the middle of a photo waits for the next one."""
    with builder.session() as session:
        session.load(FULL)
        segmenter = next(e for e in builder.opened if e.bundle.name == "wrinkle_segmenter")
        infer = segmenter.infer

        def finish_the_builds_then_infer(inputs: Any) -> Any:
            builder.go_on.set()
            until(lambda: [e.name for e in builder.opened].count("tensorrt-rtx") == len(BUNDLES))
            return infer(inputs)

        segmenter.infer = finish_the_builds_then_infer  # type: ignore[method-assign]
        receipt = session.retouch(photo, FULL).receipt
        assert receipt.engines == dict.fromkeys(BUNDLES, "onnxruntime-cpu fp32")
        until(lambda: session.retouch(photo, FULL).receipt.engine == "tensorrt-rtx")


def test_a_failed_build_is_reported_once_and_not_repeated(
    builder: Builder, photo: Any, caplog: pytest.LogCaptureFixture
) -> None:
    builder.error = EngineError("no room on the GPU")
    with (
        caplog.at_level(logging.WARNING, "revisage.engines.background"),
        builder.session() as session,
    ):
        session.retouch(photo, FULL)
        builder.go_on.set()
        assert not threads_of_builds()
        for _ in range(3):
            receipt = session.retouch(photo, FULL).receipt
        assert receipt.engine == "onnxruntime-cpu"
        assert "could not be built and will not be tried again: no room" in receipt.reason
    assert sorted(builder.builds) == sorted(BUNDLES)
    assert [message.count("no room on the GPU") for message in caplog.messages] == [1, 1]


def test_what_cannot_run_at_all_is_an_error(builder: Builder, photo: Any) -> None:
    with builder.session(engine="tensorrt") as session, pytest.raises(DeviceError, match="no GPU"):
        session.retouch(photo, FULL)
    assert builder.opened == []  # no stand-by for what will never come


def test_a_stand_by_that_cannot_run_stops_the_build(builder: Builder, photo: Any) -> None:
    with (
        builder.session(while_building="onnxruntime-cuda") as session,
        pytest.raises(DeviceError, match="no GPU"),
    ):
        session.retouch(photo, FULL)
    assert not threads_of_builds()


def test_closing_cancels_the_build(builder: Builder, photo: Any) -> None:
    session = builder.session()
    session.retouch(photo, FULL)
    assert builder.begun.is_set()
    session.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("opening ")]
    assert builder.cache.entries() == []
    assert not any(engine.active for engine in builder.opened)


def test_threads_share_a_session_while_it_switches(builder: Builder, photo: Any) -> None:
    with builder.session() as session:
        expected = session.retouch(photo, FULL).image
        errors: list[BaseException] = []
        served: set[str] = set()

        def work() -> None:
            try:
                while "tensorrt-rtx" not in served:
                    result = session.retouch(photo, FULL)
                    np.testing.assert_array_equal(result.image, expected)
                    served.update(result.receipt.engine.split(", "))
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        builder.go_on.set()
        for thread in threads:
            thread.join(30)
        assert not errors
        assert "tensorrt-rtx" in served


def test_an_unknown_stand_by_is_refused() -> None:
    with pytest.raises(OptionError, match="while_building 'cpu' is not one of"):
        Session(while_building="cpu")


def test_the_wanted_one_is_not_opened_twice() -> None:
    opened: list[str] = []
    served = Background("it", lambda: opened.append("wanted") or "wanted", lambda: "standby")
    assert (served.now, served.now, served.waiting) == ("wanted", "wanted", "")
    assert opened == ["wanted"]
    assert served.close() == ["wanted"]
