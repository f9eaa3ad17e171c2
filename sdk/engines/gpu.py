"""Engines on an NVIDIA GPU: what they share, whichever library runs the graph.

Note [One stream per engine]
    Every engine enqueues its work on a stream of its own, because ONNX Runtime fixes the stream
    when it loads a graph. Events tie it to the caller's stream (Note [Streams] in `arrays.py`):
    the engine waits for what the caller has enqueued so far, and the caller's next work for the
    engine. Calls of one engine queue up on it; several engines run side by side.

Note [Memory of a call]
    Outputs are allocated for the caller's stream: CuPy's pool gives the memory of an array that was
    dropped to later work of the same stream, which is then always in order.
    NumPy arrays pass through page-locked memory, from which the GPU copies by itself.

Note [Recording]
    A CUDA graph that is being recorded is spoilt when another thread allocates GPU memory
    meanwhile. So recordings have the GPU for themselves, as far as our engines go.
"""

from __future__ import annotations

import abc
import contextlib
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from revisage.bundle import Bundle
from revisage.engines.base import Array, Engine, output_shapes
from revisage.engines.driver import gpu_obstacle
from revisage.errors import DeviceError

__all__ = ["GpuEngine", "Turns", "cupy_obstacle", "turns"]


def cupy_obstacle() -> str:
    """Why CuPy, which holds GPU arrays, cannot be used here; "" where it can."""
    try:
        import cupy

        cupy.cuda.runtime.getDeviceCount()
    except Exception as error:  # ImportError, or what CuPy raises without CUDA's libraries
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return f"CuPy cannot be used ({reason}): pip install 'revisage[gpu]'"
    return ""


class Turns:
    """Any number of runs at a time, or one recording; see Note [Recording]."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._running = 0
        self._recording = False

    @contextlib.contextmanager
    def run(self) -> Iterator[None]:
        """While the block runs, nothing is recorded."""
        with self._changed:
            self._changed.wait_for(lambda: not self._recording)
            self._running += 1
        try:
            yield
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()

    @contextlib.contextmanager
    def record(self) -> Iterator[None]:
        """While the block runs, no other block does."""
        with self._changed:
            self._changed.wait_for(lambda: not self._recording)
            self._recording = True
            self._changed.wait_for(lambda: self._running == 0)
        try:
            yield
        finally:
            with self._changed:
                self._recording = False
                self._changed.notify_all()


turns = Turns()  # of all engines of the process


class GpuEngine(Engine):
    """An engine on the first GPU. It takes NumPy arrays and arrays on the GPU.

    A library's file overrides `_load`, `_run` and `_unload`, and `_prepare` where it records.
    """

    device = "cuda"

    def __init__(self, bundle: Bundle, *, precision: str = "fp32", reason: str = "") -> None:
        super().__init__(bundle, precision=precision, reason=reason)
        self._stream: Any = None  # a cupy.cuda.Stream; see Note [One stream per engine]
        self._queue = threading.Lock()

    @abc.abstractmethod
    def _load(self) -> None:
        """Load the graph for work on `self._stream`."""

    def _prepare(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Get ready for inputs of these shapes, before every run of them."""

    @abc.abstractmethod
    def _run(self, inputs: Mapping[str, Any], outputs: dict[str, Any]) -> None:
        """Enqueue one run on `self._stream`, the current stream of CuPy.

        Args:
            inputs: C-contiguous CuPy arrays, checked.
            outputs: C-contiguous CuPy arrays to be filled, by name; where the manifest alone does
                not tell their shapes, an empty mapping, to be filled with new arrays.
        """

    @abc.abstractmethod
    def _unload(self) -> None:
        """Let go of the graph."""

    def _activate_impl(self) -> None:
        obstacle = gpu_obstacle() or cupy_obstacle()
        if obstacle:
            raise DeviceError(obstacle)
        import cupy

        self._stream = cupy.cuda.Stream(non_blocking=True)
        self._load()

    def _deactivate_impl(self) -> None:
        if self._stream is not None:
            self._stream.synchronize()
        self._unload()
        self._stream = None

    def _infer_impl(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        import cupy
        import cupyx

        self._prepare({name: array.shape for name, array in inputs.items()})
        with self._queue, turns.run(), self._stream:
            pinned, on_gpu = {}, {}
            for name, array in inputs.items():
                pinned[name] = cupyx.empty_pinned(array.shape, array.dtype)
                pinned[name][...] = array
                on_gpu[name] = cupy.empty(array.shape, array.dtype)
                on_gpu[name].set(pinned[name], stream=self._stream)
            found = self._empty_outputs(inputs)
            self._run(on_gpu, found)
            staged = {n: cupyx.empty_pinned(a.shape, a.dtype) for n, a in found.items()}
            for name, array in found.items():
                array.get(stream=self._stream, out=staged[name], blocking=False)
            done = self._stream.record()
        done.synchronize()
        return {name: np.array(array) for name, array in staged.items()}

    def _infer_on_gpu(self, inputs: Mapping[str, Any], stream: int) -> dict[str, Any]:
        import cupy

        here = cupy.cuda.Device().id
        for name, array in inputs.items():
            if array.device.id != here:
                raise DeviceError(
                    f"{self.bundle.name}: input {name!r} lies on GPU {array.device.id}, the engine "
                    f"is on GPU {here}; copy it there"
                )
        self._prepare({name: array.shape for name, array in inputs.items()})
        caller = cupy.cuda.ExternalStream(stream)
        with self._queue, turns.run():
            with caller:
                ready = {name: cupy.ascontiguousarray(array) for name, array in inputs.items()}
                found = self._empty_outputs(ready)
            self._stream.wait_event(caller.record())
            with self._stream:
                self._run(ready, found)
            caller.wait_event(self._stream.record())
        return found

    def _empty_outputs(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Memory for the outputs of these inputs; none where a shape is not known before."""
        import cupy

        shapes = output_shapes(self.manifest, {n: a.shape for n, a in inputs.items()})
        if shapes is None:
            return {}
        dtypes = {spec.name: np.dtype(spec.dtype) for spec in self.manifest.outputs}
        return {name: cupy.empty(shape, dtypes[name]) for name, shape in shapes.items()}
