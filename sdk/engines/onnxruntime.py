"""ONNX Runtime on the CPU, and what its sessions on every device have in common.

Note [Session options]
* Threads: a session gets its own pool of exactly `threads` threads, the caller's thread included.
  Left to itself ONNX Runtime counts the machine's cores, not those that a container may use, and
  pins its threads to them.
* The memory arena stays on, memory patterns are off. Measured with the wrinkle segmenter at 512 px
  on one thread: without the arena every call maps and faults its buffers anew (87 ms of CPU time
  instead of 59, and a peak of 182 MB instead of 139); patterns plan one block for a whole shape and
  hold 64 MB more for no gain in time.
* Spinning: a waiting worker burns its core. It stays on while a call runs, because layers follow
  each other within microseconds, and stops when the call is over
  (`session.force_spinning_stop`), so that decoding and other sessions get the core back.

Note [Operators of ours]
    A graph may hold nodes of the domain `revisage`, each with a function of standard operators that
    says what it computes. ONNX Runtime inlines the function, unless a kernel of that name is
    registered. On the CPU the library of `revisage.kernels.onnxruntime_library` is, where it was
    built: the same result up to rounding, sooner. The probe that follows every load checks what
    runs, whichever it is.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from revisage.bundle import Bundle
from revisage.engines.base import Array, Engine
from revisage.errors import DeviceError, EngineError
from revisage.kernels import onnxruntime_library
from revisage.onnx_guard import function_names

__all__ = [
    "OnnxRuntimeEngine",
    "first_line",
    "load_session",
    "operators_obstacle",
    "our_operators",
    "session_options",
    "usable_cores",
]

# See Note [Operators of ours]. The last has a name for everything that may be fused with it:
# kernels/onnxruntime/winograd_conv.cc.
OPERATORS = ("FeatureBlend", "FftConv", "FlowWarp", "WinogradConv")


def usable_cores() -> int:
    """How many cores this process may run on (a container may have fewer than the machine)."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


def operators_obstacle() -> str:
    """Why our kernels cannot run inside ONNX Runtime here, with the remedy; "" where they can."""
    if onnxruntime_library() is not None:
        return ""
    return (
        "this Revisage was built without ONNX Runtime's headers: install them (Debian 13: "
        "libonnxruntime-dev) and build it again with -Ccmake.define.REVISAGE_ONNXRUNTIME=ON"
    )


def our_operators(model: bytes) -> list[str]:
    """Names of the operators of ours in a graph."""
    names = function_names(model, "revisage")
    return [operator for operator in OPERATORS if any(operator in name for name in names)]


def session_options(threads: int | None) -> Any:
    """Options of a session; see Note [Session options]."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or usable_cores()
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.use_deterministic_compute = True
    options.log_severity_level = 3  # errors come back as exceptions, warnings are not for users
    options.enable_cpu_mem_arena = True
    options.enable_mem_pattern = False
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


def load_session(
    bundle: Bundle, model: bytes, options: Any, providers: list[tuple[str, dict[str, str]]]
) -> Any:
    """A session of one of a bundle's graphs, checked against its manifest.

    ONNX Runtime may have dropped a provider with no more than a log line: ask the session.

    Raises:
        EngineError: the graph does not load, or has other tensors.
    """
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(
            model,
            sess_options=options,
            providers=providers,
            enable_fallback=0,  # it would try again on the CPU by itself
        )
    except Exception as error:  # onnxruntime raises classes without a common base of its own
        raise EngineError(
            f"{bundle.name}: ONNX Runtime {onnxruntime.__version__} cannot load the graph on "
            f"{providers[0][0]}: {first_line(error)}"
        ) from error
    for kind, given, stated in (
        ("inputs", session.get_inputs(), bundle.manifest.inputs),
        ("outputs", session.get_outputs(), bundle.manifest.outputs),
    ):
        names = [tensor.name for tensor in given]
        if sorted(names) != sorted(tensor.name for tensor in stated):
            raise EngineError(
                f"{bundle.name}: the graph has the {kind} {', '.join(names)}, which are not those "
                "of its manifest; export it again"
            )
    return session


class OnnxRuntimeEngine(Engine):
    """A bundle's graph in an ONNX Runtime session on the CPU."""

    name = "onnxruntime-cpu"
    device = "cpu"

    def __init__(
        self,
        bundle: Bundle,
        *,
        precision: str = "fp32",
        threads: int | None = None,
        operators: str = "auto",
        reason: str = "",
    ) -> None:
        super().__init__(bundle, precision=precision, reason=reason)
        self._wanted_operators = operators
        self.threads = threads or usable_cores()
        self._session: Any = None

    def _activate_impl(self) -> None:
        model = self.bundle.read_graph(self.precision)
        options = session_options(self.threads)
        self.operators = self._register_operators(our_operators(model), options)
        self._session = load_session(self.bundle, model, options, [("CPUExecutionProvider", {})])

    def _register_operators(self, names: list[str], options: Any) -> dict[str, str]:
        """Let our kernels run the operators `names`, where wanted; see Note [Operators of ours]."""
        library = onnxruntime_library()
        if names and self._wanted_operators == "native" and library is None:
            raise DeviceError(
                f"operators='native' cannot run {', '.join(names)} here: {operators_obstacle()}"
            )
        if not names or library is None or self._wanted_operators == "portable":
            return dict.fromkeys(names, "portable")
        try:
            options.register_custom_ops_library(str(library))
        except Exception as error:
            raise EngineError(
                f"ONNX Runtime cannot load {library.name}: {first_line(error)}; build Revisage "
                "again, or set REVISAGE_OPERATORS=portable"
            ) from error
        return dict.fromkeys(names, "native")

    def _infer_impl(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        names = [tensor.name for tensor in self.manifest.outputs]
        try:
            found = self._session.run(names, dict(inputs))
        except Exception as error:
            raise EngineError(
                f"{self.bundle.name}: {self.name} failed: {first_line(error)}"
            ) from error
        return {name: np.asarray(array) for name, array in zip(names, found, strict=True)}

    def _deactivate_impl(self) -> None:
        self._session = None


def first_line(error: Exception) -> str:
    """The first line of an error's message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
