"""Built engines of TensorRT and TensorRT for RTX, run on CuPy arrays.

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
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from revisage.bundle import Bundle
from revisage.engines.base import output_shapes
from revisage.engines.building import cached_engine
from revisage.engines.cache import EngineCache, EngineKey
from revisage.engines.driver import find_gpu
from revisage.engines.gpu import GpuEngine, turns
from revisage.engines.onnxruntime import our_operators
from revisage.engines.probe import probe_array
from revisage.engines.profile import Profile
from revisage.engines.tensorrt import (
    ENGINES,
    TITLES,
    load_library,
    new_journal,
    tensorrt_obstacle,
)
from revisage.errors import DeviceError, EngineError, OptionError, ShapeError

__all__ = ["TensorRTEngine"]


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
        if engine not in ENGINES:
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
        self._journal = new_journal(self._library)
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
            f"{self.bundle.name}: {TITLES[self.name]} {self._library.__version__} {what}: {said}"
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
