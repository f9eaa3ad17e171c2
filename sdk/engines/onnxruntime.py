"""ONNX Runtime, on the CPU and on CUDA.

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

__all__ = ["OnnxRuntimeEngine", "operators_obstacle", "provider_obstacle", "usable_cores"]

OPERATORS = {"FeatureBlend", "FftConv", "FlowWarp"}  # see Note [Operators of ours]
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def usable_cores() -> int:
    """How many cores this process may run on (a container may have fewer than the machine)."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


def provider_obstacle(provider: str) -> str:
    """Why ONNX Runtime lacks a provider ("cpu", "cuda"), with the remedy; "" where it has it."""
    import onnxruntime

    if _PROVIDERS[provider] in onnxruntime.get_available_providers():
        return ""
    return (
        f"the installed ONNX Runtime {onnxruntime.__version__} has no {provider.upper()} provider: "
        "pip uninstall onnxruntime, then pip install 'revisage[gpu]'"
    )


def operators_obstacle() -> str:
    """Why our kernels cannot run inside ONNX Runtime here, with the remedy; "" where they can."""
    if onnxruntime_library() is not None:
        return ""
    return (
        "this Revisage was built without ONNX Runtime's headers: install them (Debian 13: "
        "libonnxruntime-dev) and build it again with -Ccmake.define.REVISAGE_ONNXRUNTIME=ON"
    )


class OnnxRuntimeEngine(Engine):
    """A bundle's graph in an ONNX Runtime session."""

    def __init__(
        self,
        bundle: Bundle,
        device: str,
        *,
        precision: str = "fp32",
        threads: int | None = None,
        operators: str = "auto",
        reason: str = "",
    ) -> None:
        super().__init__(bundle, precision=precision, reason=reason)
        self.device = device
        self._wanted_operators = operators
        self.name = f"onnxruntime-{device}"
        self.threads = threads or usable_cores()
        self._session: Any = None

    def _activate_impl(self) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.use_deterministic_compute = True
        options.log_severity_level = 3  # errors come back as exceptions, warnings are not for users
        options.enable_cpu_mem_arena = True
        options.enable_mem_pattern = False
        options.add_session_config_entry("session.force_spinning_stop", "1")
        model = self.bundle.read_graph(self.precision)
        ours = sorted(OPERATORS & function_names(model, "revisage"))
        self.operators = self._register_operators(ours, options)
        providers: list[Any] = [_PROVIDERS["cpu"]]
        if self.device == "cuda":
            # TF32 keeps 10 bits of mantissa: precision "fp32" has to mean what it says.
            settings = {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}
            providers.insert(0, (_PROVIDERS["cuda"], settings))
        try:
            session = onnxruntime.InferenceSession(
                model, sess_options=options, providers=providers, enable_fallback=0
            )
        except Exception as error:  # onnxruntime raises classes without a common base of its own
            raise EngineError(
                f"{self.bundle.name}: ONNX Runtime {onnxruntime.__version__} cannot load the graph "
                f"on {self.device}: {_first_line(error)}"
            ) from error
        # ONNX Runtime falls back to the CPU with no more than a log line.
        if _PROVIDERS[self.device] not in session.get_providers():
            raise DeviceError(
                f"ONNX Runtime could not load its provider for {self.device!r} "
                "(CUDA 13 runtime, cuBLAS or cuDNN 9 missing?): pip install 'revisage[gpu]'"
            )
        for kind, given, stated in (
            ("inputs", session.get_inputs(), self.manifest.inputs),
            ("outputs", session.get_outputs(), self.manifest.outputs),
        ):
            names = [tensor.name for tensor in given]
            if sorted(names) != sorted(tensor.name for tensor in stated):
                raise EngineError(
                    f"{self.bundle.name}: the graph has the {kind} {', '.join(names)}, which are "
                    "not those of its manifest; export it again"
                )
        self._session = session

    def _register_operators(self, names: list[str], options: Any) -> dict[str, str]:
        """Let our kernels run the operators `names`, where wanted; see Note [Operators of ours]."""
        library = onnxruntime_library() if self.device == "cpu" else None
        if names and self._wanted_operators == "native" and library is None:
            obstacle = operators_obstacle() if self.device == "cpu" else "they run on the CPU only"
            raise DeviceError(f"operators='native' cannot run {', '.join(names)} here: {obstacle}")
        if not names or library is None or self._wanted_operators == "portable":
            return dict.fromkeys(names, "portable")
        try:
            options.register_custom_ops_library(str(library))
        except Exception as error:
            raise EngineError(
                f"ONNX Runtime cannot load {library.name}: {_first_line(error)}; build Revisage "
                "again, or set REVISAGE_OPERATORS=portable"
            ) from error
        return dict.fromkeys(names, "native")

    def _infer_impl(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        names = [tensor.name for tensor in self.manifest.outputs]
        try:
            found = self._session.run(names, dict(inputs))
        except Exception as error:
            raise EngineError(
                f"{self.bundle.name}: {self.name} failed: {_first_line(error)}"
            ) from error
        return {name: np.asarray(array) for name, array in zip(names, found, strict=True)}

    def _deactivate_impl(self) -> None:
        self._session = None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
