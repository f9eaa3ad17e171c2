"""Which engine runs a bundle: one that was asked for, or the best that really works.

Nothing falls back silently. A device or an engine that was named and cannot run is a `DeviceError`
with the reason and the remedy; where there was a choice, `Engine.reason` says why it fell so.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from typing import Any

from revisage import env
from revisage.bundle import Bundle
from revisage.engines.base import Engine
from revisage.engines.driver import find_gpu, gpu_obstacle
from revisage.engines.gpu import cupy_obstacle
from revisage.engines.onnxruntime import OnnxRuntimeEngine
from revisage.engines.onnxruntime_gpu import OnnxRuntimeGpuEngine, provider_obstacle
from revisage.engines.tensorrt import tensorrt_obstacle
from revisage.engines.tensorrt_engine import TensorRTEngine
from revisage.errors import BuildCancelledError, DeviceError, EngineError, OptionError
from revisage.manifest import PRECISIONS

__all__ = ["DEVICES", "DeviceStatus", "device_status", "open_engine", "takes_any_size"]

DEVICES = ("auto", "cpu", "cuda")
MAX_THREADS = 1024


@dataclasses.dataclass(frozen=True)
class _Kind:
    """One of `revisage.manifest.ENGINES`: where it runs and how it is made."""

    device: str
    library: str
    obstacle: Callable[[], str]  # why it cannot run here, with the remedy; "" where it can
    make: Callable[..., Engine]  # (bundle, *, precision, threads, operators, reason)
    any_size: bool = False  # whether it takes inputs of every size, or those it was built for


def _onnxruntime_gpu(provider: str, title: str) -> _Kind:
    return _Kind(
        "cuda",
        f"ONNX Runtime, {title} provider",
        lambda: gpu_obstacle() or provider_obstacle(provider) or cupy_obstacle(),
        lambda bundle, **options: OnnxRuntimeGpuEngine(bundle, provider, **options),
        any_size=provider == "cuda",
    )


def _tensorrt(engine: str, title: str) -> _Kind:
    def make(bundle: Bundle, *, threads: int | None, **options: Any) -> Engine:
        return TensorRTEngine(bundle, engine=engine, **options)

    return _Kind("cuda", title, lambda: tensorrt_obstacle(engine), make)


# Best first: what compiles a whole network comes before what runs it node by node.
_KINDS: dict[str, _Kind] = {
    "tensorrt": _tensorrt("tensorrt", "TensorRT"),
    "tensorrt-rtx": _tensorrt("tensorrt-rtx", "TensorRT for RTX"),
    "onnxruntime-tensorrt": _onnxruntime_gpu("tensorrt", "TensorRT"),
    "onnxruntime-cuda": _onnxruntime_gpu("cuda", "CUDA"),
    "onnxruntime-cpu": _Kind(
        "cpu", "ONNX Runtime, CPU provider", lambda: "", OnnxRuntimeEngine, any_size=True
    ),
}


@dataclasses.dataclass(frozen=True)
class DeviceStatus:
    """What one engine can do here."""

    device: str  # that it runs on: "cpu", "cuda"
    engine: str  # one of `revisage.manifest.ENGINES`
    usable: bool
    reason: str  # why not, with the remedy; what it is where it is usable


def device_status() -> tuple[DeviceStatus, ...]:
    """Every engine that this version knows, best first, and whether it can run here."""
    found = []
    for name, kind in _KINDS.items():
        obstacle = kind.obstacle()
        what = kind.library
        if kind.device == "cuda" and not obstacle:
            gpu = find_gpu()
            what += f" on {gpu.name} ({gpu.compute_capability}), driver for CUDA {gpu.cuda}"
        found.append(DeviceStatus(kind.device, name, not obstacle, obstacle or what))
    return tuple(found)


def open_engine(
    bundle: Bundle | str | os.PathLike[str],
    device: str = "auto",
    *,
    engine: str | None = None,
    precision: str = "fp32",
    threads: int | None = None,
    operators: str | None = None,
    any_size: bool = False,
) -> Engine:
    """Load a bundle on an engine and check it against its certificate.

    Args:
        bundle: an open bundle, or the path of one.
        device: "cpu", "cuda", or "auto" for the best that works here. Engines for which the bundle
            states no tolerance are left out.
        engine: one of `revisage.manifest.ENGINES`, and no other; None: the best on the device.
        precision: "fp32", "fp16", "bf16" or "int8": one whose graph the bundle has.
        threads: CPU threads of one call; None takes `REVISAGE_NUM_THREADS`, else all cores that
            this process may use. The output does not depend on it.
        operators: who runs the graph's operators of ours on the CPU: "native" (our kernels; an
            error where they were not built), "portable" (their standard bodies), or "auto" for
            native where it was built; None takes `REVISAGE_OPERATORS`, else "auto". The two agree
            within the certified tolerance; `Engine.operators` says which runs.
        any_size: choose among engines that take inputs of every size only. Those that compile a
            network are built up to its working size; a named engine is taken whatever it is.

    Returns:
        An active engine; use it as a context manager, or `deactivate` it when done. Its `reason`
        says why it was taken, and of every better one why not.

    Raises:
        OptionError: an unknown device, engine, precision, thread count or choice of operators, or
            an engine that does not run on the device.
        DeviceError: the named device or engine cannot run here, or native operators were not built.
        BundleError: the bundle is damaged, or not made for the engine or precision.
        EngineError: the graph does not load, or does not give the certified output.
    """
    _check_choice(device, engine, precision, threads)
    threads = env.number_of_threads() if threads is None else threads
    operators = env.operators() if operators is None else operators
    if operators not in env.OPERATORS:
        raise OptionError(f"operators {operators!r} is not one of {', '.join(env.OPERATORS)}")
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)

    def start(name: str, reason: str) -> Engine:
        obstacle = _KINDS[name].obstacle()
        if obstacle:
            raise DeviceError(obstacle)
        made = _KINDS[name].make(
            opened, precision=precision, threads=threads, operators=operators, reason=reason
        )
        made.activate()
        return made

    names = [engine] if engine else _candidates(device, any_size)
    opened.manifest.graph(precision)  # a missing graph is a clearer error than a missing tolerance
    made_for = [n for n in names if precision in opened.manifest.tolerances.get(n, {})]
    if not made_for:
        opened.manifest.tolerance(names[-1], precision)  # raises: it names what there is
    asked = f"engine {engine!r}" if engine else f"device {device!r}"
    refusals: dict[str, Exception] = {}
    for name in made_for:
        try:
            return start(name, _why(asked, refusals))
        except BuildCancelledError:  # whoever stops a build does not want the next best engine
            raise
        except (DeviceError, EngineError) as error:
            refusals[name] = error
    loaded = [error for error in refusals.values() if isinstance(error, EngineError)]
    if len(refusals) == len(loaded) == 1:
        raise loaded[0]
    kind = EngineError if loaded else DeviceError
    reason = str(refusals[engine]) if engine else _listed(refusals)
    others = [
        f"; {opened.name} is made for {name} at {', '.join(tolerances)}, not at {precision}"
        for name, tolerances in opened.manifest.tolerances.items()
        if name in names and name not in made_for
    ]
    raise kind(f"{asked} cannot run here: {reason}{''.join(others)}")


def takes_any_size(engine: str) -> bool:
    """Whether an engine takes inputs of every size that the network allows."""
    return _KINDS[engine].any_size


def _candidates(device: str, any_size: bool) -> list[str]:
    return [
        name
        for name, kind in _KINDS.items()
        if device in ("auto", kind.device) and (kind.any_size or not any_size)
    ]


def _check_choice(device: str, engine: str | None, precision: str, threads: int | None) -> None:
    if device not in DEVICES:
        raise OptionError(f"device {device!r} is not one of {', '.join(DEVICES)}")
    if engine is not None and engine not in _KINDS:
        raise OptionError(f"engine {engine!r} is not one of {', '.join(_KINDS)}")
    if engine is not None and device not in ("auto", _KINDS[engine].device):
        raise OptionError(
            f"engine {engine!r} runs on {_KINDS[engine].device!r}, not on {device!r}; "
            'leave the device at "auto"'
        )
    if precision not in PRECISIONS:
        raise OptionError(f"precision {precision!r} is not one of {', '.join(PRECISIONS)}")
    if threads is not None and not 1 <= threads <= MAX_THREADS:
        raise OptionError(f"threads={threads} is not within 1..{MAX_THREADS}; None means all cores")


def _why(asked: str, refusals: dict[str, Exception]) -> str:
    taken = "the best that works here" if asked == "device 'auto'" else f"{asked} was asked for"
    return f"{taken}; not {_listed(refusals)}" if refusals else taken


def _listed(refusals: dict[str, Exception]) -> str:
    """Reasons, each once, behind the engines that it stopped."""
    by_reason: dict[str, list[str]] = {}
    for name, error in refusals.items():
        by_reason.setdefault(str(error), []).append(name)
    return "; ".join(f"{', '.join(names)}: {reason}" for reason, names in by_reason.items())
