"""TensorRT and TensorRT for RTX: the libraries, and engines that they build from a portable graph.

The Python modules `tensorrt` and `tensorrt_rtx` have nearly one API; everything here serves both.
`tensorrt_engine.py` runs what was built.

Note [Two builders]
* TensorRT for RTX builds on any machine, with no GPU and no driver, for the compute capabilities
  that are named: one engine serves all of them, because kernels are compiled for the card when it
  is loaded.
* TensorRT times kernels on the GPU at hand, and builds for that one only.
* Networks are strongly typed for both: precisions are those written in the graph. TF32 is switched
  off, which keeps 10 bits of a float32's mantissa: "fp32" has to mean what it says.

Note [Functions]
The nodes of the domain `revisage` reach the parser as model-local functions, which it inlines. The
many nodes of one name that this makes are reported by it, and mean nothing.
"""

from __future__ import annotations

import dataclasses
import importlib
import re
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

from revisage.engines.cache import Cancel, Progress
from revisage.engines.driver import find_gpu, gpu_obstacle
from revisage.engines.gpu import cupy_obstacle
from revisage.engines.profile import Profile
from revisage.errors import (
    BuildCancelledError,
    EngineError,
    MissingExtraError,
    OptionError,
    RevisageError,
)

__all__ = [
    "ENGINES",
    "TITLES",
    "BuildReport",
    "BuiltEngine",
    "build_engine",
    "library_version",
    "load_library",
    "new_journal",
    "supported_capabilities",
    "tensorrt_obstacle",
]

_MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
TITLES = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT for RTX"}
ENGINES = tuple(_MODULES)

_MEMORY = re.compile(r"Total (Activation|Weights) Memory: ([0-9]+) bytes")
_MEANINGLESS = "will not be queryable"  # see Note [Functions]
_MOST_PROBLEMS = 8  # that an error message tells
_MOST_MESSAGES = 4096  # that are remembered


@dataclasses.dataclass(frozen=True)
class BuildReport:
    """What a build made, and from what."""

    engine: str  # "tensorrt", "tensorrt-rtx"
    library_version: str
    compute_capabilities: tuple[str, ...]
    profile: str  # Profile.text
    layers: int  # of the network, functions inlined
    weights_bytes: int  # of the network, in GPU memory
    activation_bytes: int  # GPU memory of one execution context at the largest shapes
    engine_bytes: int
    seconds: float  # parsing and building
    warnings: tuple[str, ...]  # of the library, each once


@dataclasses.dataclass(frozen=True)
class BuiltEngine:
    """A serialized engine and how it was built."""

    content: bytes
    report: BuildReport


def load_library(engine: str) -> Any:
    """The module `tensorrt` or `tensorrt_rtx`.

    Raises:
        OptionError: no such engine.
        MissingExtraError: the module is not installed.
        EngineError: it is installed and cannot be imported.
    """
    if engine not in _MODULES:
        raise OptionError(f"engine {engine!r} is not one of {', '.join(ENGINES)}")
    name = _MODULES[engine]
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise EngineError(f"{TITLES[engine]} is installed in part: {error}") from error
        raise MissingExtraError(engine, TITLES[engine]) from None
    except (ImportError, OSError, RuntimeError) as error:  # a shared library that is missing
        raise EngineError(
            f"{TITLES[engine]} is installed and does not load: {error}; install it again with "
            f"pip install 'revisage[{engine}]'"
        ) from error


def library_version(engine: str) -> str:
    """Version of the installed library, such as "1.7.1.116"; raises as `build_engine` does."""
    return str(load_library(engine).__version__)


def supported_capabilities(engine: str) -> tuple[str, ...]:
    """Compute capabilities that the engine can be built for here, smallest first.

    Raises:
        MissingExtraError, EngineError: the library is not there.
        DeviceError: TensorRT builds for the GPU at hand, and there is none.
    """
    library = load_library(engine)
    if engine == "tensorrt":
        return (find_gpu().compute_capability,)
    numbers = sorted(
        int(name[2:])
        for name in library.ComputeCapability.__members__
        if re.fullmatch(r"SM[0-9]+", name)
    )
    return tuple(f"{number // 10}.{number % 10}" for number in numbers)


def tensorrt_obstacle(engine: str) -> str:
    """Why "tensorrt" or "tensorrt-rtx" cannot run here, with the remedy; "" where it can."""
    title = TITLES[engine]
    try:
        supported = supported_capabilities(engine) if engine == "tensorrt-rtx" else ()
        load_library(engine)
    except RevisageError as error:
        return str(error)
    obstacle = gpu_obstacle() or cupy_obstacle()
    if obstacle:
        return obstacle
    gpu = find_gpu()
    if supported and gpu.compute_capability not in supported:
        return (
            f"{title} runs on GPUs of compute capability {', '.join(supported)}, and the "
            f"{gpu.name} has {gpu.compute_capability}: take the engine 'tensorrt' or "
            "'onnxruntime-cuda'"
        )
    return ""


def build_engine(
    model: bytes,
    *,
    engine: str,
    profile: Profile,
    compute_capabilities: Sequence[str],
    progress: Progress | None = None,
    cancel: Cancel | None = None,
) -> BuiltEngine:
    """Build an engine from a portable graph; see Note [Two builders].

    Args:
        model: bytes of the ONNX file; precisions are those written in it.
        engine: "tensorrt" or "tensorrt-rtx".
        profile: the shapes to build for.
        compute_capabilities: of the GPUs to build for, such as ("8.6", "8.9", "12.0").
        progress: is told the phase, the steps done and the steps in all; may be called from
            another thread.
        cancel: when set, the build stops at its next step. One step, the compilation of the whole
            graph, may take seconds; `builder_process.build_in_child` does not wait for its end.

    Raises:
        OptionError: an unknown engine or capability.
        MissingExtraError, EngineError: the library is not there; the graph cannot be built, with
            the nodes that are to blame.
        DeviceError: TensorRT builds for the GPU at hand, and there is none.
        BuildCancelledError: `cancel` was set.
    """
    library = load_library(engine)
    title = f"{TITLES[engine]} {library.__version__}"
    _check_capabilities(engine, compute_capabilities)
    started = time.perf_counter()
    journal = new_journal(library)
    try:
        builder = library.Builder(journal)
        if builder is None:
            raise EngineError(f"{title} cannot make a builder: {journal.errors()}")
        network = builder.create_network(
            1 << int(library.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        )
        parser = library.OnnxParser(network, journal)
        if not parser.parse(model):
            raise EngineError(f"{title} cannot take the graph: {_parser_errors(parser)}")
        config = builder.create_builder_config()
        config.clear_flag(library.BuilderFlag.TF32)
        if engine == "tensorrt-rtx":
            # Memory that an engine allocates as it runs cannot be recorded, nor shared.
            config.set_flag(library.BuilderFlag.REQUIRE_USER_ALLOCATION)
            config.num_compute_capabilities = len(compute_capabilities)
            for index, capability in enumerate(compute_capabilities):
                value = library.ComputeCapability.__members__[f"SM{capability.replace('.', '')}"]
                config.set_compute_capability(value, index)
        _add_profile(builder, network, config, profile)
        monitor = _new_monitor(library, progress, cancel)
        config.progress_monitor = monitor
        plan = builder.build_serialized_network(network, config)
        if cancel is not None and cancel.is_set():
            raise BuildCancelledError(f"the build with {title} was cancelled")
        if plan is None:
            raise EngineError(f"{title} cannot build the graph: {journal.errors()}")
        content = bytes(plan)
        memory = journal.memory()
        report = BuildReport(
            engine=engine,
            library_version=str(library.__version__),
            compute_capabilities=tuple(compute_capabilities),
            profile=profile.text,
            layers=network.num_layers,
            weights_bytes=memory["Weights"],
            activation_bytes=memory["Activation"],
            engine_bytes=len(content),
            seconds=time.perf_counter() - started,
            warnings=journal.warnings(),
        )
    finally:
        journal.messages.clear()
    return BuiltEngine(content, report)


def _check_capabilities(engine: str, wanted: Sequence[str]) -> None:
    supported = supported_capabilities(engine)
    if not wanted or not set(wanted) <= set(supported):
        raise OptionError(
            f"compute capabilities {', '.join(wanted) or 'none'}: {TITLES[engine]} builds here "
            f"for {', '.join(supported)}"
        )


def _add_profile(builder: Any, network: Any, config: Any, profile: Profile) -> None:
    inputs = {network.get_input(i).name: network.get_input(i) for i in range(network.num_inputs)}
    if set(inputs) != set(profile.shapes):
        raise EngineError(
            f"the graph has the inputs {', '.join(sorted(inputs)) or 'none'}, the profile is of "
            f"{', '.join(sorted(profile.shapes))}"
        )
    ranges = builder.create_optimization_profile()
    for name, tensor in inputs.items():
        if -1 in tuple(tensor.shape):
            ranges.set_shape(name, *profile.shapes[name])
    config.add_optimization_profile(ranges)  # the builder compares it with the graph


def _parser_errors(parser: Any) -> str:
    """Every problem in one text: the node, its operator, the function that it stands in."""
    found: dict[str, list[str]] = {}  # one problem may stand in many nodes
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        where = f"node {error.node_name() or error.node()!r} ({error.node_operator()})"
        if error.node() < 0:
            where = "the file"
        for function in error.local_function_stack():
            where += f" in {function}"
        found.setdefault(error.desc(), []).append(where)
    told = [
        f"{', '.join(places[:3])}{' ...' * (len(places) > 3)}: {text}"
        for text, places in found.items()
    ]
    return f"{parser.num_errors} problems: " + "; ".join(told[:_MOST_PROBLEMS])


# The library keeps a bare pointer to every logger it was ever given.
_JOURNALS: list[Any] = []


def new_journal(library: Any) -> Any:
    """A logger that remembers what the library says."""

    class Journal(library.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            library.ILogger.__init__(self)
            self.messages: deque[tuple[Any, str]] = deque(maxlen=_MOST_MESSAGES)

        def log(self, severity: Any, message: str) -> None:
            if severity != library.ILogger.Severity.VERBOSE and _MEANINGLESS not in message:
                self.messages.append((severity, message))

        def of(self, *severities: str) -> list[str]:
            return [text for severity, text in self.messages if severity.name in severities]

        def errors(self) -> str:
            told = self.of("ERROR", "INTERNAL_ERROR")[:_MOST_PROBLEMS]
            return "; ".join(" ".join(text.split()) for text in told) or "it does not say why"

        def warnings(self) -> tuple[str, ...]:
            return tuple(dict.fromkeys(self.of("WARNING")))

        def memory(self) -> dict[str, int]:
            """Bytes by kind. The library states them nowhere else before an engine is loaded."""
            found = (_MEMORY.search(text) for text in self.of("INFO"))
            return {"Weights": 0, "Activation": 0} | {m[1]: int(m[2]) for m in found if m}

    _JOURNALS.append(Journal())
    return _JOURNALS[-1]


def _new_monitor(library: Any, progress: Progress | None, cancel: Cancel | None) -> Any:
    """What the builder reports its steps to; the innermost phase is the one that is told."""

    class Monitor(library.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            library.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            self.steps[phase] = steps
            self.tell(phase, 0)

        def step_complete(self, phase: str, step: int) -> bool:
            self.tell(phase, step + 1)
            return cancel is None or not cancel.is_set()

        def phase_finish(self, phase: str) -> None:
            self.tell(phase, self.steps[phase])

        def tell(self, phase: str, done: int) -> None:
            if progress is not None:
                progress(phase, done, self.steps[phase])

    return Monitor()
