"""How arrays of other libraries enter: DLPack capsules that are honest, broken and hostile.

Nothing here needs a GPU: the producers claim CUDA memory, and every check comes before it is used.
"""

from __future__ import annotations

import ctypes
import re
import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from revisage import kernels
from revisage.errors import DeviceError, ShapeError

CPU, CUDA, CUDA_MANAGED = 1, 2, 13
UNSIGNED, REAL, BFLOAT = 1, 2, 4
READ_ONLY, IS_COPY = 1, 2


class Tensor(ctypes.Structure):
    """DLTensor of the protocol."""

    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("rank", ctypes.c_int32),
        ("kind", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


Deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class Managed(ctypes.Structure):
    """DLManagedTensor: without a version."""

    _fields_ = [("tensor", Tensor), ("context", ctypes.c_void_p), ("deleter", Deleter)]


class Versioned(ctypes.Structure):
    """DLManagedTensorVersioned."""

    _fields_ = [
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("deleter", Deleter),
        ("flags", ctypes.c_uint64),
        ("tensor", Tensor),
    ]


new_capsule = ctypes.pythonapi.PyCapsule_New
new_capsule.restype = ctypes.py_object
new_capsule.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
capsule_is_valid = ctypes.pythonapi.PyCapsule_IsValid
capsule_is_valid.argtypes = [ctypes.py_object, ctypes.c_char_p]


class Producer:
    """A CUDA array of a made-up library, which counts what happens to its capsules."""

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: str = "float32",
        /,
        *,
        address: int = 1 << 20,
        strides: tuple[int, ...] | None = None,
        versioned: bool = True,
        **changes: Any,
    ) -> None:
        self.shape, self.dtype = shape, dtype
        self.address, self.strides, self.versioned = address, strides, versioned
        self.changes = changes
        self.streams: list[int] = []
        self.capsules: list[Any] = []
        self.deleted = 0
        self._kept: list[Any] = []

    def __dlpack_device__(self) -> tuple[int, int]:
        return CUDA, self.changes.get("device_id", 0)

    def __dlpack__(self, *, stream: int, **options: Any) -> Any:
        if not self.versioned and options:
            raise TypeError("unexpected keyword argument 'max_version'")
        self.streams.append(stream)
        managed = Versioned(major=1, minor=0) if self.versioned else Managed()
        tensor = managed.tensor
        tensor.data, tensor.device_type, tensor.rank = self.address, CUDA, len(self.shape)
        kind = {"u": UNSIGNED, "f": REAL, "b": BFLOAT}[self.dtype[0]]
        tensor.kind, tensor.bits, tensor.lanes = kind, int(re.sub(r"\D", "", self.dtype)), 1
        axes = ctypes.c_int64 * max(1, len(self.shape))
        tensor.shape = axes(*self.shape)
        if self.strides is not None:
            tensor.strides = axes(*self.strides)
        for name, value in self.changes.items():
            target = managed if name in ("major", "flags") else tensor
            setattr(target, name, value)

        def delete(_: int) -> None:
            self.deleted += 1

        managed.deleter = Deleter(delete)
        self._kept.append(managed)
        name = b"dltensor_versioned" if self.versioned else b"dltensor"
        self.capsules.append(new_capsule(ctypes.addressof(managed), name, None))
        return self.capsules[-1]


def warp(out: Any, image: Any, **options: Any) -> None:
    kernels.flow_warp_into(out, image, matrix=np.eye(2, 3), **options)


def without_gpu() -> Any:
    """What a call that passed every check raises on a machine without a GPU."""
    if "cuda:0" in kernels.available_devices():
        return pytest.raises(DeviceError, match=r"an array|CUDA failed")
    return pytest.raises(DeviceError, match="copy the arrays to the host")


@pytest.mark.parametrize("versioned", [True, False])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float16", "bfloat16", "float32"])
def test_capsules_are_taken_and_given_back(native: str, versioned: bool, dtype: str) -> None:
    image = Producer((5, 6, 3), dtype, versioned=versioned)
    out = Producer((5, 6, 3), dtype, address=1 << 21, versioned=versioned)
    with without_gpu():
        warp(out, image)
    for array in (image, out):
        assert array.deleted == len(array.capsules) == 1
        used = b"used_dltensor_versioned" if versioned else b"used_dltensor"
        assert capsule_is_valid(array.capsules[0], used)


@pytest.mark.parametrize(("stream", "told"), [(None, 1), (0, 1), (2, 2), (4096, 4096)])
def test_the_library_is_told_which_stream_will_read(native: str, stream: Any, told: int) -> None:
    """1 is the protocol's number of the legacy default stream, which CUDA calls 0."""
    image, out = Producer((5, 6, 3)), Producer((5, 6, 3), address=1 << 21)
    with without_gpu():
        warp(out, image, stream=stream)
    assert image.streams == out.streams == [told]


class CupyArray(Producer):
    """What `_current_stream` needs of one."""

    device = SimpleNamespace(id=3)


def test_the_default_stream_is_the_current_one_of_the_library(
    native: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    streams = SimpleNamespace(get_current_stream=lambda device: SimpleNamespace(ptr=4096 + device))
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(ndarray=CupyArray, cuda=streams))
    image, out = CupyArray((5, 6, 3)), CupyArray((5, 6, 3), address=1 << 21)
    with without_gpu():
        warp(out, image)
    assert image.streams == out.streams == [4099]


def test_strides_of_c_order_are_accepted(native: str) -> None:
    image = Producer((5, 1, 3), strides=(3, 77, 1))  # an axis of size 1 may have any stride
    with without_gpu():
        warp(Producer((5, 1, 3), address=1 << 21), image)


IMAGE: tuple[int, ...] = (5, 6, 3)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Producer(IMAGE, strides=(18, 3, -1)), ShapeError, "C-contiguous"),
        (lambda: Producer(IMAGE, strides=(-18, 3, 1)), ShapeError, "C-contiguous"),
        (lambda: Producer(IMAGE, strides=(0, 0, 0)), ShapeError, "C-contiguous"),
        (lambda: Producer(IMAGE, lanes=4), ShapeError, "image must be uint8"),
        (lambda: Producer(IMAGE, bits=8), ShapeError, "image must be uint8"),
        (lambda: Producer(IMAGE, kind=77), ShapeError, "image must be uint8"),
        (lambda: Producer(IMAGE, device_type=CPU), DeviceError, "its capsule does not"),
        (lambda: Producer(IMAGE, rank=-1), ShapeError, "broken DLPack capsule: shape"),
        (lambda: Producer(IMAGE, rank=1 << 30), ShapeError, "broken DLPack capsule: shape"),
        (lambda: Producer(IMAGE, rank=2), ShapeError, "out must be"),
        (lambda: Producer(IMAGE, shape=None), ShapeError, "broken DLPack capsule: shape"),
        (lambda: Producer(IMAGE, data=None), ShapeError, "null pointer"),
        (lambda: Producer(IMAGE, data=None, byte_offset=64), ShapeError, "null pointer"),
        (lambda: Producer(IMAGE, byte_offset=2), ShapeError, "not aligned"),
        (lambda: Producer(IMAGE, byte_offset=2**64 - 1), ShapeError, "byte_offset"),
        (lambda: Producer(IMAGE, address=2**64 - 64), ShapeError, "beyond the end of memory"),
        (lambda: Producer(IMAGE, major=2), ShapeError, "DLPack version 2"),
        (lambda: Producer(IMAGE, flags=IS_COPY), ShapeError, "would be copied"),
    ],
)
@pytest.mark.parametrize("role", ["image", "out"])
def test_broken_and_hostile_tensors_are_refused(
    native: str, make: Callable[[], Producer], error: type[Exception], message: str, role: str
) -> None:
    bad, good = make(), Producer(IMAGE, address=1 << 24)
    message = re.escape(message).replace("image", role)
    if role == "out" and message.startswith("out\\ must\\ be"):
        message = "out must be"
    with pytest.raises(error, match=message):
        warp(**{"out": good, "image": good, role: bad})
    assert bad.deleted == len(bad.capsules) == 1


def test_read_only_is_refused_as_output_only(native: str) -> None:
    with without_gpu():
        warp(Producer(IMAGE, address=1 << 24), Producer(IMAGE, flags=READ_ONLY))
    with pytest.raises(ShapeError, match="out is read-only"):
        warp(Producer(IMAGE, address=1 << 24, flags=READ_ONLY), Producer(IMAGE))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2**31, 2**31, 4), "has more samples than any memory holds"),
        ((2**62, 2, 2), "has more samples than any memory holds"),
        ((2**31, 2**30, 1), "has more bytes than any memory holds"),
        ((2**24, 8, 2), "must be smaller than 2^24 per side"),
        ((2**23, 2**23, 2**13), "beyond the end of memory"),
        ((-5, 6, 3), "image must be"),
    ],
)
def test_sizes_near_the_limits(native: str, shape: tuple[int, ...], message: str) -> None:
    """Python compares shapes as such; so C++ is called, as a caller without these checks would."""
    image, out = Producer(shape, address=2**64 - 2**40), Producer(shape, address=1 << 20)
    with pytest.raises(ShapeError, match=re.escape(message)):
        kernels._dispatch._native.flow_warp_into(
            out, image, None, (1.0, 0.0, 0.0, 0.0, 1.0, 0.0), "border", True, 1, 0
        )
    assert image.deleted == len(image.capsules)


@pytest.mark.parametrize("versioned", [True, False])
def test_arrays_on_different_cuda_devices_are_refused(native: str, versioned: bool) -> None:
    """A kernel that reads another device's memory would end the process's use of both."""
    image = Producer(IMAGE, device_id=1, versioned=versioned)
    out = Producer(IMAGE, address=1 << 24, versioned=versioned)
    flow = Producer((5, 6, 2), address=1 << 25, versioned=versioned)
    with pytest.raises(DeviceError, match="out lies on cuda:0 and image on cuda:1; copy one"):
        warp(out, image)
    out.changes["device_id"] = 1
    with pytest.raises(DeviceError, match="image lies on cuda:1 and flow on cuda:0; copy one"):
        kernels.flow_warp_into(out, image, flow)


def test_managed_memory_is_on_every_device(native: str) -> None:
    image = Producer(IMAGE, device_id=1, device_type=CUDA_MANAGED)
    with without_gpu():
        warp(Producer(IMAGE, address=1 << 24), image)


def test_empty_tensors_are_refused(native: str) -> None:
    with pytest.raises(ShapeError, match="not empty"):
        warp(Producer((0, 6, 3)), Producer((0, 6, 3)))


class NoCapsule(Producer):
    """Its `__dlpack__` gives something else, or raises."""

    answer: Any = None

    def __dlpack__(self, **_: Any) -> Any:
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (None, ShapeError, "image has a broken __dlpack__"),
        ("dltensor", ShapeError, "image has a broken __dlpack__"),
        (BufferError("needs detach"), ShapeError, "image cannot be read through __dlpack__: needs"),
        (TypeError("no"), ShapeError, "image cannot be read through __dlpack__: no"),
        (KeyboardInterrupt("stop"), KeyboardInterrupt, "stop"),
    ],
)
def test_answers_that_are_no_capsules(
    native: str, answer: Any, error: type[BaseException], message: str
) -> None:
    image = NoCapsule(IMAGE)
    image.answer = answer
    with pytest.raises(error, match=message):
        warp(Producer(IMAGE, address=1 << 24), image)


@pytest.mark.parametrize("name", [b"used_dltensor", b"other", None])
def test_capsules_of_other_names(native: str, name: bytes | None) -> None:
    image = NoCapsule(IMAGE)
    image.answer = new_capsule(4096, name, None)
    with pytest.raises(ShapeError, match="gave no capsule with a tensor"):
        warp(Producer(IMAGE, address=1 << 24), image)


def test_bfloat16_is_refused_on_the_cpu() -> None:
    torch = pytest.importorskip("torch")
    image = torch.zeros((4, 5, 3), dtype=torch.bfloat16)
    with pytest.raises(ShapeError, match="image is bfloat16, which runs on CUDA only"):
        kernels.flow_warp(image, torch.zeros((4, 5, 2)))


def test_tensors_that_require_grad_are_refused_by_name() -> None:
    """An operation here records no gradient, so taking them in silence would lose it."""
    torch = pytest.importorskip("torch")
    image = torch.zeros((4, 5, 3), requires_grad=True)
    with pytest.raises(ShapeError, match=r"image cannot be read.*detach"):
        kernels.flow_warp(image, torch.zeros((4, 5, 2)))


@pytest.mark.cuda
def test_torch_tensors_on_cuda_enter_by_dlpack() -> None:
    torch = pytest.importorskip("torch")
    image = torch.rand((9, 7, 3), device="cuda").to(torch.bfloat16)
    result = kernels.flow_warp(image, matrix=np.eye(2, 3))
    assert result.dtype == torch.bfloat16
    assert torch.equal(result, image)
    with pytest.raises(ShapeError, match="image cannot be read through __dlpack__"):
        kernels.flow_warp(image.requires_grad_(), matrix=np.eye(2, 3))


@pytest.mark.cuda
def test_interfaces_that_name_a_stream_are_waited_for(fake_cuda: Any) -> None:
    torch = pytest.importorskip("torch")
    image, out = torch.zeros((2, 9, 7, 3), device="cuda")
    writer, reader = torch.cuda.Stream(), torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(writer):
        torch.cuda._sleep(100_000_000)  # cycles
        image.fill_(0.5)
    arrays = [
        fake_cuda((9, 7, 3), data=(tensor.data_ptr(), False), stream=stream.cuda_stream)
        for tensor, stream in ((out, reader), (image, writer))
    ]
    warp(*arrays, stream=reader)
    reader.synchronize()
    assert bool((out == 0.5).all())


@pytest.mark.cuda
def test_cupy_arrays_enter_by_dlpack() -> None:
    cupy = pytest.importorskip("cupy")
    image = cupy.random.rand(9, 7, 3, dtype=cupy.float32)
    result = kernels.flow_warp(image, matrix=np.eye(2, 3))
    assert isinstance(result, cupy.ndarray)
    assert bool((result == image).all())


def test_no_library_is_imported_for_its_arrays() -> None:
    code = "import sys, revisage.kernels; print({'torch', 'cupy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
