"""Probes: small inputs that everyone can build again, whose outputs the certificate states.

After every load the engine runs them, so that an engine that returns zeros, garbage, another
model's output, another sample's or another call's is caught before it touches a photo.

Note [The same probe everywhere]
A probe's input must be equal to the last bit on every machine. It is therefore made with numpy's
frozen legacy generator and with integers only: a coarse random grid is interpolated with weights of
whole eighths, and the sum is divided once by a power of two.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from revisage.errors import BundleError, EngineError
from revisage.manifest import Expected, Manifest, Probe, ProbeInput, TensorSpec, Tolerance

__all__ = ["check_probe", "check_probes", "contrast", "expect", "probe_array", "probe_inputs"]

CELL = 8  # pixels between two grid points
SAMPLES = 64  # values spread over an output that a certificate states
# The few values that a certificate states may be off by more on average than a whole output is.
MEAN_ROOM = 10.0
MASK_LEVEL = 170  # of 255: about a quarter of a mask is hole


def _smooth_field(random: np.random.RandomState, height: int, width: int) -> NDArray[Any]:
    """[height, width] integers in 0..255*64: a random grid, linearly interpolated."""
    rows, columns = height // CELL + 2, width // CELL + 2
    grid = random.randint(0, 256, size=(rows, columns)).astype(np.int64)
    y, x = np.arange(height), np.arange(width)
    top, left = y // CELL, x // CELL
    down, right = (y % CELL)[:, None], (x % CELL)[None, :]
    above = grid[top][:, left] * (CELL - right) + grid[top][:, left + 1] * right
    below = grid[top + 1][:, left] * (CELL - right) + grid[top + 1][:, left + 1] * right
    field: NDArray[Any] = above * (CELL - down) + below * down
    return field


def _lines(random: np.random.RandomState, height: int, width: int) -> NDArray[Any]:
    """[height, width] integers in 0..2**14: dark curves on a plain ground, as wrinkles are."""
    y, x = np.mgrid[:height, :width].astype(np.int64)
    across = x - width // 2
    ground = np.full((height, width), 150 * CELL * CELL)
    for _ in range(3):
        top, slope, bend = random.randint(0, height), random.randint(-4, 5), random.randint(-3, 4)
        away = np.abs(16 * (y - top) - 2 * slope * across - bend * across**2 // 32)
        ground -= 80 * np.maximum(0, 24 - away)  # a pixel and a half to each side
    clipped: NDArray[Any] = np.clip(ground, 0, (1 << 14) - 1)
    return clipped


def _face(random: np.random.RandomState, height: int, width: int) -> NDArray[Any]:
    """[height, width] integers in 0..2**14: a drawn face, upright, that fills most of the plane."""
    y, x = np.mgrid[:height, :width].astype(np.int64)
    across = (1024 * x + 512) // width - 512 - random.randint(-24, 25)
    down = (1024 * y + 512) // height - 512 - random.randint(-24, 25)
    plane = np.full((height, width), random.randint(3000, 9000))

    def lay(left: int, top: int, wide: int, high: int, level: int, steep: int = 2) -> None:
        """Blend an ellipse of half axes `wide` and `high` with soft edges over the plane."""
        away = ((across - left) * 256 // wide) ** 2 + ((down - top) * 256 // high) ** 2
        share = np.clip(steep * (65536 - away) // 256, 0, 256)
        plane[:] = (plane * (256 - share) + level * share) // 256

    skin = random.randint(9500, 13500)
    lay(0, 10, 360, 470, skin, 8)
    lay(0, 40, 28, 130, skin * 17 // 16)  # ridge of the nose
    for side in (-1, 1):
        lay(side * 160, -235, 100, 26, skin * 6 // 16)  # brow
        lay(side * 160, -130, 78, 40, skin * 11 // 16)  # lids
        lay(side * 160, -128, 60, 26, skin * 19 // 16)  # white of the eye
        lay(side * 160, -128, 30, 30, skin * 3 // 16)  # iris
        lay(side * 42, 120, 24, 16, skin * 7 // 16)  # nostril
    lay(0, 245, 120, 46, skin * 9 // 16)  # lips
    lay(0, 242, 104, 8, skin * 5 // 16)  # ... and what is between them
    grain = random.randint(-160, 161, size=(height, width))
    clipped: NDArray[Any] = np.clip(plane + grain, 0, (1 << 14) - 1)
    return clipped


_DRAWN = {"face": _face, "lines": _lines}


def _unit_plane(random: np.random.RandomState, kind: str, height: int, width: int) -> Any:
    """[height, width] float64 in [0, 1], exact multiples of 2**-14."""
    if kind == "uniform":
        return random.randint(0, 1 << 14, size=(height, width)) / float(1 << 14)
    if kind in _DRAWN:
        return _DRAWN[kind](random, height, width) / float(1 << 14)
    field = _smooth_field(random, height, width)
    if kind == "mask":
        return (field > MASK_LEVEL * CELL * CELL).astype(np.float64)
    grain = random.randint(-512, 513, size=(height, width))  # +-3 % of the range
    return np.clip(field + grain, 0, (1 << 14) - 1) / float(1 << 14)


def probe_array(made: ProbeInput, spec: TensorSpec) -> NDArray[Any]:
    """Build one probe tensor: the last two axes are a plane, the others count planes.

    The kind `picture` is smooth with grain, `lines` is dark curves and `face` a drawn face, the
    same in every channel of a sample, `mask` is blobs of 0 and 1, `uniform` is noise; values fill
    the range that the manifest states (0..1 where it states none).
    """
    random = np.random.RandomState(made.seed)  # frozen by numpy for ever
    nhwc = spec.layout == "NHWC" and len(made.shape) == 4
    shape = tuple(made.shape[i] for i in (0, 3, 1, 2)) if nhwc else made.shape
    height, width = (1, 1, *shape)[-2:]
    count = int(np.prod(shape[:-2], dtype=np.int64))
    alike = shape[1] if made.kind in _DRAWN and len(shape) == 4 else 1  # channels of one sample
    planes = [_unit_plane(random, made.kind, height, width) for _ in range(count // alike)]
    unit = np.repeat(np.stack(planes), alike, axis=0).reshape(shape)
    if nhwc:
        unit = unit.transpose(0, 2, 3, 1)
    low, high = spec.range or (0.0, 1.0)
    return np.ascontiguousarray((low + (high - low) * unit).astype(spec.dtype))


def probe_inputs(probe: Probe, manifest: Manifest) -> dict[str, NDArray[Any]]:
    """All inputs of a probe, by name."""
    return {spec.name: probe_array(probe.inputs[spec.name], spec) for spec in manifest.inputs}


def expect(output: NDArray[Any]) -> Expected:
    """What a certificate keeps of a true output: statistics, values spread over it, extremes."""
    flat = output.reshape(-1).astype(np.float64)
    spread = np.linspace(0, flat.size - 1, min(SAMPLES, flat.size)).astype(np.int64)
    positions = np.unique([*spread, flat.argmin(), flat.argmax()])
    return Expected(
        shape=tuple(int(size) for size in output.shape),
        mean=float(flat.mean()),
        std=float(flat.std()),
        positions=tuple(int(p) for p in positions),
        values=tuple(float(f"{flat[p]:.9g}") for p in positions),
    )


def contrast(expected: Expected, tolerance: Tolerance) -> float:
    """How far a certified output is from a constant, in what `check_probe` tolerates.

    An engine that gives a constant is found where this is more than 2. What has one value for each
    sample, such as a score, is alike for like samples and is compared with 0.
    """
    values = np.array(expected.values if len(expected.shape) > 1 else [0, *expected.values])
    spread = float(np.mean(np.abs(values - np.median(values))))
    return max(float(np.ptp(values)) / tolerance.max_abs, spread / (MEAN_ROOM * tolerance.mean_abs))


def check_probes(
    infer: Callable[[dict[str, NDArray[Any]]], Mapping[str, NDArray[Any]]],
    probes: Sequence[Probe],
    manifest: Manifest,
    tolerance: Tolerance,
    where: str,
) -> None:
    """Run every probe, and the first one again: what a call gives must not depend on another call.

    Raises:
        EngineError, BundleError: as `check_probe`.
    """
    for probe in (*probes, probes[0]):
        check_probe(probe, infer(probe_inputs(probe, manifest)), tolerance, where)


def check_probe(
    probe: Probe, found: Mapping[str, NDArray[Any]], tolerance: Tolerance, where: str
) -> None:
    """Compare an engine's output for a probe with the certificate.

    Raises:
        EngineError: an output is missing, has another shape, or is further away than `tolerance`.
        BundleError: the probe does not know an output.
    """
    for name, expected in probe.outputs.items():
        if name not in found:
            raise EngineError(f"{where}: the engine gives no output {name!r}")
        output = np.asarray(found[name])
        if tuple(output.shape) != expected.shape:
            raise EngineError(
                f"{where}: output {name!r} of the probe has shape {list(output.shape)}, "
                f"certified is {list(expected.shape)}"
            )
        flat = output.reshape(-1).astype(np.float64)
        with np.errstate(invalid="ignore"):  # infinities; what they make of it fails below
            gap = flat[list(expected.positions)] - np.array(expected.values)
            error, mean = float(np.max(np.abs(gap))), float(np.mean(np.abs(gap)))
            drift = max(abs(float(flat.mean()) - expected.mean), abs(flat.std() - expected.std))
        # Written so that a NaN fails: every comparison with NaN is false.
        most = MEAN_ROOM * tolerance.mean_abs
        if not (error <= tolerance.max_abs and drift <= tolerance.max_abs and mean <= most):
            raise EngineError(
                f"{where}: the probe's output {name!r} is off by {error:.3g} (statistics by "
                f"{drift:.3g}), certified are {tolerance.max_abs:.3g}; on average by {mean:.3g}, "
                f"certified are {most:.3g}: this engine computes "
                "something else here; use another device and report it"
            )
    extra = set(found) - set(probe.outputs)
    if extra:
        raise BundleError(f"{where}: the certificate knows no output {', '.join(sorted(extra))}")
