"""A stand-in for CuPy on a machine without a GPU: its arrays lie in ordinary memory.

Every use of a stream is written into `journal`, in order, so that a test can read what waits for
what. Copies happen at once; what a test cannot see here is a GPU that runs late. Work that another
stand-in puts on a stream with `Stream.do` happens at once, or is recorded between `begin_capture`
and `end_capture`.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

CURRENT = threading.local()
ADDRESSES: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()


class Device:
    """`cupy.cuda.Device`, which arrays are made on inside a `with` block."""

    def __init__(self, number: int | None = None) -> None:
        self.id = current_device() if number is None else number

    def __enter__(self) -> Device:
        self._before = current_device()
        CURRENT.device = self.id
        return self

    def __exit__(self, *_: Any) -> None:
        CURRENT.device = self._before


def current_device() -> int:
    return int(getattr(CURRENT, "device", 0))


class Array:
    """`cupy.ndarray`, as far as the engines use it."""

    def __init__(self, host: Any, device: int | None = None) -> None:
        self.host = host
        self.device = Device(device)

    shape = property(lambda self: self.host.shape)
    dtype = property(lambda self: self.host.dtype)
    nbytes = property(lambda self: self.host.nbytes)
    __cuda_array_interface__ = property(lambda self: self.host.__array_interface__)

    @property
    def data(self) -> Any:
        address = self.host.ctypes.data
        ADDRESSES[address] = self.host
        return SimpleNamespace(ptr=address)

    def __dlpack_device__(self) -> tuple[int, int]:
        return (2, self.device.id)

    def __dlpack__(self, **_: Any) -> Any:
        return self

    def __getitem__(self, key: Any) -> Array:
        return Array(self.host[key])

    def __setitem__(self, key: Any, value: Array) -> None:
        self.host[key] = value.host

    def __sub__(self, other: Array) -> Array:
        return Array(self.host - other.host)

    def max(self) -> float:
        return float(self.host.max())

    def set(self, host: Any, stream: Any) -> None:
        assert getattr(host, "pinned", False), "an asynchronous copy needs page-locked memory"
        self.host[...] = host

    def get(self, stream: Any, out: Any = None, blocking: bool = True) -> Any:
        if blocking:
            stream.synchronize()
            return self.host.copy()
        assert getattr(out, "pinned", False)
        out[...] = self.host
        return out


def host_of(array: Any) -> Any:
    """The samples of an array of CuPy, of NumPy, or of whoever has CUDA's array interface."""
    if hasattr(array, "__cuda_array_interface__"):
        return np.asarray(SimpleNamespace(__array_interface__=array.__cuda_array_interface__))
    return array


def memory_at(address: int) -> Any:
    """The values of the array that gave out this address; a KeyError where it is gone."""
    return ADDRESSES[address]


class Pinned(np.ndarray):
    pinned = True


class Stream:
    """`cupy.cuda.Stream` and `ExternalStream`."""

    journal: list[str]
    recording: dict[int, list[Callable[[], None]]]  # by address
    count = 0

    def __init__(self, address: int | None = None, non_blocking: bool = False) -> None:
        if address is None:
            Stream.count += 1
            address = 1000 + Stream.count
            assert non_blocking, "a blocking stream waits for all work of the legacy default stream"
        self.ptr = address

    def do(self, work: Callable[[], None]) -> None:
        if self.ptr in self.recording:
            self.recording[self.ptr].append(work)
        else:
            work()

    def begin_capture(self) -> None:
        assert self.ptr not in self.recording
        self.recording[self.ptr] = []

    def end_capture(self) -> Graph:
        return Graph(self.recording.pop(self.ptr))

    def __enter__(self) -> Stream:
        self._before = getattr(CURRENT, "stream", 0)
        CURRENT.stream = self.ptr
        return self

    def __exit__(self, *_: Any) -> None:
        CURRENT.stream = self._before

    def record(self) -> Any:
        ptr = self.ptr

        class Event:
            def synchronize(self) -> None:
                Stream.journal.append(f"the CPU waits for {ptr}")

            def __str__(self) -> str:
                return str(ptr)

        return Event()

    def wait_event(self, event: Any) -> None:
        self.journal.append(f"{self.ptr} waits for {event}")

    def synchronize(self) -> None:
        self.journal.append(f"the CPU waits for {self.ptr}")


class Graph:
    """What a stream recorded."""

    def __init__(self, work: list[Callable[[], None]]) -> None:
        self.work = work

    def launch(self, stream: Stream) -> None:
        for item in self.work:
            stream.do(item)


def current_stream() -> int:
    return int(getattr(CURRENT, "stream", 0))


def install(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Put the stand-in in CuPy's place; returns the journal."""
    cupy, cupyx = ModuleType("cupy"), ModuleType("cupyx")
    Stream.journal = []
    Stream.count = 0
    Stream.recording = {}
    attributes: dict[str, Any] = {
        "ndarray": Array,
        "cuda": SimpleNamespace(
            Stream=Stream,
            ExternalStream=Stream,
            Device=Device,
            get_current_stream=lambda device=None: SimpleNamespace(ptr=current_stream()),
            runtime=SimpleNamespace(getDeviceCount=lambda: 1),
        ),
        "empty": lambda shape, dtype: Array(np.full(shape, 77, dtype)),
        "zeros_like": lambda array: Array(np.zeros_like(array.host)),
        "asarray": lambda array: Array(np.array(host_of(array))),
        "ascontiguousarray": lambda array: Array(np.ascontiguousarray(array.host)),
        "from_dlpack": lambda array: (
            array if isinstance(array, Array) else Array(np.asarray(array))
        ),
        "abs": lambda array: Array(np.abs(array.host)),
    }
    for name, value in attributes.items():
        setattr(cupy, name, value)
    cupyx.empty_pinned = lambda shape, dtype: np.empty(shape, dtype).view(Pinned)  # type: ignore[attr-defined]
    monkeypatch.setitem(__import__("sys").modules, "cupy", cupy)
    monkeypatch.setitem(__import__("sys").modules, "cupyx", cupyx)
    Array.__module__ = "cupy"
    return Stream.journal
