"""What a session gives back: `Result` and its `Receipt`."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from revisage.edit import Edit
    from revisage.faces import Face

__all__ = ["Receipt", "Result", "Stopwatch"]


@dataclasses.dataclass(frozen=True)
class Receipt:
    """How a result came about: enough to reproduce it, and to see where the time went."""

    version: str  # of Revisage
    # What the networks ran on: "cpu"; "onnxruntime-cpu"; "fp32". Where they differ, every value
    # ("int8, fp32"); "" where no network ran.
    device: str
    engine: str
    precision: str
    models: Mapping[str, str]  # bundle -> sha256 of its model.onnx
    kernels: str  # "native" (C++) or "reference" (NumPy)
    threads: int | None  # as asked for; None: all usable cores
    milliseconds: Mapping[str, float]  # stage -> wall time, in the order of work
    reason: str = ""  # why this engine, and why no better one
    # Bundle -> engine and precision that it ran on: "onnxruntime-cpu int8"
    engines: Mapping[str, str] = dataclasses.field(default_factory=dict)
    # Operators of ours in the networks -> "native" (our kernels) or "portable" (standard ones)
    operators: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def total_ms(self) -> float:
        """Wall time of all stages together, milliseconds."""
        return float(sum(self.milliseconds.values()))

    def to_json(self) -> str:
        """The receipt as one JSON object, indented; keys as the fields."""
        return json.dumps(self.to_dict(), indent=2)

    def to_dict(self) -> dict[str, Any]:
        """The receipt as plain values."""
        entries = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        entries["models"] = dict(self.models)
        entries["engines"] = dict(self.engines)
        entries["operators"] = dict(self.operators)
        entries["milliseconds"] = {k: round(v, 3) for k, v in self.milliseconds.items()}
        return entries

    def with_stages(self, milliseconds: Mapping[str, float]) -> Receipt:
        """The receipt with further stages (reading before, writing after the work)."""
        return dataclasses.replace(self, milliseconds={**self.milliseconds, **milliseconds})

    def __str__(self) -> str:
        ran = f"{self.device}, {self.engine}, {self.precision}" if self.engine else "no network ran"
        threads = "all cores" if self.threads is None else f"{self.threads} threads"
        lines = [f"revisage {self.version}: {ran}, {self.kernels} kernels, {threads}"]
        lines += [f"  why    {self.reason}"] if self.reason else []
        lines += [
            f"  model  {name:<18} sha256 {digest[:16]}  {self.engines.get(name, '')}".rstrip()
            for name, digest in self.models.items()
        ]
        lines += [f"  node   {name:<18} {who}" for name, who in self.operators.items()]
        lines += [f"  time   {stage:<18} {ms:>9.1f} ms" for stage, ms in self.milliseconds.items()]
        lines += [f"  time   {'total':<18} {self.total_ms:>9.1f} ms"]
        return "\n".join(lines)


@dataclasses.dataclass(frozen=True, eq=False)
class Result:
    """A retouched photo and everything needed to understand or undo it."""

    image: Any  # as what went in: NumPy array, PIL image, torch tensor, ...
    edits: tuple[Edit, ...]  # in the order in which they were applied
    faces: tuple[Face, ...]  # those that were found or given
    receipt: Receipt

    def __repr__(self) -> str:
        shape: Any = getattr(self.image, "shape", None) or getattr(self.image, "size", ())
        return (
            f"Result({type(self.image).__name__} {tuple(shape)}, {len(self.faces)} faces, "
            f"{len(self.edits)} edits, {self.receipt.total_ms:.0f} ms)"
        )


class Stopwatch:
    """Adds up wall time per stage, in the order in which stages first ran."""

    def __init__(self) -> None:
        self.milliseconds: dict[str, float] = {}

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the block under `name`; the same name adds up."""
        self.milliseconds.setdefault(name, 0.0)
        start = time.perf_counter()
        try:
            yield
        finally:
            self.milliseconds[name] += (time.perf_counter() - start) * 1e3
