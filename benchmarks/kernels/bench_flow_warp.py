"""flow_warp against OpenCV, torch and a Numba loop, at 1080p and 2160p.

A flow in pixels is what `flow_warp` takes. What the others need instead is given to them for free:
absolute maps for `cv2.remap` (as float planes, float pairs, or `convertMaps` fixed point, whichever
is fastest), a normalised grid for `grid_sample`. With a flow at 1/8 of the resolution the
alternative is the fastest of three ways to resize and remap with OpenCV, all into memory that is
already there.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from harness import (
    Case,
    Inputs,
    Options,
    Report,
    Requirement,
    Spread,
    Work,
    on_threads,
    print_case,
    require,
    run_suite,
)

OURS = "revisage"
REACH = 15.0  # pixels that the flow moves things at the most
TURN = np.array([[0.98, 0.17, -120.0], [-0.17, 0.98, 90.0]])  # output pixel -> image pixel


@dataclass(frozen=True)
class Kind:
    """One case: an image and what it is warped by."""

    dtype: str
    size: str = "1080p"
    by: str = "flow"  # "low" (flow at 1/8), "matrix"
    channels: int = 3
    planar: bool = False

    @property
    def name(self) -> str:
        by = {"flow": "", "low": ", flow at 1/8", "matrix": ", affine"}[self.by]
        layout = f" {self.channels}x" if self.channels != 3 else " "
        return f"{self.dtype}{layout}{self.size}{' planar' if self.planar else ''}{by}"


SIZES = {"1080p": (1080, 1920), "2160p": (2160, 3840)}
REQUIRED = [
    Kind(dtype, size, by)
    for size in SIZES
    for by in ("flow", "low")
    for dtype in ("uint8", "float32")
]
FURTHER = [
    Kind("uint16"),
    Kind("float16"),
    Kind("uint8", channels=1),
    Kind("uint8", channels=4),
    Kind("float32", planar=True),
    Kind("uint8", by="matrix"),
    Kind("float32", by="matrix"),
]


class Scenes:
    """Images and flows of one size, made once; values are whole levels 0..255 in every dtype."""

    def __init__(self, size: str) -> None:
        import cv2

        self.rows, self.columns = SIZES[size]
        random = np.random.default_rng(0)
        noise = random.standard_normal((self.rows // 8, self.columns // 8, 2)).astype(np.float32)
        low = cv2.GaussianBlur(noise, (0, 0), 8)
        self.low = low * np.float32(REACH / np.abs(low).max())
        self.flow = cv2.resize(self.low, (self.columns, self.rows))
        self._levels = random.integers(0, 256, (self.rows, self.columns, 4), np.uint8)
        self._expected: dict[tuple[str, int], np.ndarray] = {}

    def inputs(self, kind: Kind) -> dict[str, np.ndarray]:
        image = np.ascontiguousarray(self._levels[..., : kind.channels]).astype(kind.dtype)
        if kind.planar:
            image = np.ascontiguousarray(image.transpose(2, 0, 1))
        return {"image": image, kind.by: self._warp(kind)}

    def _warp(self, kind: Kind) -> np.ndarray:
        return {"flow": self.flow, "low": self.low, "matrix": TURN}[kind.by]

    def expected(self, kind: Kind) -> np.ndarray:
        """The float result, [H, W, C], by the NumPy twin."""
        from revisage import kernels

        key = (kind.by, kind.channels)
        if key not in self._expected:
            image = self._levels[..., : kind.channels].astype(np.float32)
            warp = self._warp(kind)
            given = {"matrix": warp} if kind.by == "matrix" else {"flow": warp}
            self._expected[key] = kernels.flow_warp(image, **given, impl="reference")
        return self._expected[key]


def counts(kind: Kind, inputs: Inputs) -> dict[str, int]:
    """Image, warp and result once; 3 mixes of 3 operations a sample, and the position's."""
    rows, columns = SIZES[kind.size]
    position = {"flow": 8, "low": 8 + 2 * 9, "matrix": 12}[kind.by]
    return {
        "bytes_moved": 2 * inputs["image"].nbytes + inputs[kind.by].nbytes,
        "operations": rows * columns * (kind.channels * 9 + position),
    }


# --- contenders ----------------------------------------------------------------------------------


def _is_planar(inputs: Inputs) -> bool:
    return inputs["image"].shape[0] < 5


def _positions(flow: np.ndarray) -> np.ndarray:
    """Absolute positions (x, y) of a flow, [H, W, 2] float32."""
    rows, columns = flow.shape[:2]
    y, x = np.mgrid[0:rows, 0:columns].astype(np.float32)
    return np.stack([x, y], axis=-1) + flow


def revisage(inputs: Inputs, threads: int) -> Mapping[str, Work]:
    from revisage import kernels

    image, planar = inputs["image"], _is_planar(inputs)
    out = np.empty_like(image)
    warp = {"flow": inputs.get("flow", inputs.get("low")), "matrix": inputs.get("matrix")}
    layout = "chw" if planar else "hwc"

    def run() -> None:
        kernels.flow_warp_into(out, image, **warp, layout=layout, threads=threads)

    return {"": Work(run, lambda: out.transpose(1, 2, 0) if planar else out)}


def opencv(inputs: Inputs, threads: int) -> Mapping[str, Work]:
    """The fastest way of OpenCV."""
    import cv2

    cv2.setNumThreads(threads)
    image = inputs["image"]
    if image.dtype == np.float16 or (_is_planar(inputs) and "flow" not in inputs):
        return {}
    if _is_planar(inputs):
        return _opencv_planes(cv2, image, _positions(inputs["flow"]))
    out = np.empty_like(image)
    border = cv2.BORDER_REPLICATE

    def remap(*maps, flags: int = 0) -> None:  # type: ignore[no-untyped-def]
        cv2.remap(image, *maps, cv2.INTER_LINEAR | flags, dst=out, borderMode=border)

    def work(run: Callable[[], None]) -> Work:
        return Work(run, lambda: out)

    if "matrix" in inputs:
        matrix, size = inputs["matrix"], (image.shape[1], image.shape[0])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return {
            "warpAffine": work(
                lambda: cv2.warpAffine(image, matrix, size, dst=out, flags=flags, borderMode=border)
            )
        }
    if "flow" in inputs:
        pairs = _positions(inputs["flow"])
        planes = [np.ascontiguousarray(pairs[..., axis]) for axis in (0, 1)]
        fixed = cv2.convertMaps(*planes, cv2.CV_16SC2)
        return {
            "float planes": work(lambda: remap(*planes)),
            "float pairs": work(lambda: remap(pairs, None)),
            "fixed point": work(lambda: remap(*fixed)),
        }
    low = inputs["low"]
    rows, columns = image.shape[:2]
    grid = _positions(np.zeros((rows, columns, 2), np.float32))
    dense, maps = np.empty_like(grid), np.empty_like(grid)
    grid_planes = [np.ascontiguousarray(grid[..., axis]) for axis in (0, 1)]
    low_planes = [np.ascontiguousarray(low[..., axis]) for axis in (0, 1)]
    map_planes = [np.empty((rows, columns), np.float32) for _ in range(2)]

    def add_pairs() -> None:
        cv2.resize(low, (columns, rows), dst=dense, interpolation=cv2.INTER_LINEAR)
        cv2.add(dense, grid, dst=maps)
        remap(maps, None)

    def add_planes() -> None:
        for flow, positions, plane in zip(low_planes, grid_planes, map_planes, strict=True):
            cv2.resize(flow, (columns, rows), dst=plane, interpolation=cv2.INTER_LINEAR)
            cv2.add(plane, positions, dst=plane)
        remap(*map_planes)

    def relative() -> None:
        cv2.resize(low, (columns, rows), dst=dense, interpolation=cv2.INTER_LINEAR)
        remap(dense, None, flags=cv2.WARP_RELATIVE_MAP)

    return {
        "resize, add, remap by pairs": work(add_pairs),
        "resize, add, remap by planes": work(add_planes),
        "resize, remap by a relative map": work(relative),
    }


def _opencv_planes(cv2, image: np.ndarray, pairs: np.ndarray) -> Mapping[str, Work]:  # type: ignore[no-untyped-def]
    out = np.empty_like(image)
    planes = [np.ascontiguousarray(pairs[..., axis]) for axis in (0, 1)]

    def run() -> None:
        for source, target in zip(image, out, strict=True):
            cv2.remap(
                source, *planes, cv2.INTER_LINEAR, dst=target, borderMode=cv2.BORDER_REPLICATE
            )

    return {"plane by plane": Work(run, lambda: out.transpose(1, 2, 0))}


def grid_sample(inputs: Inputs, threads: int) -> Mapping[str, Work]:
    """Takes planes of floats and a grid in -1..1; the grid is made beforehand."""
    image = inputs["image"]
    if image.dtype != np.float32 or "flow" not in inputs:
        return {}
    import torch

    torch.set_num_threads(threads)
    planes = image if _is_planar(inputs) else image.transpose(2, 0, 1)
    pairs = _positions(inputs["flow"])
    rows, columns = pairs.shape[:2]
    grid = torch.from_numpy(pairs * np.float32([2 / (columns - 1), 2 / (rows - 1)]) - 1)[None]
    latest = {}

    def work(tensor: torch.Tensor) -> Work:
        def run() -> None:
            with torch.inference_mode():
                latest["result"] = torch.nn.functional.grid_sample(
                    tensor, grid, padding_mode="border", align_corners=True
                )

        return Work(run, lambda: latest["result"][0].permute(1, 2, 0).numpy())

    tensor = torch.from_numpy(np.ascontiguousarray(planes))[None]
    return {
        "channels first": work(tensor),
        "channels last": work(tensor.contiguous(memory_format=torch.channels_last)),
    }


def numba_loop(inputs: Inputs, threads: int) -> Mapping[str, Work]:
    image = inputs["image"]
    if image.dtype.name not in ("uint8", "float32") or "flow" not in inputs or _is_planar(inputs):
        return {}
    import numba

    numba.set_num_threads(threads)
    flow, out = inputs["flow"], np.empty_like(image)
    half = np.float32(0.5 if image.dtype == np.uint8 else 0)

    if "loop" not in _compiled:

        @numba.njit(parallel=True, fastmath=True)
        def loop(out, image, flow, half):  # type: ignore[no-untyped-def]
            rows, columns, channels = out.shape
            for y in numba.prange(rows):
                for x in range(columns):
                    u = min(max(np.float32(x) + flow[y, x, 0], np.float32(0)), columns - 1)
                    v = min(max(np.float32(y) + flow[y, x, 1], np.float32(0)), rows - 1)
                    left, top = int(u), int(v)
                    fx, fy = np.float32(u - left), np.float32(v - top)
                    right, bottom = min(left + 1, columns - 1), min(top + 1, rows - 1)
                    for c in range(channels):
                        a, b = np.float32(image[top, left, c]), np.float32(image[top, right, c])
                        d, e = (
                            np.float32(image[bottom, left, c]),
                            np.float32(image[bottom, right, c]),
                        )
                        above, below = a + (b - a) * fx, d + (e - d) * fx
                        out[y, x, c] = above + (below - above) * fy + half

        _compiled["loop"] = loop
    return {"": Work(lambda: _compiled["loop"](out, image, flow, half), lambda: out)}


_compiled: dict[str, Callable[..., None]] = {}

BUILDS = {OURS: revisage, "cv2": opencv, "grid_sample": grid_sample, "numba": numba_loop}


# --- the suite -----------------------------------------------------------------------------------


def cases(options: Options) -> Iterator[tuple[Scenes, Kind, int]]:
    required = [kind for kind in REQUIRED if not (options.quick and kind.size == "2160p")]
    for size in SIZES:
        scenes: Scenes | None = None
        for kind in required + ([] if options.quick else FURTHER):
            if kind.size == size and options.wants(kind.name):
                scenes = scenes or Scenes(size)
                for threads in (1, 2) if kind in REQUIRED else (2,):
                    yield scenes, kind, threads


def run(report: Report, options: Options) -> None:
    with options.farm(BUILDS) as farm:
        for scenes, kind, threads in cases(options):
            inputs, expected = scenes.inputs(kind), scenes.expected(kind)

            def error(contender: str, result: np.ndarray) -> float:
                """Largest distance from the float result, in levels of 0..255."""
                distance = np.abs(result.astype(np.float32) - expected)  # noqa: B023
                # OpenCV rounds positions to 1/32 pixel: several levels on noise, a few on average.
                if distance.mean() > 3:
                    raise SystemExit(f"{contender} is wrong by {distance.mean():.1f} levels")
                return float(distance.max())

            case = farm.measure(
                kind.name, inputs, threads=threads, error=error, **counts(kind, inputs)
            )
            report.cases.append(case)
            print_case(case)
    report.requirements += [line for threads in (1, 2) for line in requirements(report, threads)]


def requirements(report: Report, threads: int) -> Iterator[Requirement]:

    def of(dtype: str, by: str) -> list[Case]:
        names = {kind.name for kind in REQUIRED if kind.by == by and kind.dtype == dtype}
        return [case for case in report.cases if case.name in names and case.threads == threads]

    for dtype, by, other, limit, what in (
        ("uint8", "flow", "cv2", 0.5, "cv2.remap, maps free"),
        ("float32", "flow", "cv2", 0.75, "cv2.remap, maps free"),
        ("float32", "flow", "grid_sample", 0.25, "grid_sample, grid free"),
        ("uint8", "low", "cv2", 0.4, "cv2 resize + remap"),
        ("float32", "low", "cv2", 0.4, "cv2 resize + remap"),
    ):
        if found := of(dtype, by):
            worst = max(found, key=lambda case: case.ratios[other].median)
            source = "flow at 1/8" if by == "low" else "flow"
            statement = f"flow_warp {dtype}, {source}: time over {what}, {on_threads(threads)}"
            yield require(statement, limit, worst.ratios[other], f"worst: {worst.name}")
    if found := of("uint8", "flow") + of("uint8", "low"):
        levels = [case.contenders[OURS].error or 0.0 for case in found]
        spread = Spread(max(levels), min(levels), max(levels))
        statement = f"flow_warp uint8: levels from the float result, {on_threads(threads)}"
        yield require(statement, 1.0, spread, f"{len(found)} cases")


if __name__ == "__main__":
    run_suite("flow_warp", run)
