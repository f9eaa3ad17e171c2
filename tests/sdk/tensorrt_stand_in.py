"""TensorRT's runtime without a GPU: an engine that multiplies, and remembers what it was told.

The content of an engine is text: its factor, its input, its output. It runs on the arrays of
the stand-in of CuPy.
"""

from __future__ import annotations

import weakref
from types import SimpleNamespace
from typing import Any

import numpy as np

from tests.sdk.cupy_stand_in import Stream, memory_at

CONTENT = b"3.0 image scaled"
SCRATCH = 1000  # bytes
ALIVE: weakref.WeakSet[Any] = weakref.WeakSet()  # contexts and engines that were not let go of


class Logger:
    """The base class of loggers."""

    Severity = SimpleNamespace(VERBOSE=SimpleNamespace(name="VERBOSE"))

    def log(self, severity: Any, message: str) -> None:
        raise NotImplementedError


class Context:
    """Multiplies its input by the engine's factor, where it was given everything."""

    def __init__(self, engine: Any, specialization: str, kernels: Kernels | None) -> None:
        self.engine, self.specialization = engine, specialization
        self.kernels = kernels
        self.addresses: dict[str, int] = {}
        self.shape: tuple[int, ...] = ()
        self.scratch: tuple[int, int] | None = None
        self.runs = 0
        ALIVE.add(self)

    def set_device_memory(self, memory: int, size: int) -> None:
        self.scratch = (memory, size)

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shape = shape
        return name == self.engine.names[0]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shape

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return name in self.engine.names

    def execute_async_v3(self, stream: int) -> bool:
        library = self.engine.library
        self.runs += 1
        given, made = (memory_at(self.addresses[name]) for name in self.engine.names)
        assert given.shape == made.shape == self.shape
        assert self.scratch is not None
        assert memory_at(self.scratch[0]).nbytes >= self.scratch[1] >= SCRATCH
        recording = stream in Stream.recording
        if self.kernels is not None:
            self.kernels.compile(self.shape if self.specialization == "eager" else "any shape")
        if library.fails(self, recording):
            library.say("ERROR", "out of luck")
            return False
        factor = library.factor(self, recording)
        Stream(stream).do(lambda: np.multiply(given, np.float32(factor), out=made))
        return True


class Kernels:
    """What `create_runtime_cache` gives: a line of text for every kernel."""

    def __init__(self, library: Library) -> None:
        self.library = library
        self.lines: list[str] = []
        ALIVE.add(self)

    def compile(self, kernel: object) -> None:
        if str(kernel) not in self.lines:
            self.lines.append(str(kernel))
            self.library.compiled.append(str(kernel))

    def serialize(self) -> bytes:
        return "\n".join([self.library.__version__, *self.lines]).encode()

    def deserialize(self, content: bytes) -> bool:
        version, *lines = content.decode().splitlines()
        if version != self.library.__version__:
            self.library.say("ERROR", "kernels of another version")
            return False
        self.lines = lines
        return True


class Engine:
    """What `deserialize_cuda_engine` gives."""

    device_memory_size_v2 = SCRATCH

    def __init__(self, library: Any, content: bytes) -> None:
        factor, *self.names = content.decode().split()
        self.library, self.factor = library, float(factor)
        self.num_io_tensors = len(self.names)
        ALIVE.add(self)

    def get_tensor_name(self, index: int) -> str:
        return self.names[index]

    def get_tensor_mode(self, name: str) -> str:
        return "input" if name == self.names[0] else "output"

    def get_tensor_dtype(self, name: str) -> str:
        return "float32"

    def create_runtime_config(self) -> Any:
        config = SimpleNamespace(dynamic_shapes_kernel_specialization_strategy="LAZY")
        config.set_execution_context_allocation_strategy = lambda s: setattr(config, "strategy", s)
        config.create_runtime_cache = lambda: Kernels(self.library)
        config.set_runtime_cache = lambda kernels: setattr(config, "kernels", kernels) is None
        return config

    def create_execution_context(self, config: Any) -> Any:
        strategy = config if isinstance(config, str) else config.strategy
        assert strategy == "user managed"
        kind = getattr(config, "dynamic_shapes_kernel_specialization_strategy", "")
        context = Context(self, kind, getattr(config, "kernels", None))
        self.library.contexts.append(weakref.ref(context))
        return context


class Library:
    """The module `tensorrt` or `tensorrt_rtx`."""

    ILogger = Logger
    TensorIOMode = SimpleNamespace(INPUT="input", OUTPUT="output")
    ExecutionContextAllocationStrategy = SimpleNamespace(USER_MANAGED="user managed")
    DynamicShapesKernelSpecializationStrategy = SimpleNamespace(
        __members__={"NONE": "none", "EAGER": "eager"}
    )
    ComputeCapability = SimpleNamespace(__members__={"NONE": 0, "SM86": 1, "SM89": 2, "SM120": 3})

    def __init__(self, version: str = "1.2.3") -> None:
        self.__version__ = version
        self.contexts: list[Any] = []  # weak references, in the order in which they were made
        self.compiled: list[str] = []  # kernels, as they were missing
        self.logger: Any = None

    def Runtime(self, logger: Any) -> Any:  # noqa: N802
        self.logger = logger
        return SimpleNamespace(deserialize_cuda_engine=self.deserialize)

    def deserialize(self, content: bytes) -> Engine | None:
        if not content[:1].isdigit():
            self.say("ERROR", "magic tag does not match")
            return None
        return Engine(self, content)

    def nptype(self, dtype: str) -> Any:
        return np.dtype(dtype)

    def say(self, severity: str, message: str) -> None:
        self.logger.log(SimpleNamespace(name=severity), message)

    def fails(self, context: Context, recording: bool) -> bool:
        """Whether a run fails; replaced by tests."""
        return False

    def factor(self, context: Context, recording: bool) -> float:
        """What a run multiplies by; replaced by tests."""
        return context.engine.factor
