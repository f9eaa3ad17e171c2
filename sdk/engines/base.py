"""The engine protocol: activate, infer, deactivate, with every check in one place.

An engine's file overrides the `_..._impl` methods; the public methods check the state and the
tensors around them, so that every engine refuses the same inputs with the same words.
"""

from __future__ import annotations

import abc
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from revisage.bundle import Bundle
from revisage.engines.probe import check_probes
from revisage.errors import EngineError, ShapeError
from revisage.manifest import TensorSpec

__all__ = ["Array", "Engine"]

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
            self._activate_impl()
            try:
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

    def infer(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run the network.

        Args:
            inputs: every input that the manifest names, with its dtype and shape.

        Returns:
            Every output that the manifest names, as new arrays.

        Raises:
            ShapeError: an input is missing, unknown, or of the wrong dtype or shape.
            EngineError: the engine is not active, or fails.
        """
        if not self._active:
            raise EngineError(
                f"engine {self.name} of {self.bundle.name!r} is not active: activate it"
            )
        sizes = self._check_inputs(inputs)
        outputs = self._infer_impl({k: np.ascontiguousarray(v) for k, v in inputs.items()})
        self._check_outputs(outputs, sizes)
        return outputs

    def __enter__(self) -> Self:
        self.activate()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.deactivate()

    def __repr__(self) -> str:
        state = "active" if self._active else "inactive"
        return f"<{self.name} {self.bundle.name} {self.precision} {state}>"

    def _check_inputs(self, inputs: Mapping[str, Array]) -> dict[str, int]:
        """Compare inputs with the manifest; returns the size of every symbol."""
        known = {tensor.name: tensor for tensor in self.manifest.inputs}
        if set(inputs) != set(known):
            raise ShapeError(
                f"{self.bundle.name}: expected the inputs {', '.join(sorted(known))}, "
                f"got {', '.join(sorted(inputs)) or 'none'}"
            )
        sizes: dict[str, int] = {}
        for name, spec in known.items():
            array = inputs[name]
            where = f"{self.bundle.name}: input {name!r}"
            if not isinstance(array, np.ndarray):
                raise ShapeError(f"{where}: expected a numpy array, got {type(array).__name__}")
            if array.dtype != np.dtype(spec.dtype):  # also refuses the other byte order
                raise ShapeError(f"{where}: expected dtype {spec.dtype}, got {array.dtype}")
            _bind_shape(array.shape, spec, sizes, where)
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


def _bind_shape(
    shape: tuple[int, ...], spec: TensorSpec, sizes: dict[str, int], where: str
) -> None:
    """Match a shape with the dimensions of a spec, giving every new symbol its size."""
    wanted = f"[{', '.join(map(str, spec.shape))}]"
    if len(shape) != len(spec.shape):
        raise ShapeError(f"{where}: expected {wanted}, got {list(shape)}")
    for size, dimension in zip(shape, spec.shape, strict=True):
        if isinstance(dimension, int):
            expected = dimension
        else:
            symbol, _, divisor = dimension.partition("/")
            if not divisor:
                expected = sizes.setdefault(symbol, size)
            elif symbol in sizes:
                expected = sizes[symbol] // int(divisor)
            else:
                expected = size
        # A count that the network finds (K) may be 0; a batch or a picture may not.
        if size != expected or (size < 1 and dimension in {"N", "H", "W"}):
            raise ShapeError(f"{where}: expected {wanted}, got {list(shape)}")
