"""The engine protocol: activate, infer, deactivate, with every check in one place.

An engine's file overrides the `_..._impl` methods; the public methods check the state and the
tensors around them, so that every engine refuses the same inputs with the same words.
"""

from __future__ import annotations

import abc
import threading
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from revisage.bundle import Bundle
from revisage.engines.arrays import open_arrays
from revisage.engines.probe import check_probes
from revisage.errors import DeviceError, EngineError, ShapeError
from revisage.manifest import Manifest, TensorSpec

__all__ = ["Array", "Engine", "output_shapes", "symbol_sizes"]

Array = NDArray[Any]


class Engine(abc.ABC):
    """One model on one device. Use it as a context manager, or `deactivate` it when done.

    `infer` may be called from several threads at once. Activating and deactivating take a lock;
    deactivate only when no `infer` is under way.
    """

    name: str  # "onnxruntime-cpu": the engine of a receipt and of the manifest's tolerances
    device: str  # "cpu", "cuda"

    def __init__(self, bundle: Bundle, *, precision: str = "fp32", reason: str = "") -> None:
        self.bundle = bundle
        self.manifest = bundle.manifest
        self.precision = precision
        self.reason = reason  # why this device was taken, for the receipt
        # Our operators in the graph: "native" (our kernel runs) or "portable" (its standard body).
        self.operators: dict[str, str] = {}
        self._active = False
        self._lock = threading.Lock()

    @abc.abstractmethod
    def _activate_impl(self) -> None:
        """Load the graph; raise DeviceError or EngineError where that cannot be done."""

    @abc.abstractmethod
    def _infer_impl(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run the graph once; the inputs are checked and C-contiguous."""

    def _infer_on_gpu(self, inputs: Mapping[str, Any], stream: int) -> dict[str, Any]:
        """Run the graph on CuPy arrays, in order with the caller's stream (an address)."""
        raise DeviceError(
            f"{self.bundle.name}: the inputs lie on a GPU, and {self.name} runs on the CPU; copy "
            'them to the CPU (torch: .cpu(), CuPy: .get()), or open an engine on "cuda"'
        )

    @abc.abstractmethod
    def _deactivate_impl(self) -> None:
        """Let go of the graph and its memory."""

    @property
    def active(self) -> bool:
        """Whether the engine is loaded and certified."""
        return self._active

    def activate(self) -> None:
        """Load the graph and repeat the certificate's probes; does nothing when already active.

        Raises:
            BundleError: the manifest states no tolerance for this engine and precision.
            DeviceError: the device cannot run here.
            EngineError: the graph does not load, or a probe does not give the certified output.
        """
        with self._lock:
            if self._active:
                return
            try:
                self._activate_impl()
                tolerance = self.manifest.tolerance(self.name, self.precision)
                where = f"{self.bundle.name} on {self.name}"
                probes = self.bundle.certificate.probes
                check_probes(self._infer_impl, probes, self.manifest, tolerance, where)
            except BaseException:
                self._deactivate_impl()
                raise
            self._active = True

    def deactivate(self) -> None:
        """Free the graph; the engine can be activated again."""
        with self._lock:
            if self._active:
                self._active = False
                self._deactivate_impl()

    def infer(self, inputs: Mapping[str, Any], *, stream: Any = None) -> dict[str, Any]:
        """Run the network.

        Args:
            inputs: every input that the manifest names, with its dtype and shape: NumPy arrays, or
                anything with DLPack or an array interface. Engines on a GPU take arrays on it too
                (torch, CuPy, ...), and no copy of them is made.
            stream: for arrays on a GPU, the caller's CUDA stream: an address, or a stream of torch
                or CuPy; None: the current one of the arrays' library. Nothing waits on the CPU;
                see Note [Streams] in `arrays.py`.

        Returns:
            Every output that the manifest names, as new arrays of the kind that went in, on its
            device. What has no `from_dlpack` gets NumPy or CuPy arrays.

        Raises:
            ShapeError: an input is missing, unknown, or of the wrong dtype or shape.
            DeviceError: the inputs lie on different devices, or on one that the engine cannot read.
            EngineError: the engine is not active, or fails.
        """
        if not self._active:
            raise EngineError(
                f"engine {self.name} of {self.bundle.name!r} is not active: activate it"
            )
        self._check_names(inputs)
        given = open_arrays(inputs, stream, self.bundle.name)
        sizes = self._check_inputs(given.arrays)
        if given.device == "cuda":
            outputs = self._infer_on_gpu(given.arrays, given.stream)
        else:
            outputs = self._infer_impl(
                {name: np.ascontiguousarray(array) for name, array in given.arrays.items()}
            )
        self._check_outputs(outputs, sizes)
        return {name: given.give_back(output) for name, output in outputs.items()}

    def __enter__(self) -> Self:
        self.activate()
        return self

    def __exit__(self, *_: object) -> None:
        self.deactivate()

    def __repr__(self) -> str:
        state = "active" if self._active else "inactive"
        return f"<{self.name} {self.bundle.name} {self.precision} {state}>"

    def _check_names(self, inputs: Mapping[str, Any]) -> None:
        known = {tensor.name for tensor in self.manifest.inputs}
        if set(inputs) != known:
            raise ShapeError(
                f"{self.bundle.name}: expected the inputs {', '.join(sorted(known))}, "
                f"got {', '.join(sorted(inputs)) or 'none'}"
            )

    def _check_inputs(self, inputs: Mapping[str, Any]) -> dict[str, int]:
        """Compare inputs with the manifest; returns the size of every symbol."""
        for spec in self.manifest.inputs:
            array = inputs[spec.name]
            if array.dtype != np.dtype(spec.dtype):  # also refuses the other byte order
                raise ShapeError(
                    f"{self.bundle.name}: input {spec.name!r}: expected dtype {spec.dtype}, "
                    f"got {array.dtype}"
                )
        sizes = symbol_sizes(self.manifest, {name: a.shape for name, a in inputs.items()})
        for symbol in ("H", "W"):
            size = sizes.get(symbol, self.manifest.multiple_of)
            if size % self.manifest.multiple_of:
                raise ShapeError(
                    f"{self.bundle.name}: {symbol} is {size}, which is no multiple of "
                    f"{self.manifest.multiple_of}: pad the input ({self.manifest.padding})"
                )
        return sizes

    def _check_outputs(self, outputs: Mapping[str, Array], sizes: dict[str, int]) -> None:
        for spec in self.manifest.outputs:
            try:
                array = outputs[spec.name]
                if array.dtype != np.dtype(spec.dtype):
                    raise EngineError(f"{self.name}: output {spec.name!r} has dtype {array.dtype}")
                _bind_shape(array.shape, spec, sizes, f"output {spec.name!r}")
            except (KeyError, ShapeError) as error:
                raise EngineError(
                    f"{self.name}: {self.bundle.name} does not give what its manifest states "
                    f"({error}); export it again"
                ) from None


def symbol_sizes(manifest: Manifest, input_shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """The size of every symbol in the shapes of the inputs.

    Raises:
        ShapeError: a shape does not fit the manifest.
    """
    sizes: dict[str, int] = {}
    for spec in manifest.inputs:
        where = f"{manifest.name}: input {spec.name!r}"
        _bind_shape(input_shapes[spec.name], spec, sizes, where)
    return sizes


def output_shapes(
    manifest: Manifest, input_shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[int, ...]] | None:
    """Shapes of the outputs for inputs that fit the manifest; None where one has to be found out.

    See Note [Shapes in a manifest] in `revisage.manifest`.
    """
    sizes = symbol_sizes(manifest, input_shapes)
    shapes: dict[str, tuple[int, ...]] = {}
    for spec in manifest.outputs:
        sized = [_size_of(dimension, sizes) for dimension in spec.shape]
        if None in sized:
            return None
        shapes[spec.name] = tuple(size for size in sized if size is not None)
    return shapes


def _size_of(dimension: int | str, sizes: Mapping[str, int]) -> int | None:
    """The size of a dimension where its symbol is known."""
    if isinstance(dimension, int):
        return dimension
    symbol, _, divisor = dimension.partition("/")
    return sizes[symbol] // int(divisor or 1) if symbol in sizes else None


def _bind_shape(
    shape: tuple[int, ...], spec: TensorSpec, sizes: dict[str, int], where: str
) -> None:
    """Match a shape with the dimensions of a spec, giving every new symbol its size."""
    wanted = f"[{', '.join(map(str, spec.shape))}]"
    if len(shape) != len(spec.shape):
        raise ShapeError(f"{where}: expected {wanted}, got {list(shape)}")
    for size, dimension in zip(shape, spec.shape, strict=True):
        expected = _size_of(dimension, sizes)
        if expected is None:
            expected = size
            if isinstance(dimension, str) and "/" not in dimension:
                sizes[dimension] = size
        # A count that the network finds (K) may be 0; a batch or a picture may not.
        if size != expected or (size < 1 and dimension in {"N", "H", "W"}):
            raise ShapeError(f"{where}: expected {wanted}, got {list(shape)}")
