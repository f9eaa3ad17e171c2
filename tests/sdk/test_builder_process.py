"""Building in a process of its own: what it gives, and that it ends when it should."""

from __future__ import annotations

import dataclasses
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from revisage.bundle import shipped_bundle
from revisage.engines import builder_process
from revisage.engines.builder_process import build_in_child
from revisage.engines.cache import LOCKS
from revisage.engines.profile import Profile
from revisage.engines.tensorrt import BuiltEngine, build_engine
from revisage.errors import BuildCancelledError, EngineError, OptionError
from revisage.python_process import python_command
from tests.sdk.toy_bundle import MANIFEST, scaling_model
from tests.support import needs_tensorrt_rtx

TOY = scaling_model().SerializeToString()
# Its compilation is one step of many seconds.
SLOW = "wrinkle_filler"


@pytest.fixture(autouse=True)
def _library() -> None:
    needs_tensorrt_rtx()


def build(model: bytes = TOY, card: str = "8.9", **options: Any) -> BuiltEngine:
    profile = options.pop("profile", Profile.of(MANIFEST))
    return build_in_child(
        model, engine="tensorrt-rtx", profile=profile, compute_capabilities=[card], **options
    )


def test_it_gives_what_the_builder_gives() -> None:
    said: list[tuple[str, int, int]] = []
    built = build(progress=lambda *step: said.append(step))
    here = build_engine(
        TOY, engine="tensorrt-rtx", profile=Profile.of(MANIFEST), compute_capabilities=["8.9"]
    )
    same = {"seconds": 0.0, "engine_bytes": 0}
    assert dataclasses.replace(built.report, **same) == dataclasses.replace(here.report, **same)
    assert len(built.content) == built.report.engine_bytes
    assert built.content[:16] == here.content[:16]
    assert said[0] == ("starting the builder", 0, 0)
    assert len({phase for phase, _, _ in said}) > 2


def test_errors_are_those_of_the_builder() -> None:
    with pytest.raises(EngineError, match=r"cannot take the graph: .*the file"):
        build(b"no graph at all")
    with pytest.raises(OptionError, match=r"TensorRT for RTX builds here for 7\.5, 8\.0"):
        build(card="9.9")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import os; os.abort()", rf"ended with -{signal.SIGABRT:d}: it said nothing"),
        ("raise ImportError('no such symbol')", "ended with 1: ImportError: no such symbol"),
        ('print(\'{"report": {"engine_bytes": 9}}\')', "ended with 0: it said nothing"),
    ],
)
def test_a_builder_that_dies_is_an_error(
    code: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        builder_process, "python_command", lambda _: ([sys.executable, "-c", code], None)
    )
    with pytest.raises(EngineError, match=f"the builder of tensorrt-rtx {message}"):
        build()


def test_an_interpreter_that_cannot_be_started_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "no/such/python")
    with pytest.raises(EngineError, match=r"no process for the builder .*no/such/python"):
        build()


def test_cancelling_does_not_wait_for_the_compilation() -> None:
    bundle = shipped_bundle(SLOW)
    cancel = threading.Event()
    cancelled: list[float] = []

    def progress(phase: str, done: int, total: int) -> None:
        if total and not cancelled:
            cancelled.append(time.monotonic())
            cancel.set()

    with pytest.raises(BuildCancelledError):
        build(
            bundle.read_graph(),
            profile=Profile.of(bundle.manifest),
            progress=progress,
            cancel=cancel,
        )
    assert time.monotonic() - cancelled[0] < 3


def children(process: int) -> list[int]:
    tasks = Path(f"/proc/{process}/task")
    return [int(c) for task in tasks.iterdir() for c in (task / "children").read_text().split()]


def wait_for(what: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not what():
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.02)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_command_that_ends_takes_its_builder_along(how: signal.Signals, tmp_path: Path) -> None:
    command, environment = python_command("revisage.cli")
    command += ["build", SLOW, "--for", "rtx-3090"]
    environment["REVISAGE_CACHE"] = str(tmp_path)
    with subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # What a shell starts in the background ignores SIGINT, and hands that on.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        wait_for(lambda: children(process.pid))
        (builder,) = children(process.pid)
        time.sleep(1.0)  # it may be anywhere: starting, parsing, compiling
        process.send_signal(how)
        out, error = process.communicate(timeout=10)
    assert process.returncode == (130 if how == signal.SIGINT else -how)
    assert (out, error) == ("", "revisage: interrupted\n" if how == signal.SIGINT else "")
    wait_for(lambda: not Path(f"/proc/{builder}").exists())
    assert [path.name for path in tmp_path.iterdir()] == [LOCKS]


def test_modules_are_not_taken_from_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "numpy.py").write_text("raise SystemExit('hostile')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", ["", *sys.path])  # as in an interactive session
    assert build().report.layers > 0
