"""TensorRT's builder in a process of its own, which can be stopped at any moment.

The library looks at nobody while it compiles a graph, which takes up to minutes. A process can be
ended in the middle of that, gives back all its memory, and takes nothing along when it crashes.

Note [What the two say to each other]
    On the child's standard input come an order as one line of JSON and the graph. The input then
    stays open: its end tells the child that the parent has gone, however it went. On the standard
    output come lines of JSON: steps of progress, then an error, or a report and behind it the
    engine. What libraries print goes to standard error.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from typing import IO, Any

from revisage.engines.cache import Cancel, Progress
from revisage.engines.profile import Profile
from revisage.engines.tensorrt import BuildReport, BuiltEngine, build_engine
from revisage.errors import (
    BuildCancelledError,
    DeviceError,
    EngineError,
    OptionError,
    RevisageError,
)
from revisage.python_process import python_command

__all__ = ["build_in_child"]

_GLANCE = 0.05  # seconds between two looks at whether to stop
_KINDS = {kind.__name__: kind for kind in (OptionError, DeviceError, EngineError)}

Answers = queue.SimpleQueue[tuple[dict[str, Any], bytes] | None]


def build_in_child(
    model: bytes,
    *,
    engine: str,
    profile: Profile,
    compute_capabilities: Sequence[str],
    progress: Progress | None = None,
    cancel: Cancel | None = None,
) -> BuiltEngine:
    """`revisage.engines.tensorrt.build_engine` in a process of its own.

    The process ends with this call, however that ends: built, failed, cancelled, or interrupted.

    Args:
        progress: is called in this thread, for every step and again while a step takes its time.
        cancel: when set, the build is stopped within a fraction of a second.

    Raises:
        EngineError: also where the process cannot be started, or dies.
        Others as `build_engine` does.
    """
    order = {
        "engine": engine,
        "shapes": dict(profile.shapes),
        "compute_capabilities": list(compute_capabilities),
        "bytes": len(model),
    }
    command, environment = python_command(__name__)
    with tempfile.TemporaryFile() as said:
        try:
            child = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
            )
        except OSError as error:
            raise EngineError(f"no process for the builder of {engine}: {error}") from error
        answers: Answers = queue.SimpleQueue()
        talk = threading.Thread(target=_talk, args=(child, order, model, answers), daemon=True)
        talk.start()
        try:
            built = _listen(answers, progress or (lambda *_: None), cancel)
        finally:
            child.kill()
            child.wait()
            talk.join()
        if built is not None:
            return built
        said.seek(0)
        words = said.read().decode(errors="replace").strip() or "it said nothing"
        last = words.splitlines()[-1]
        raise EngineError(f"the builder of {engine} ended with {child.returncode}: {last}")


def _talk(child: subprocess.Popen[bytes], order: Any, model: bytes, answers: Answers) -> None:
    """Hand over the order, and what comes back; None at the end of it."""
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        # It may die: then it reads nothing, and ends in the middle of a line.
        with child.stdout as out, contextlib.suppress(OSError, ValueError), child.stdin as to_child:
            to_child.write(json.dumps(order).encode() + b"\n" + model)
            to_child.flush()
            for line in out:
                answer = json.loads(line)
                size = answer["report"]["engine_bytes"] if "report" in answer else 0
                content = out.read(size)
                if len(content) == size:
                    answers.put((answer, content))
    finally:
        answers.put(None)


def _listen(answers: Answers, progress: Progress, cancel: Cancel | None) -> BuiltEngine | None:
    """What was built; None where the process ended without a word."""
    step = ("starting the builder", 0, 0)
    progress(*step)
    while True:
        if cancel is not None and cancel.is_set():
            raise BuildCancelledError("the build was cancelled")
        try:
            said = answers.get(timeout=_GLANCE)
        except queue.Empty:
            progress(*step)
            continue
        if said is None:
            return None
        answer, content = said
        if "step" in answer:
            step = tuple(answer["step"])
            progress(*step)
        elif "error" in answer:
            raise _KINDS.get(answer["error"], EngineError)(answer["message"])
        else:
            report: dict[str, Any] = {
                k: tuple(v) if isinstance(v, list) else v for k, v in answer["report"].items()
            }
            return BuiltEngine(content, BuildReport(**report))


def main() -> None:
    """The process of the builder."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which ends this process
    with os.fdopen(os.dup(1), "wb") as out:
        os.dup2(2, 1)
        order = json.loads(sys.stdin.buffer.readline())
        model = sys.stdin.buffer.read(order["bytes"])
        threading.Thread(target=_end_with_the_parent, daemon=True).start()
        _build(order, model, out)


def _end_with_the_parent() -> None:
    os.read(0, 1)
    os._exit(1)


def _build(order: Any, model: bytes, out: IO[bytes]) -> None:
    one_at_a_time = threading.Lock()

    def tell(answer: dict[str, Any], content: bytes = b"") -> None:
        with one_at_a_time:
            out.write(json.dumps(answer).encode() + b"\n" + content)
            out.flush()

    shapes: dict[str, Any] = {n: tuple(map(tuple, s)) for n, s in order["shapes"].items()}
    try:
        built = build_engine(
            model,
            engine=order["engine"],
            profile=Profile(shapes),
            compute_capabilities=order["compute_capabilities"],
            progress=lambda *step: tell({"step": step}),
        )
    except RevisageError as error:
        tell({"error": type(error).__name__, "message": str(error)})
    else:
        tell({"report": dataclasses.asdict(built.report)}, built.content)
