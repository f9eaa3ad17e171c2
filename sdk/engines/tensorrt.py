"""TensorRT and TensorRT for RTX: engines built ahead from a portable graph, run on CuPy arrays.

The Python modules `tensorrt` and `tensorrt_rtx` have nearly one API; everything here serves both.

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

Note [Execution contexts]
* One context runs any shape of the profile, and one more each batch of `profile.BUCKETS` at the
  usual sides: a smaller batch is filled up, with rows that nobody reads. All launches of a bucket
  are recorded once as a CUDA graph, between fixed addresses, and replayed from then on. It enters
  service when it gives what the other context gives.
* All contexts of an engine work on its stream, one after another, so they share one scratch memory,
  and their one engine holds the weights once.
* TensorRT for RTX compiles kernels for a shape when it meets it. That is worth while for a bucket,
  and done before it is recorded; other shapes run kernels that take any.

Note [Compiled kernels]
What TensorRT for RTX compiled is kept beside the engine, for the driver that it was compiled under,
and given back to the library at the next load, which refuses what was made elsewhere and compiles
again. It is kept when a bucket was recorded and when the engine is let go of, in both cases after
its probes. Kernels that were kept and fail a probe are thrown away: the next load is without.
"""

from __future__ import annotations

import dataclasses
import importlib
import re
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from revisage.bundle import Bundle
from revisage.engines.base import output_shapes
from revisage.engines.cache import Cancel, EngineCache, EngineKey, Progress
from revisage.engines.driver import find_gpu, gpu_obstacle
from revisage.engines.gpu import GpuEngine, cupy_obstacle, turns
from revisage.engines.onnxruntime import our_operators
from revisage.engines.probe import probe_array
from revisage.engines.profile import Profile
from revisage.errors import (
    BuildCancelledError,
    DeviceError,
    EngineError,
    MissingExtraError,
    OptionError,
    RevisageError,
    ShapeError,
)

__all__ = [
    "ENGINES",
    "BuildReport",
    "BuiltEngine",
    "TensorRTEngine",
    "build_engine",
    "library_version",
    "supported_capabilities",
    "tensorrt_obstacle",
]

_MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
_TITLES = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT for RTX"}
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
            raise EngineError(f"{_TITLES[engine]} is installed in part: {error}") from error
        raise MissingExtraError(engine, _TITLES[engine]) from None
    except (ImportError, OSError, RuntimeError) as error:  # a shared library that is missing
        raise EngineError(
            f"{_TITLES[engine]} is installed and does not load: {error}; install it again with "
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
    title = _TITLES[engine]
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
    title = f"{_TITLES[engine]} {library.__version__}"
    _check_capabilities(engine, compute_capabilities)
    started = time.perf_counter()
    journal = _new_journal(library)
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
            f"compute capabilities {', '.join(wanted) or 'none'}: {_TITLES[engine]} builds here "
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


def _new_journal(library: Any) -> Any:
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


# --- running -------------------------------------------------------------------------------------


class TensorRTEngine(GpuEngine):
    """A bundle's graph as a built engine, from the cache or built when it is loaded."""

    def __init__(
        self,
        bundle: Bundle,
        *,
        engine: str = "tensorrt-rtx",
        precision: str = "fp32",
        profile: Profile | None = None,
        operators: str = "auto",
        reason: str = "",
    ) -> None:
        super().__init__(bundle, precision=precision, reason=reason)
        if engine not in _MODULES:
            raise OptionError(f"engine {engine!r} is not one of {', '.join(ENGINES)}")
        self.name = engine
        self.profile = profile or Profile.of(bundle.manifest)
        for probe in bundle.certificate.probes:  # every load repeats them
            self._check_shapes({name: made.shape for name, made in probe.inputs.items()})
        # Batch -> "" where its launches are recorded, else why not; see Note [Execution contexts].
        self.cuda_graphs: dict[int, str] = {}
        self._wanted_operators = operators
        self._library: Any = None
        self._journal: Any = None
        self._engine: Any = None
        self._scratch: Any = None
        self._kernels: Any = None  # the library's runtime cache; see Note [Compiled kernels]
        self._kernels_key: EngineKey | None = None
        self._kept_kernels = b""
        self._any_shape: Any = None
        self._recorded: dict[int, _Recorded] = {}

    def _load(self) -> None:
        import cupy

        from revisage.engines.building import cached_engine

        obstacle = tensorrt_obstacle(self.name)
        if obstacle:
            raise DeviceError(obstacle)
        ours = our_operators(self.bundle.read_graph(self.precision))
        if ours and self._wanted_operators == "native":
            raise DeviceError(
                f"operators='native' cannot run {', '.join(ours)} on {self.name}: our kernels run "
                "in ONNX Runtime on the CPU only"
            )
        self.operators = dict.fromkeys(ours, "portable")
        gpu = find_gpu()
        cached = cached_engine(
            self.bundle,
            engine=self.name,
            precision=self.precision,
            profile=self.profile,
            compute_capability=gpu.compute_capability,
        )
        self._library = load_library(self.name)
        self._journal = _new_journal(self._library)
        runtime = self._library.Runtime(self._journal)
        self._engine = runtime.deserialize_cuda_engine(cached.content) if runtime else None
        if self._engine is None:
            raise self._failure("cannot load the engine")
        self._check_tensors()
        if self.name == "tensorrt-rtx":
            self._load_kernels(cached.key.kernels(gpu.driver))
        self._scratch = cupy.empty(max(1, self._engine.device_memory_size_v2), np.uint8)
        self._any_shape = self._new_context("NONE")

    def _unload(self) -> None:
        self._recorded.clear()
        self.cuda_graphs.clear()
        self._any_shape = self._kernels = self._engine = self._scratch = None

    # --- kernels that are compiled as the engine runs --------------------------------------------

    def activate(self) -> None:
        """As `Engine.activate`; kernels that were kept and may be to blame are thrown away."""
        try:
            super().activate()
        except EngineError:
            if self._kept_kernels and self._kernels_key is not None:
                EngineCache().discard(self._kernels_key, "the engine failed its probe with it")
            raise

    def deactivate(self) -> None:
        """As `Engine.deactivate`; what was compiled is kept."""
        if self.active:
            self._keep_kernels()
        super().deactivate()

    def _load_kernels(self, key: EngineKey) -> None:
        self._kernels_key, self._kept_kernels = key, b""
        self._kernels = self._engine.create_runtime_config().create_runtime_cache()
        kept = EngineCache().load(key)
        if kept is not None and self._kernels.deserialize(kept):
            self._kept_kernels = kept
        self._journal.messages.clear()  # kernels that the library refuses are no failure

    def _keep_kernels(self) -> None:
        if self._kernels is None or self._kernels_key is None:
            return
        content = bytes(self._kernels.serialize())
        if content != self._kept_kernels:
            self._kept_kernels = content
            EngineCache().store(self._kernels_key, content, about={"model": self.bundle.name})

    def _check_tensors(self) -> None:
        """Refuse an engine whose tensors are not those of the manifest."""
        engine, mode = self._engine, self._library.TensorIOMode
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        found = {
            (engine.get_tensor_mode(name) == mode.INPUT, name): np.dtype(
                self._library.nptype(engine.get_tensor_dtype(name))
            )
            for name in names
        }
        stated = {(True, spec.name): np.dtype(spec.dtype) for spec in self.manifest.inputs}
        stated |= {(False, spec.name): np.dtype(spec.dtype) for spec in self.manifest.outputs}
        if found != stated:
            raise EngineError(
                f"{self.bundle.name}: the graph has the tensors {', '.join(names)}, which are not "
                "those of its manifest; export it again"
            )

    def _new_context(self, specialization: str) -> Any:
        """An execution context on the engine's scratch memory.

        Args:
            specialization: of TensorRT for RTX's kernels: "NONE" or "EAGER", for every shape met.
        """
        strategy = self._library.ExecutionContextAllocationStrategy.USER_MANAGED
        if self.name == "tensorrt-rtx":
            config = self._engine.create_runtime_config()
            config.set_execution_context_allocation_strategy(strategy)
            kinds = self._library.DynamicShapesKernelSpecializationStrategy.__members__
            config.dynamic_shapes_kernel_specialization_strategy = kinds[specialization]
            if not config.set_runtime_cache(self._kernels):
                raise self._failure("cannot use its kernel cache")
            context = self._engine.create_execution_context(config)
        else:
            context = self._engine.create_execution_context(strategy)
        if context is None:
            raise self._failure("cannot make an execution context")
        context.set_device_memory(self._scratch.data.ptr, self._scratch.nbytes)
        return context

    def _run(self, inputs: Mapping[str, Any], outputs: dict[str, Any]) -> None:
        shapes = {name: tuple(array.shape) for name, array in inputs.items()}
        self._check_shapes(shapes)
        recorded = self._recorded.get(self._bucket(shapes) or 0)
        if recorded is not None:
            recorded.replay(self._stream, inputs, outputs)
        else:
            self._enqueue(self._any_shape, self._stream, inputs, outputs)

    def _check_shapes(self, shapes: Mapping[str, Sequence[int]]) -> None:
        try:
            self.profile.check(shapes)
        except ShapeError as error:
            raise ShapeError(f"{self.bundle.name}: {error}") from None

    def _enqueue(
        self, context: Any, stream: Any, inputs: Mapping[str, Any], outputs: dict[str, Any]
    ) -> None:
        """Enqueue one run; fills `outputs` with new arrays where empty."""
        import cupy

        done = all(context.set_input_shape(n, tuple(a.shape)) for n, a in inputs.items())
        if done and not outputs:
            for spec in self.manifest.outputs:
                shape = tuple(context.get_tensor_shape(spec.name))
                outputs[spec.name] = cupy.empty(shape, np.dtype(spec.dtype))
        done = done and all(
            context.set_tensor_address(name, array.data.ptr)
            for name, array in (*inputs.items(), *outputs.items())
        )
        if not done or not context.execute_async_v3(stream.ptr):
            raise self._failure("failed")

    def _failure(self, what: str) -> EngineError:
        """An error with what the library said last."""
        said = self._journal.errors()
        self._journal.messages.clear()
        return EngineError(
            f"{self.bundle.name}: {_TITLES[self.name]} {self._library.__version__} {what}: {said}"
        )

    # --- CUDA graphs -----------------------------------------------------------------------------

    def _prepare(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Record a bucket that is met for the first time."""
        batch = self._bucket(shapes)
        if batch is None or batch in self.cuda_graphs:
            return
        with self._queue, turns.record(), self._stream:
            if batch in self.cuda_graphs:
                return
            try:
                self._recorded[batch] = self._record(batch)
                self.cuda_graphs[batch] = ""
                self._keep_kernels()
            except Exception as error:  # of the library or of CuPy: the other context still runs
                self.cuda_graphs[batch] = str(error) or type(error).__name__

    def _bucket(self, shapes: Mapping[str, tuple[int, ...]]) -> int | None:
        """The batch to fill up to; None where these shapes run unrecorded."""
        tensors = (*self.manifest.inputs, *self.manifest.outputs)
        batched = all(spec.shape and spec.shape[0] == "N" for spec in tensors)
        if not batched or output_shapes(self.manifest, shapes) is None:
            return None
        return self.profile.bucket(shapes)

    def _record(self, batch: int) -> _Recorded:
        """Record a bucket, and compare it with the context of any shape."""
        import cupy

        recipes = self.bundle.certificate.probes[0].inputs
        example = {}
        for spec in self.manifest.inputs:
            shape = (batch, *self.profile.shapes[spec.name][1][1:])
            recipe = dataclasses.replace(recipes[spec.name], shape=shape)
            example[spec.name] = cupy.asarray(probe_array(recipe, spec))
        inputs = {name: cupy.zeros_like(array) for name, array in example.items()}
        outputs = self._empty_outputs(inputs)
        context = self._new_context("EAGER")
        stream = cupy.cuda.Stream(non_blocking=True)  # a recording that fails would spoil ours
        self._stream.synchronize()
        self._enqueue(context, stream, inputs, outputs)  # compiles what could not be recorded
        stream.synchronize()
        stream.begin_capture()
        try:
            self._enqueue(context, stream, inputs, outputs)
        finally:
            graph = stream.end_capture()
        recorded = _Recorded(context, graph, inputs, outputs)
        wanted, found = self._empty_outputs(example), self._empty_outputs(example)
        self._enqueue(self._any_shape, self._stream, example, wanted)
        recorded.replay(self._stream, example, found)
        limit = self.manifest.tolerance(self.name, self.precision).max_abs
        for name, array in wanted.items():
            off = float(cupy.abs(found[name] - array).max())
            if not off <= limit:  # a NaN fails, too
                raise EngineError(f"the recorded graph is off by {off:.3g} in {name!r}")
        return recorded


@dataclasses.dataclass(frozen=True)
class _Recorded:
    """A bucket whose launches are recorded between fixed arrays; see Note [Execution contexts]."""

    context: Any  # what was recorded needs it
    graph: Any
    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any]

    def replay(self, stream: Any, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
        """Enqueue one run; rows that fill up the batch keep what they held."""
        for name, array in inputs.items():
            self.inputs[name][: array.shape[0]] = array
        self.graph.launch(stream)
        for name, array in outputs.items():
            array[...] = self.outputs[name][: array.shape[0]]
