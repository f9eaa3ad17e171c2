"""Which engine runs a bundle: a device that was asked for, or the best that really works.

Nothing falls back silently. A device that was named and cannot run is a `DeviceError` with the
reason and the remedy; `auto` says in `Engine.reason` why it took what it took.
"""

from __future__ import annotations

import dataclasses
import os

from revisage import env
from revisage.bundle import Bundle
from revisage.engines.base import Engine
from revisage.engines.onnxruntime import OnnxRuntimeEngine, cuda_obstacle
from revisage.errors import DeviceError, EngineError, OptionError
from revisage.manifest import PRECISIONS

__all__ = ["DEVICES", "DeviceStatus", "device_status", "open_engine"]

DEVICES = ("auto", "cpu", "cuda")
MAX_THREADS = 1024


@dataclasses.dataclass(frozen=True)
class DeviceStatus:
    """What one device can do here."""

    device: str
    usable: bool
    reason: str  # why not, with the remedy; what it is where it is usable


def device_status() -> tuple[DeviceStatus, ...]:
    """Every device that this version knows, best first, and whether it can run here."""
    obstacle = cuda_obstacle()
    return (
        DeviceStatus("cuda", not obstacle, obstacle or "ONNX Runtime, CUDA provider"),
        DeviceStatus("cpu", True, "ONNX Runtime, CPU provider"),
    )


def open_engine(
    bundle: Bundle | str | os.PathLike[str],
    device: str = "auto",
    *,
    precision: str = "fp32",
    threads: int | None = None,
    operators: str | None = None,
) -> Engine:
    """Load a bundle on a device and check it against its certificate.

    Args:
        bundle: an open bundle, or the path of one.
        device: "cpu", "cuda", or "auto" for the best that works here.
        precision: "fp32", "fp16", "bf16" or "int8": one whose graph the bundle has.
        threads: CPU threads of one call; None takes `REVISAGE_NUM_THREADS`, else all cores that
            this process may use. The output does not depend on it.
        operators: who runs the graph's operators of ours on the CPU: "native" (our kernels; an
            error where they were not built), "portable" (their standard bodies), or "auto" for
            native where it was built; None takes `REVISAGE_OPERATORS`, else "auto". The two agree
            within the certified tolerance; `Engine.operators` says which runs.

    Returns:
        An active engine; use it as a context manager, or `deactivate` it when done.

    Raises:
        OptionError: an unknown device, precision, thread count or choice of operators.
        DeviceError: the named device cannot run here, or native operators were not built.
        BundleError: the bundle is damaged, or not made for the device or precision.
        EngineError: the graph does not load, or does not give the certified output.
    """
    if device not in DEVICES:
        raise OptionError(f"device {device!r} is not one of {', '.join(DEVICES)}")
    if precision not in PRECISIONS:
        raise OptionError(f"precision {precision!r} is not one of {', '.join(PRECISIONS)}")
    if threads is not None and not 1 <= threads <= MAX_THREADS:
        raise OptionError(f"threads={threads} is not within 1..{MAX_THREADS}; None means all cores")
    threads = env.number_of_threads() if threads is None else threads
    operators = env.operators() if operators is None else operators
    if operators not in env.OPERATORS:
        raise OptionError(f"operators {operators!r} is not one of {', '.join(env.OPERATORS)}")
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)

    def start(name: str, reason: str) -> Engine:
        engine = OnnxRuntimeEngine(
            opened,
            name,
            precision=precision,
            threads=threads,
            operators=operators,
            reason=reason,
        )
        engine.activate()
        return engine

    if device != "auto":
        return start(device, f"device {device!r} was asked for")
    obstacle = cuda_obstacle()
    if not obstacle:
        try:
            return start("cuda", "the fastest device that works here")
        except (DeviceError, EngineError) as error:
            obstacle = str(error)
    return start("cpu", f"no CUDA: {obstacle}")
