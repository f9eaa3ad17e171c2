"""Random calls of the kernels: good ones, bent ones and broken ones, each from a seed and a number.

A call goes to the NumPy twin first, then to the compiled kernel, with the very same memory. Each
array lies against a page that nobody may touch, so that reading or writing one byte too much ends
the process; that is why tests run this file in a process of its own. What a call prints about
itself repeats it:

    python -m tests.kernels.fuzzing flow_warp --seed 7 --first 123 --calls 1
"""

from __future__ import annotations

import argparse
import ctypes
import mmap
import os
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from revisage import kernels
from revisage.errors import DeviceError, RevisageError
from revisage.kernels import _dispatch

PAGE = mmap.PAGESIZE
SIDES = [1, 1, 2, 3, 4, 5, 7, 8, 13, 16, 17, 31, 33, 64, 65, 100]
THREADS = [1, 1, 2, 3, 7, 64]

_libc = ctypes.CDLL(None, use_errno=True)


# --- memory --------------------------------------------------------------------------------------


class Block:
    """Memory between two pages without access; what was written can be taken back."""

    def __init__(self, size: int, at_end: bool, misaligned: bool = False) -> None:
        inner = -(-max(1, size) // PAGE) * PAGE
        self._map = mmap.mmap(-1, inner + 2 * PAGE)
        start = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        for guard in (start, start + PAGE + inner):
            if _libc.mprotect(ctypes.c_void_p(guard), PAGE, 0) != 0:
                raise OSError(ctypes.get_errno(), "mprotect")
        self._inner = slice(PAGE, PAGE + inner)
        self.offset = PAGE + (inner - size if at_end else 0)
        if misaligned:
            self.offset += -1 if at_end else 1
        self._saved = b""

    def view(self, dtype: np.dtype, shape: tuple[int, ...], skip: int = 0) -> np.ndarray:
        count = int(np.prod(shape))
        return np.frombuffer(self._map, dtype, count, self.offset + skip).reshape(shape)

    def save(self) -> None:
        self._saved = self._map[self._inner]

    def restore(self) -> None:
        self._map[self._inner] = self._saved


@dataclass
class Call:
    """The arguments of one call, and the memory behind them."""

    op: str
    arrays: dict[str, Any]  # outputs first
    options: dict[str, Any]
    outputs: int = 1
    blocks: list[Block] = field(default_factory=list)
    bends: list[str] = field(default_factory=list)

    def results(self) -> list[Any]:
        return list(self.arrays.values())[: self.outputs]

    def place(self, random: np.random.Generator, name: str, values: np.ndarray) -> None:
        """Put an array, which is C-contiguous, against a guard page."""
        misaligned = bool(values.nbytes) and random.random() < 0.02
        block = Block(values.nbytes + misaligned, random.random() < 0.7, misaligned)
        if misaligned:
            self.bends.append(f"{name} misaligned")
        self.blocks.append(block)
        self.arrays[name] = block.view(values.dtype, values.shape)
        self.arrays[name][...] = values


def numbers(
    random: np.random.Generator, shape: tuple[int, ...], dtype: Any = "float32", wild: float = 0.1
) -> np.ndarray:
    """Random samples, now and then with what floats can be besides numbers."""
    dtype = np.dtype(dtype)
    if dtype.kind == "u":
        return random.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)
    values = (random.standard_normal(shape) * 10.0 ** random.integers(-2, 3)).astype(dtype)
    if values.size and random.random() < wild:
        odd = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-40, 3e38, -3e38, 2.0**31, 2.0**63]
        places = random.integers(0, values.size, 1 + values.size // 8)
        with np.errstate(over="ignore"):
            values.ravel()[places] = random.choice(odd, places.size).astype(dtype)
    return values


# --- good calls ----------------------------------------------------------------------------------


def _side(random: np.random.Generator) -> int:
    return int(random.choice(SIDES))


def a_matrix(random: np.random.Generator) -> np.ndarray:
    angle, zoom = random.uniform(0, 7), 10 ** random.uniform(-1.5, 1.5)
    cosine, sine = zoom * np.cos(angle), zoom * np.sin(angle)
    shift = random.uniform(-60, 60, 2)
    return np.array([[cosine, -sine, shift[0]], [sine, cosine, shift[1]]])


def a_flow_warp(random: np.random.Generator) -> Call:
    dtype = random.choice(["uint8", "uint16", "float16", "float32"])
    layout = str(random.choice(["hwc", "chw"]))
    channels = int(random.choice([1, 2, 3, 4, 5, 8]))
    h, w, rows, columns = (_side(random) for _ in range(4))
    if random.random() < 0.4:
        rows, columns = h, w
    rank, n = int(random.choice([2, 3, 3, 4])), int(random.integers(1, 3))

    def shape(y: int, x: int) -> tuple[int, ...]:
        one = (y, x, channels) if layout == "hwc" else (channels, y, x)
        return {2: (y, x), 3: one, 4: (n, *one)}[rank]

    options: dict[str, Any] = {
        "matrix": None,
        "padding": str(random.choice(["border", "zero", "reflect"])),
        "layout": layout,
    }
    call = Call("flow_warp", {}, options)
    call.place(random, "out", numbers(random, shape(rows, columns), dtype))
    call.place(random, "image", numbers(random, shape(h, w), dtype))
    call.arrays["flow"] = None
    if random.random() < 0.4:
        options["matrix"] = a_matrix(random)
    elif random.random() < 0.3:
        # Small shifts of a large image: whole vectors of pixels are read, to its last byte.
        call.place(random, "flow", (random.random((rows, columns, 2)) - 0.9).astype(np.float32))
    else:
        whole = random.random() < 0.5
        size = (rows, columns) if whole else (random.integers(1, n + 1) for n in (rows, columns))
        batch = (n,) if rank == 4 and random.random() < 0.5 else ()
        call.place(random, "flow", numbers(random, (*batch, *size, 2), wild=0.3))
    return call


def a_composite(random: np.random.Generator) -> Call:
    dtype = random.choice(["uint8", "uint16", "float16", "float32"])
    channels, h, w = int(random.choice([1, 2, 3, 4, 6])), _side(random), _side(random)
    shape = (h, w) if channels == 1 and random.random() < 0.5 else (h, w, channels)
    square = (_side(random), _side(random))
    changed = int(random.integers(1, channels + 1))
    options = {"matrix": a_matrix(random), "strength": float(random.choice([0, 0.3, 1, 2.5, 1e6]))}
    call = Call("composite", {}, options)
    call.place(random, "out", numbers(random, shape, dtype))
    call.place(random, "original", numbers(random, shape, dtype))
    call.place(random, "delta", numbers(random, (*square, changed), wild=0.02))
    call.place(random, "mask", random.random(square, np.float32))
    if random.random() < 0.4:
        call.arrays["out"] = call.arrays["original"]
    return call


def a_feature_blend(random: np.random.Generator) -> Call:
    n, c = int(random.integers(1, 3)), int(random.choice([1, 2, 3, 8, 17]))
    shape = (n, c, _side(random), _side(random))
    call = Call("feature_blend", {}, {"strength": float(random.choice([0, 0.5, 1, 3]))})
    for name in ("out", "style", "image"):
        call.place(random, name, numbers(random, shape))
    call.place(random, "spatial_logits", numbers(random, (n, 2, *shape[2:])))
    call.place(random, "channel_logits", numbers(random, (n, 2, c)))
    if random.random() < 0.3:
        call.arrays["out"] = call.arrays[str(random.choice(["style", "image"]))]
    return call


def a_fft_conv(random: np.random.Generator) -> Call:
    n, c, d = (int(random.choice([1, 2, 3, 8, 16, 17, 20])) for _ in range(3))
    n, h, w = min(n, 3), _side(random), _side(random)
    call = Call("fft_conv", {}, {})
    call.place(random, "out", numbers(random, (n, d, h, w)))
    call.place(random, "x", numbers(random, (n, c, h, w), wild=0.05))
    call.place(random, "weight", numbers(random, (2 * d, 2 * c), wild=0.05))
    call.place(random, "scale", numbers(random, (2 * d,), wild=0.05))
    call.place(random, "shift", numbers(random, (2 * d,), wild=0.05))
    return call


def a_flow_warp_backward(random: np.random.Generator) -> Call:
    forward = a_flow_warp(random)
    while forward.arrays["flow"] is None:
        forward = a_flow_warp(random)
    image, flow, grad = (forward.arrays[name] for name in ("image", "flow", "out"))
    options = {name: forward.options[name] for name in ("padding", "layout")}
    call = Call("flow_warp_backward", {}, options, outputs=2)
    for name, like in {
        "grad_image": image,
        "grad_flow": flow,
        "grad": grad,
        "image": image,
    }.items():
        call.place(random, name, numbers(random, like.shape))
    call.place(random, "flow", flow)
    if random.random() < 0.2:
        call.arrays[str(random.choice(["grad_image", "grad_flow"]))] = None
    return call


def a_feature_blend_backward(random: np.random.Generator) -> Call:
    forward = a_feature_blend(random)
    _, *inputs = forward.arrays
    call = Call("feature_blend_backward", {}, forward.options, outputs=4)
    for name in inputs:
        call.place(random, f"grad_{name}", forward.arrays[name])
    call.place(random, "grad", numbers(random, forward.arrays["style"].shape))
    for name in inputs:
        call.place(random, name, forward.arrays[name])
    return call


def a_winograd_conv(random: np.random.Generator) -> Call:
    n, c, d = (int(random.choice([1, 2, 3, 7, 16, 17, 20])) for _ in range(3))
    padding = str(random.choice(["zero", "reflect", "none"]))
    least = {"zero": 1, "reflect": 2, "none": 3}[padding]
    n, h, w = min(n, 3), max(least, _side(random)), max(least, _side(random))
    options = {
        "padding": padding,
        "slope": float(random.choice([1, 0, 0.2])),
        "ceiling": float(random.choice([np.inf, 6])),
    }
    call = Call("winograd_conv", {}, options)
    result = (n, d, h - 2, w - 2) if padding == "none" else (n, d, h, w)
    call.place(random, "out", numbers(random, result))
    call.place(random, "x", numbers(random, (n, c, h, w), wild=0.05))
    call.place(random, "weight", numbers(random, (d, c, 3, 3), wild=0.05))
    for name, shape in {"bias": (d,), "residual": result, "skip": result}.items():
        if random.random() < 0.5:
            call.place(random, name, numbers(random, shape, wild=0.05))
        else:
            call.arrays[name] = None
    return call


GOOD: dict[str, Callable[[np.random.Generator], Call]] = {
    "composite": a_composite,
    "feature_blend": a_feature_blend,
    "feature_blend_backward": a_feature_blend_backward,
    "fft_conv": a_fft_conv,
    "flow_warp": a_flow_warp,
    "flow_warp_backward": a_flow_warp_backward,
    "winograd_conv": a_winograd_conv,
}
CPU_ONLY = {"winograd_conv"}  # these take no stream


# --- bent and broken arguments -------------------------------------------------------------------


class Lying:
    """An object with the interface of a host or CUDA array that says what it was told to say."""

    def __init__(self, kind: str, interface: Any) -> None:
        setattr(self, kind, interface)


class BadCapsule:
    """Says that it speaks DLPack, and does not."""

    def __init__(self, device: Any, answer: Any) -> None:
        self._device, self._answer = device, answer

    def __dlpack_device__(self) -> Any:
        if isinstance(self._device, Exception):
            raise self._device
        return self._device

    def __dlpack__(self, **_: Any) -> Any:
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer


HUGE_SIZES = [2**31 - 1, 2**31, 2**32 + 1, 2**40, 2**62, 2**63 - 1, -1, -(2**31), 0]


def _lie(random: np.random.Generator, array: np.ndarray) -> Any:
    """The interface of a host or CUDA array in which one thing is false.

    On the host only what can be found out: a pointer to less memory than was said cannot. No CUDA
    address is real, so on a machine with a GPU nothing is claimed to lie there.
    """
    interface = {"version": 3, **array.__array_interface__}
    interface.pop("descr", None)
    shape, address = list(interface["shape"]), interface["data"][0]
    lies: list[Any] = [{"data": (0, False)}, {"typestr": ""}, {"typestr": "<f9"}, {"shape": "ab"}]
    lies += [{"shape": (2**62, 2**62), "data": (0, False)}, {"strides": (4,) * (len(shape) + 1)}]
    on_cuda = random.random() < 0.5 and "cuda:0" not in kernels.available_devices()
    if on_cuda:
        lies += [{"data": (address + 1, False)}, {"data": ("a", "b")}, {"data": 7}, {"mask": array}]
        lies += [{"strides": tuple(random.integers(-64, 64, len(shape)).tolist())}]
        lies += [{"typestr": kind} for kind in (">f4", "<f8", "|O", "|V4", "f")]
    if shape:
        shape[random.integers(0, len(shape))] = int(random.choice(HUGE_SIZES))
        lies += [{"shape": tuple(shape), "data": (address if on_cuda else 0, False)}] * 3
    what = int(random.integers(0, len(lies) + 3))
    if what < len(lies):
        interface.update(lies[what])
    else:
        interface.pop(("shape", "typestr", "data")[what - len(lies)])
        interface = random.choice(np.array([interface, None, 7, "no"], object))
    return Lying("__cuda_array_interface__" if on_cuda else "__array_interface__", interface)


def _dtype(random: np.random.Generator, array: np.ndarray) -> np.ndarray:
    names = [">f4", ">u2", "f8", "f4", "f2", "u1", "u2", "i4", "i1", "?", "c8", "O", "V4", "S3"]
    name = str(random.choice(names))
    if array.dtype.kind not in "fu" or name in ("V4", "S3"):
        return np.zeros(array.shape, name)
    with np.errstate(all="ignore"):
        return np.nan_to_num(array).astype(name)


def _shape(random: np.random.Generator, array: np.ndarray) -> np.ndarray:
    what = random.integers(0, 5)
    if what == 0 or array.ndim == 0:
        return array[None]
    if what == 1:
        return array[0] if array.shape[0] else array.ravel()
    axis = int(random.integers(0, array.ndim))
    if what == 2:
        return np.take(array, [], axis=axis)
    if what == 3:
        return np.concatenate([array, array], axis=axis)
    return np.moveaxis(array, axis, 0).copy()


def _strides(random: np.random.Generator, array: np.ndarray) -> np.ndarray:
    what = random.integers(0, 4)
    if what == 0:
        return array[::-1]
    if what == 1:
        return array.T
    if what == 2 and array.size:
        return np.broadcast_to(array.ravel()[:1].reshape((1,) * array.ndim), array.shape)
    return np.repeat(array, 2, axis=-1)[..., ::2] if array.ndim else array


def _object(random: np.random.Generator, array: np.ndarray) -> Any:
    cpu, cuda = (1, 0), (2, 0)
    answers: list[Any] = [
        None, 3, "array", [], {}, [[1.0, 2.0], [3.0]], object(), array.tolist(), memoryview(b"ab"),
        BadCapsule(cpu, None), BadCapsule(cuda, None), BadCapsule(cpu, "no capsule"),
        BadCapsule(cpu, KeyError("x")), BadCapsule(cuda, ValueError("y")), BadCapsule(None, None),
        BadCapsule(OSError("z"), None), BadCapsule((9, 0), None), BadCapsule(("a", "b"), None),
        BadCapsule((), None), np.ma.masked_array(array), np.float32(3),
        np.matrix([[1.0, 2.0]], np.float32),
    ]  # fmt: skip
    return answers[int(random.integers(0, len(answers)))]


def bend(random: np.random.Generator, call: Call) -> None:
    """Change one thing about a call."""
    names = [name for name, array in call.arrays.items() if isinstance(array, np.ndarray)]
    what = str(
        random.choice(["dtype", "shape", "strides", "object", "lie", "overlap", "frozen", "option"])
    )
    if what == "option" or not names:
        options: dict[str, list[Any]] = {
            "threads": [0, -1, 1025, 2**31, 10**30, True, 2.0, "2", np.int64(2), np.nan],
            "impl": ["fast", 3, ""],
            "stream": [0, 1, -1, "s", object()],
            "padding": ["", "wrap", None, 7],
            "layout": ["", "nchw", None, 7],
            "slope": [np.nan, np.inf, -1, 0, 1e38, 1e300, "1", None, [1.0], np.float32(0.5)],
            "ceiling": [np.nan, np.inf, -1, 0, 1e300, "1", None, [1.0], np.float32(0.5)],
            "strength": [np.nan, np.inf, -1, -0.0, 1e38, 1e300, "1", None, [1.0], np.float32(0.5)],
            "matrix": [
                np.full((2, 3), np.nan), np.full((2, 3), 1e308), np.zeros((2, 3)), np.eye(3), "m",
                None, [[1, 0, np.inf], [0, 1, 0]], [[1e-300, 0, 0], [0, 1e-300, 0]], [[1, 2], [3]],
                [[1e9, 0, 0], [0, 1e9, 0]], [[1, 0, -1e18], [0, 1, 1e18]],
                np.eye(2, 3, dtype=complex), np.array([["a"] * 3] * 2, object),
            ],
        }  # fmt: skip
        always = ["threads", "impl"] if call.op in CPU_ONLY else ["threads", "impl", "stream"]
        name = str(random.choice([*always, *call.options]))
        value = options[name][int(random.integers(0, len(options[name])))]
        call.options[name] = value
        call.bends.append(f"{name}={value!r}")
        return
    name = str(random.choice(names))
    array = np.asarray(call.arrays[name])
    if what == "overlap":
        source = np.asarray(call.arrays[str(random.choice(names))])
        skip = int(random.choice([0, 0, 4, 64]))
        plain = source.dtype.kind in "fu" and array.dtype.kind in "fu"
        if plain and source.nbytes >= skip + array.nbytes and source.flags.c_contiguous:
            flat = source.reshape(-1).view(np.uint8)[skip : skip + array.nbytes]
            call.arrays[name] = flat.view(array.dtype).reshape(array.shape)
    elif what == "frozen":
        call.arrays[name] = array.view()
        call.arrays[name].flags.writeable = False
    else:
        change = {
            "dtype": _dtype, "shape": _shape, "strides": _strides, "object": _object, "lie": _lie,
        }[what]  # fmt: skip
        call.arrays[name] = change(random, array)
    call.bends.append(f"{name}: {what}")


def call_of(op: str, seed: int, number: int) -> Call:
    """The call with this number; three of four are good."""
    random = np.random.default_rng([seed, number])
    call = GOOD[op](random)
    call.options["threads"] = int(random.choice(THREADS))
    for _ in range(int(random.choice([0, 0, 0, 1, 1, 2, 3]))):
        bend(random, call)
    return call


# --- running -------------------------------------------------------------------------------------


def public(call: Call, impl: str) -> None:
    """Through the function that users call."""
    results, inputs = call.results(), list(call.arrays.values())[call.outputs :]
    out = results[0] if call.outputs == 1 else tuple(results)
    getattr(kernels, f"{call.op}_into")(out, *inputs, **{"impl": impl, **call.options})


def direct(call: Call) -> None:
    """Into C++, past the checks of Python."""
    options = dict(call.options)
    threads, stream = options.pop("threads"), options.pop("stream", 0)
    options.pop("impl", None)
    if "layout" in options:
        options["layout"] = options["layout"] == "hwc"
    if "matrix" in options and options["matrix"] is not None:
        options["matrix"] = tuple(np.ravel(np.array(options["matrix"], object)).tolist())
    native = getattr(_dispatch._native, f"{call.op}_into")
    last = (threads,) if call.op in CPU_ONLY else (threads, stream)
    native(*call.arrays.values(), *options.values(), *last)


def attempt(run: Callable[[], None]) -> Exception | None:
    """The error of a run that is one of ours; any other goes up."""
    try:
        with np.errstate(all="ignore"):
            run()
    except RevisageError as error:
        return error
    return None


def agree(call: Call, twins: list[np.ndarray], results: list[np.ndarray]) -> bool:
    """The promise of each op about its twin."""
    pairs = list(zip(twins, results, strict=True))
    if call.op in ("composite", "flow_warp"):
        return all(np.array_equal(t, n, equal_nan=t.dtype.kind == "f") for t, n in pairs)
    given = [array for array in call.arrays.values() if array is not None]
    if (
        not pairs
        or not all((np.abs(a) < 1e6).all() for a in given)
        or not np.isfinite(np.hstack(twins)).all()
    ):
        return True  # where infinities meet or large numbers cancel, the order of operations shows
    allowed = 1e-30 + 1e-5 * largest_term(call, twins)
    return all((np.abs(twin - native) <= allowed).all() for twin, native in pairs)


def largest_term(call: Call, twins: list[np.ndarray]) -> float:
    """What the result is a sum of, by its largest part (or a bound of it)."""
    sizes = {n: float(np.abs(a).max()) for n, a in call.arrays.items() if a is not None}
    strength = max(1.0, float(call.options.get("strength", 1)))
    if call.op == "fft_conv":  # a large shift may cancel from the result, its rounding does not
        return max(float(np.abs(twins[0]).max()), sizes["shift"])
    if call.op == "feature_blend":
        return strength * max(sizes["style"], sizes["image"])
    if call.op == "winograd_conv":
        terms = call.arrays["weight"][0].size * sizes["x"] * sizes["weight"]
        terms += sum(sizes.get(name, 0) for name in ("bias", "residual", "skip"))
        return terms * max(1.0, abs(float(call.options["slope"])))
    features = sizes["image"] + sizes.get("style", 0)
    return strength * float(np.abs(call.arrays["grad"]).sum()) * (1 + features)


def check(call: Call) -> None:
    """Twin, kernel through the public function, kernel by itself: the same, or errors of ours."""

    def copies() -> list[np.ndarray]:
        return [np.array(a).ravel() for a in call.results() if isinstance(a, np.ndarray)]

    for block in call.blocks:
        block.save()
    before = copies()
    refused = attempt(lambda: public(call, "reference"))
    expected = copies()
    for block in call.blocks:
        block.restore()
    error = attempt(lambda: public(call, "native"))
    # The twin refuses CUDA arrays before it looks at them.
    same = type(error) is type(refused) or (error and isinstance(refused, DeviceError))
    assert same, f"twin: {refused!r}; kernel: {error!r}"
    if refused is None:
        assert agree(call, expected, copies()), "the kernel is not its twin"
    else:
        untouched = [a.tobytes() == b.tobytes() for a, b in zip(before, copies(), strict=True)]
        assert all(untouched), "a refused call wrote into an output"
    for block in call.blocks:
        block.restore()
    try:
        error = attempt(lambda: direct(call))
    except TypeError:  # the types that pybind11 refuses
        return
    if error is None and refused is None and "impl" not in call.options:
        assert agree(call, expected, copies()), "the kernel called directly is not its twin"


def fuzz(op: str, seed: int, first: int, calls: int, announce: Callable[[int], None]) -> None:
    for number in range(first, first + calls):
        announce(number)
        call = call_of(op, seed, number)
        try:
            check(call)
        except Exception as error:
            given = {
                name: f"{a.dtype}{list(a.shape)}" if isinstance(a, np.ndarray) else repr(a)
                for name, a in call.arrays.items()
            }
            about = f"call {number} of seed {seed}: {given}, {call.options}, {call.bends}"
            raise AssertionError(f"{op} {about}") from error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("op", choices=[*GOOD, []], nargs="*", help="default: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--calls", type=int, default=100)
    parser.add_argument("--isa", help="instruction set; default: the best of this machine")
    parser.add_argument("--together", action="store_true", help="each op on two threads at once")
    parser.add_argument("--fork", action="store_true", help="again in a forked child")
    options = parser.parse_args()
    ops = options.op or list(GOOD)
    if options.isa:
        kernels.set_cpu_isa(options.isa)

    def announce(number: int) -> None:
        os.write(1, b"%d\n" % number)  # not lost when the process dies

    def run(op: str, seed: int) -> None:
        fuzz(op, seed, options.first, options.calls, announce)

    failures: list[BaseException] = []

    def guarded(op: str, seed: int) -> None:
        try:
            run(op, seed)
        except BaseException as error:
            failures.append(error)

    if options.together:
        jobs = [(op, options.seed + shift) for op in ops for shift in range(2)]
        threads = [threading.Thread(target=guarded, args=job) for job in jobs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]
    else:
        for op in ops:
            run(op, options.seed)
    if options.fork:
        child = os.fork()
        if child == 0:
            for op in ops:
                run(op, options.seed + 1)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        if status != 0:
            sys.exit(f"the forked child ended with status {status}")


if __name__ == "__main__":
    main()
