"""ONNX Runtime on an NVIDIA GPU: its CUDA and its TensorRT provider.

Note [No node on the CPU]
    ONNX Runtime places a node that a provider cannot run on the CPU, and says so in a log at most.
    What it calls a fallback includes nodes that belong there: a graph of any size computes sizes,
    and from them the matrices of its Fourier transforms, out of `Shape`, on the CPU. The option
    that forbids the fallback (`session.disable_cpu_ep_fallback`) refuses those too. So the
    placement is read back after loading: what is not arithmetic on sizes has to be on the GPU.

Note [CUDA graphs]
    For the working size, a batch is filled up to 1, 2, 4 or 8 and runs in a session that knows this
    one shape: every size in it is a constant, so nothing is left for the CPU, and all launches are
    recorded once as a CUDA graph and replayed from then on. A graph reads and writes fixed
    addresses; inputs and outputs are copied there on the GPU. Every such session holds the weights
    again, so that of batch 1 is made at load and others when their batch is first met. Other sizes
    run in the session of any shape.
    A recorded graph is compared with that session, on two different inputs, before it is used.
    ONNX Runtime keeps a graph for the thread that recorded it, so each has a thread of its own.

Note [Waiting]
    Where sizes are computed on the CPU, ONNX Runtime copies them to the GPU from memory that the
    next run may overwrite, so such a session is left to wait for the end of a run. All others
    return when the work is enqueued.

Note [TensorRT provider]
    It compiles the whole network for a range of shapes. What it builds it keeps in a folder, which
    the engine cache fills and empties. Its fp16, bf16 and int8 switches stay off: then it builds a
    strongly typed network in the precisions of the graph. It has no switch for TF32, which TensorRT
    allows for float32; the bundle states how far that may be off.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import io
import re
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from revisage.bundle import Bundle
from revisage.engines.base import output_shapes, symbol_sizes
from revisage.engines.cache import EngineCache, EngineKey
from revisage.engines.driver import find_gpu
from revisage.engines.gpu import GpuEngine, turns
from revisage.engines.onnxruntime import first_line, load_session, our_operators, session_options
from revisage.engines.probe import probe_inputs
from revisage.engines.profile import Profile
from revisage.errors import DeviceError, EngineError
from revisage.manifest import Probe, ProbeInput

__all__ = ["OnnxRuntimeGpuEngine", "provider_obstacle"]

BATCHES = (1, 2, 4, 8)  # see Note [CUDA graphs]

PROVIDERS = {"cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
_MEMORY = "cuda"  # where the buffers lie, in ONNX Runtime's words

# See Note [No node on the CPU]: operators that arithmetic on sizes is made of.
ON_SIZES = {
    *("Shape", "Size", "ConstantOfShape", "Range", "Gather", "Slice", "Concat", "Split", "Cast"),
    *("Squeeze", "Unsqueeze", "Reshape", "Expand", "Identity", "Transpose", "Tile"),
    *("Add", "Sub", "Mul", "Div", "Mod", "Neg", "Abs", "Floor", "Ceil", "Round", "Reciprocal"),
    *("Sqrt", "Pow", "Cos", "Sin", "Min", "Max", "Equal", "Less", "Greater", "And", "Or", "Not"),
    *(
        "LessOrEqual",
        "GreaterOrEqual",
        "Where",
        "ReduceProd",
        "ReduceSum",
        "ReduceMax",
        "ReduceMin",
    ),
}


def provider_obstacle(provider: str) -> str:
    """Why ONNX Runtime cannot load the provider "cuda" or "tensorrt", with the remedy; "": it can.

    There has to be a driver and a GPU already; CuPy is asked elsewhere.
    """
    import onnxruntime

    if PROVIDERS[provider] not in onnxruntime.get_available_providers():
        return (
            f"the installed ONNX Runtime {onnxruntime.__version__} has no {PROVIDERS[provider]}: "
            "pip uninstall onnxruntime, then pip install 'revisage[gpu]'"
        )
    needs, serves = str(getattr(onnxruntime, "cuda_version", "") or ""), find_gpu().cuda
    if needs and int(needs.partition(".")[0]) > int(serves.partition(".")[0]):
        return (
            f"the NVIDIA driver serves CUDA {serves}, ONNX Runtime {onnxruntime.__version__} needs "
            f"CUDA {needs}: update the driver"
        )
    return _tensorrt_obstacle(Path(onnxruntime.__file__).parent) if provider == "tensorrt" else ""


def _tensorrt_obstacle(package: Path) -> str:
    """Whether the TensorRT that the provider was linked with can be loaded."""
    library = package / "capi" / "libonnxruntime_providers_tensorrt.so"
    try:
        linked = re.search(rb"libnvinfer\.so\.(\d+)\0", library.read_bytes())
    except OSError as error:
        return f"{library.name} of ONNX Runtime cannot be read ({error.strerror}): reinstall it"
    if linked is None:
        return ""
    name, major = linked[0][:-1].decode(), int(linked[1])
    wheel = importlib.util.find_spec("tensorrt_libs")  # where NVIDIA's wheels put them
    folders = [Path(f) for f in wheel.submodule_search_locations or ()] if wheel else []
    for path in [*(str(folder / name) for folder in folders), name]:
        try:
            ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)
        except OSError:
            continue
        return ""
    return (
        f"ONNX Runtime's TensorRT provider is linked with {name} (TensorRT {major}), which is not "
        f"installed: pip install 'tensorrt-cu13>={major},<{major + 1}', or take the engine "
        "'tensorrt' or 'tensorrt-rtx'"
    )


class OnnxRuntimeGpuEngine(GpuEngine):
    """A bundle's graph in ONNX Runtime, on the provider "cuda" or "tensorrt"."""

    def __init__(
        self,
        bundle: Bundle,
        provider: str,
        *,
        precision: str = "fp32",
        threads: int | None = None,
        operators: str = "auto",
        reason: str = "",
    ) -> None:
        super().__init__(bundle, precision=precision, reason=reason)
        self.name = f"onnxruntime-{provider}"
        # Batch -> "" where its launches are recorded, else why not; see Note [CUDA graphs].
        self.cuda_graphs: dict[int, str] = {}
        self._provider = provider
        self._threads = threads
        self._wanted_operators = operators
        self._model = b""
        self._session: Any = None
        self._waits = True  # see Note [Waiting]
        self._recorded: dict[int, _Recorded] = {}

    def _load(self) -> None:
        self._model = self.bundle.read_graph(self.precision)
        ours = our_operators(self._model)
        if ours and self._wanted_operators == "native":
            raise DeviceError(
                f"operators='native' cannot run {', '.join(ours)} on {self.name}: our kernels run "
                "in ONNX Runtime on the CPU only"
            )
        self.operators = dict.fromkeys(ours, "portable")
        self._session = self._new_session(self._stream)
        self._waits = self._operators_elsewhere(self._session) != {}
        self._refuse_elsewhere(self._session, ON_SIZES)
        self._prepare({name: recipe.shape for name, recipe in self._recipes(1, 0).items()})

    def _unload(self) -> None:
        self._recorded.clear()
        self.cuda_graphs.clear()
        self._session, self._model = None, b""

    def _new_session(self, stream: Any, sizes: Mapping[str, int] | None = None) -> Any:
        """A session that enqueues on `stream`; of one shape, recorded, where `sizes` are given."""
        options = session_options(self._threads)
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        for symbol, size in (sizes or {}).items():
            options.add_free_dimension_override_by_name(symbol, size)
        cuda = {
            "user_compute_stream": str(stream.ptr),
            "use_tf32": "0",  # it keeps 10 bits of mantissa: "fp32" has to mean what it says
            "cudnn_conv_algo_search": "HEURISTIC",
            "enable_cuda_graph": "1" if sizes else "0",
        }
        providers = [(PROVIDERS["cuda"], cuda)]
        if self._provider == "cuda":
            return self._start_session(options, providers)

        def load(folder: Path) -> Any:
            settings = tensorrt_settings(profile, folder)
            settings["user_compute_stream"] = cuda["user_compute_stream"]
            return self._start_session(options, [(PROVIDERS["tensorrt"], settings), *providers])

        gpu, profile = find_gpu(), Profile.of(self.bundle.manifest)
        key = EngineKey.of(
            self.bundle,
            ";".join([profile.text, *(f"{name}={size}" for name, size in (sizes or {}).items())]),
            precision=self.precision,
            engine=self.name,
            engine_version=_tensorrt_versions(),
            compute_capability=gpu.compute_capability,
            driver=gpu.driver,
        )
        return EngineCache().load_with_files(key, load, about={"model": self.bundle.name})

    def _start_session(self, options: Any, providers: list[tuple[str, dict[str, str]]]) -> Any:
        missing = _preload()
        session = load_session(self.bundle, self._model, options, providers)
        if PROVIDERS[self._provider] not in session.get_providers():
            raise DeviceError(
                f"ONNX Runtime could not load its {PROVIDERS[self._provider]}"
                f"{f' ({missing})' if missing else ''}: pip install 'revisage[gpu]', which brings "
                "the runtime of CUDA 13, cuBLAS and cuDNN 9"
            )
        return session

    def _operators_elsewhere(self, session: Any) -> dict[str, set[str]]:
        """Provider -> operators that run there instead of on this engine's."""
        elsewhere: dict[str, set[str]] = {}
        for part in session.get_provider_graph_assignment_info():
            if part.ep_name != PROVIDERS[self._provider]:
                operators = {node.op_type for node in part.get_nodes()}
                elsewhere.setdefault(part.ep_name, set()).update(operators)
        return elsewhere

    def _refuse_elsewhere(self, session: Any, allowed: Collection[str]) -> None:
        """See Note [No node on the CPU]; `allowed`: operators that may run elsewhere."""
        found = {
            provider: ", ".join(sorted(operators.difference(allowed)))
            for provider, operators in self._operators_elsewhere(session).items()
        }
        listed = "; ".join(f"{names} on {provider}" for provider, names in found.items() if names)
        if listed:
            raise EngineError(
                f"{self.bundle.name}: {self.name} cannot run all of the graph at {self.precision}, "
                f"ONNX Runtime would run {listed}: take another engine or precision"
            )

    # --- running ---------------------------------------------------------------------------------

    def _run(self, inputs: Mapping[str, Any], outputs: dict[str, Any]) -> None:
        batch = self._batch_of({name: array.shape for name, array in inputs.items()})
        if batch in self._recorded:
            self._recorded[batch].run(inputs, outputs)
        else:
            self._run_any(inputs, outputs)

    def _run_any(self, inputs: Mapping[str, Any], outputs: dict[str, Any]) -> None:
        """Run the session of any shape."""
        names = [spec.name for spec in self.manifest.outputs]
        binding = _bind(self._session, inputs, outputs, names)
        try:
            self._session.run_with_iobinding(binding, _run_options(wait=self._waits))
        except Exception as error:
            raise self._failure(error) from error
        if not outputs:
            import cupy

            found = zip(names, binding.get_outputs(), strict=True)
            outputs.update({name: cupy.from_dlpack(value) for name, value in found})

    def _failure(self, error: Exception) -> EngineError | DeviceError:
        if "no kernel image" in str(error):  # cudaErrorNoKernelImageForDevice
            gpu = find_gpu()
            return DeviceError(
                f"{self.name} has no code for the compute capability {gpu.compute_capability} of "
                f"the {gpu.name}: take the engine 'tensorrt-rtx' or 'tensorrt', or another "
                "version of onnxruntime-gpu"
            )
        return EngineError(f"{self.bundle.name}: {self.name} failed: {first_line(error)}")

    # --- CUDA graphs -----------------------------------------------------------------------------

    def _prepare(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Record the graph of a batch that is met for the first time."""
        batch = self._batch_of(shapes)
        if batch is None or batch in self.cuda_graphs:
            return
        with self._queue, turns.record():
            if batch in self.cuda_graphs:
                return
            try:
                with self._stream:
                    self._recorded[batch] = self._record(batch)
                self.cuda_graphs[batch] = ""
            except EngineError as error:
                self.cuda_graphs[batch] = str(error)

    def _batch_of(self, shapes: Mapping[str, tuple[int, ...]]) -> int | None:
        """The batch to fill up to; None where the shapes are not those of Note [CUDA graphs]."""
        sizes = symbol_sizes(self.manifest, shapes)
        tensors = (*self.manifest.inputs, *self.manifest.outputs)
        fits = (
            self._provider == "cuda"
            and all(spec.shape and spec.shape[0] == "N" for spec in tensors)
            and output_shapes(self.manifest, shapes) is not None
            and all(sizes[name] == self.manifest.working_size for name in sizes if name != "N")
        )
        return next((b for b in BATCHES if b >= sizes["N"]), None) if fits else None

    def _record(self, batch: int) -> _Recorded:
        """A session of one shape, recorded and compared with the session of any shape."""
        import cupy

        made = [self._example(batch, seed) for seed in (0, 1)]
        inputs = {name: cupy.zeros_like(array) for name, array in made[0].items()}
        shapes = {name: array.shape for name, array in inputs.items()}
        stream = cupy.cuda.Stream(non_blocking=True)  # a recording that fails would spoil ours
        session = self._new_session(stream, symbol_sizes(self.manifest, shapes))
        self._refuse_elsewhere(session, ())
        recorded = _Recorded(session, stream, self._stream, inputs, self._empty_outputs(inputs))
        limit = self.manifest.tolerance(self.name, self.precision).max_abs
        for example in (*made, made[0]):
            wanted, found = self._empty_outputs(example), self._empty_outputs(example)
            self._run_any(example, wanted)
            try:
                recorded.run(example, found)
            except Exception as error:
                raise EngineError(
                    f"its launches cannot be recorded: {first_line(error)}"
                ) from error
            for name, array in wanted.items():
                off = float(cupy.abs(found[name] - array).max())
                if not off <= limit:  # a NaN fails, too
                    raise EngineError(f"the recorded graph is off by {off:.3g} in {name!r}")
        return recorded

    def _recipes(self, batch: int, seed: int) -> dict[str, ProbeInput]:
        """Inputs of the working size, made like those of the certificate's probe."""
        sizes = dict.fromkeys("HW", self.manifest.working_size) | {"N": batch}
        probe = self.bundle.certificate.probes[0].inputs
        return {
            spec.name: ProbeInput(
                probe[spec.name].kind,
                probe[spec.name].seed + seed,
                tuple(d if isinstance(d, int) else sizes.get(d, 1) for d in spec.shape),
            )
            for spec in self.manifest.inputs
        }

    def _example(self, batch: int, seed: int) -> dict[str, Any]:
        import cupy

        arrays = probe_inputs(Probe(self._recipes(batch, seed), {}), self.manifest)
        return {name: cupy.asarray(array) for name, array in arrays.items()}


class _Recorded:
    """A session of one shape whose launches are recorded; see Note [CUDA graphs]."""

    def __init__(
        self,
        session: Any,
        stream: Any,
        engine_stream: Any,
        inputs: Mapping[str, Any],
        outputs: Mapping[str, Any],
    ) -> None:
        self._session, self._stream, self._engine_stream = session, stream, engine_stream
        self._inputs, self._outputs = inputs, outputs
        self._binding = _bind(session, inputs, outputs, list(outputs))
        self._thread = ThreadPoolExecutor(1, "revisage-cuda-graph")

    def run(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
        """Enqueue one run on the engine's stream; the rows that fill up the batch keep old data."""
        self._stream.wait_event(self._engine_stream.record())
        with self._stream:
            for name, array in inputs.items():
                self._inputs[name][: array.shape[0]] = array
            replay = self._session.run_with_iobinding
            self._thread.submit(replay, self._binding, _run_options(wait=False)).result()
            for name, array in outputs.items():
                array[...] = self._outputs[name][: array.shape[0]]
        self._engine_stream.wait_event(self._stream.record())


def _bind(
    session: Any, inputs: Mapping[str, Any], outputs: Mapping[str, Any], names: Sequence[str]
) -> Any:
    """Bind GPU memory; outputs `names` that have none get memory from ONNX Runtime."""
    binding = session.io_binding()
    for name, array in inputs.items():
        binding.bind_input(name, _MEMORY, 0, array.dtype, array.shape, array.data.ptr)
    for name in names:
        if name in outputs:
            array = outputs[name]
            binding.bind_output(name, _MEMORY, 0, array.dtype, array.shape, array.data.ptr)
        else:
            binding.bind_output(name, _MEMORY)
    return binding


def _run_options(*, wait: bool) -> Any:
    """See Note [Waiting]."""
    import onnxruntime

    options = onnxruntime.RunOptions()
    options.add_run_config_entry("disable_synchronize_execution_providers", "0" if wait else "1")
    return options


def _preload() -> str:
    """Load CUDA's libraries from NVIDIA's wheels, where there are any; says what is missing."""
    import onnxruntime

    said = io.StringIO()
    with contextlib.redirect_stdout(said):  # it prints its complaints
        onnxruntime.preload_dlls()
    return (said.getvalue().strip().splitlines() or [""])[0]


def _tensorrt_versions() -> str:
    """Versions of ONNX Runtime and of the TensorRT that `provider_obstacle` loaded."""
    import onnxruntime

    return f"{onnxruntime.__version__} {ctypes.CDLL(None).getInferLibVersion()}"


def tensorrt_settings(profile: Profile, folder: Path) -> dict[str, str]:
    """Options of the TensorRT provider, which keeps what it builds in a folder.

    See Note [TensorRT provider].
    """
    shapes = profile.shapes

    def listed(which: int) -> str:
        return ",".join(f"{n}:{'x'.join(map(str, s[which]))}" for n, s in shapes.items())

    return {
        "trt_profile_min_shapes": listed(0),
        "trt_profile_opt_shapes": listed(1),
        "trt_profile_max_shapes": listed(2),
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(folder),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(folder),
        "trt_fp16_enable": "0",
        "trt_bf16_enable": "0",
        "trt_int8_enable": "0",
    }
