"""The compositor against a Numba loop and NumPy: a turned face square on a 12-megapixel photo.

In place, as the runtime does it: only the samples below the square are touched. The Numba loop is
given the box of the square in the photo.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from harness import Inputs, Options, Report, Work, print_case, run_suite

PHOTO, SQUARE = (3000, 4000), 512
FACE, ANGLE, STRENGTH = 1500, 0.2, 0.8  # side in pixels of the photo; radians
DTYPES = ["uint8", "uint16", "float16", "float32"]


def inputs_of(dtype: str) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    full = {"uint8": 255, "uint16": 65535}.get(dtype, 1)
    delta = random.standard_normal((SQUARE, SQUARE, 3), np.float32) * np.float32(0.05)
    y, x = np.mgrid[-1 : 1 : SQUARE * 1j, -1 : 1 : SQUARE * 1j]
    zoom = SQUARE / FACE
    linear = zoom * np.array([[np.cos(ANGLE), np.sin(ANGLE)], [-np.sin(ANGLE), np.cos(ANGLE)]])
    centre = np.array([PHOTO[1], PHOTO[0]]) / 2
    return {
        "photo": (random.random((*PHOTO, 3), np.float32) * full).astype(dtype),
        "delta": delta,
        "mask": (1.2 - 2 * np.hypot(x, y)).clip(0, 1).astype(np.float32),
        "matrix": np.c_[linear, np.full(2, SQUARE / 2) - linear @ centre],
    }


def _in_place(inputs: Inputs, edit: Callable[[np.ndarray], object]) -> Work:
    """Edits one photo over and over; the result is that of a fresh one."""
    photo = inputs["photo"].copy()

    def result() -> np.ndarray:
        fresh = inputs["photo"].copy()
        edit(fresh)
        return fresh

    return Work(lambda: edit(photo), result)


def revisage(inputs: Inputs, threads: int) -> Mapping[str, Work]:
    from revisage import kernels

    _, *given = inputs.values()

    def edit(photo: np.ndarray) -> None:
        kernels.composite_into(photo, photo, *given, STRENGTH, threads=threads)

    return {"": _in_place(inputs, edit)}


def numpy_twin(inputs: Inputs, threads: int) -> Mapping[str, Work]:
    """For information: what `impl="reference"` costs. It takes no number of threads."""
    from revisage import kernels

    if threads > 1:
        return {}
    _, *given = inputs.values()

    def edit(photo: np.ndarray) -> None:
        kernels.composite_into(photo, photo, *given, STRENGTH, impl="reference")

    return {"": _in_place(inputs, edit)}


def numba_loop(inputs: Inputs, threads: int) -> Mapping[str, Work]:
    photo, delta, mask, matrix = inputs.values()
    if photo.dtype == np.float16:  # Numba has no half precision on the CPU
        return {}
    import numba

    numba.set_num_threads(threads)
    full = np.float32({"uint8": 255, "uint16": 65535}.get(photo.dtype.name, 1))
    x0, x1, y0, y1 = _box(matrix)

    @numba.njit(parallel=True, fastmath=True)
    def loop(photo, delta, mask, matrix, full, clip):  # type: ignore[no-untyped-def]
        rows, columns = mask.shape
        strength = np.float32(STRENGTH)
        for y in numba.prange(y0, y1):
            for x in range(x0, x1):
                u = matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2]
                v = matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2]
                # One pixel less than the definition at the rim of the square, where the mask is 0.
                if u < 0 or v < 0 or u >= columns - 1 or v >= rows - 1:
                    continue
                left, top = int(u), int(v)
                fx, fy = np.float32(u - left), np.float32(v - top)
                above = mask[top, left] + (mask[top, left + 1] - mask[top, left]) * fx
                below = mask[top + 1, left] + (mask[top + 1, left + 1] - mask[top + 1, left]) * fx
                weight = strength * (above + (below - above) * fy)
                if weight == 0:
                    continue
                for c in range(3):
                    a, b = delta[top, left, c], delta[top, left + 1, c]
                    d, e = delta[top + 1, left, c], delta[top + 1, left + 1, c]
                    above, below = a + (b - a) * fx, d + (e - d) * fx
                    value = photo[y, x, c] + weight * (above + (below - above) * fy) * full
                    if clip:
                        value = min(max(np.rint(value), np.float32(0)), full)
                    photo[y, x, c] = value

    clip = photo.dtype != np.float32
    return {"": _in_place(inputs, lambda photo: loop(photo, delta, mask, matrix, full, clip))}


def _box(matrix: np.ndarray) -> tuple[int, int, int, int]:
    """x0, x1, y0, y1 of the square in the photo."""
    corners = np.array([[0, 0, SQUARE, SQUARE], [0, SQUARE, 0, SQUARE]], float)
    placed = np.linalg.solve(matrix[:, :2], corners - matrix[:, 2:])
    low, high = np.floor(placed.min(axis=1)), np.ceil(placed.max(axis=1))
    x0, y0 = (int(max(0, value)) for value in low)
    x1, y1 = (int(min(side, value)) for side, value in zip(PHOTO[::-1], high, strict=True))
    return x0, x1, y0, y1


BUILDS = {"revisage": revisage, "numba": numba_loop, "numpy twin": numpy_twin}


def run(report: Report, options: Options) -> None:
    with options.farm(BUILDS) as farm:
        for dtype in DTYPES[:1] if options.quick else DTYPES:
            if not options.wants(dtype):
                continue
            inputs = inputs_of(dtype)
            expected: list[np.ndarray] = []

            def error(contender: str, result: np.ndarray) -> float:
                """Largest distance from our result (the twin's bits), in full ranges."""
                if not expected:  # noqa: B023
                    expected.append(result)  # noqa: B023
                full = {"u": np.iinfo(result.dtype).max if result.dtype.kind == "u" else 1, "f": 1}
                distance = np.abs(result.astype(np.float32) - expected[0]).max()  # noqa: B023
                distance = float(distance / full[result.dtype.kind])
                if distance > 0.005:
                    raise SystemExit(f"{contender} is wrong by {distance:.3f}")
                return distance

            samples = 3 * FACE * FACE  # below the square
            for threads in (1, 2):
                case = farm.measure(
                    f"{dtype} 12 MP",
                    inputs,
                    threads=threads,
                    bytes_moved=2 * samples * inputs["photo"].itemsize
                    + inputs["delta"].nbytes
                    + inputs["mask"].nbytes,
                    # 3 mixes of 3 operations for delta and mask, 3 to apply, 8 for the position
                    operations=samples * 12 + samples // 3 * (9 + 8),
                    error=error,
                )
                report.cases.append(case)
                print_case(case)


if __name__ == "__main__":
    run_suite("composite", run)
