"""Optimization profiles: the shapes that a compiled engine is built for.

An engine of TensorRT is compiled for a range of shapes, and runs none outside of it: every dynamic
dimension has a smallest, a usual (the one it is quickest at) and a largest size.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from revisage.errors import OptionError, ShapeError
from revisage.manifest import Manifest

__all__ = ["BATCH", "BUCKETS", "Profile", "Shapes", "Side"]

Side = int | tuple[int, int]  # of a square, or (H, W), in pixels
Shapes = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]  # smallest, usual, largest

BATCH = (1, 4, 8)
BUCKETS = (1, 2, 4, 8)  # batches that CUDA graphs are recorded for; others are filled up
SMALLEST_SIDE = 64  # pixels; probes are no smaller


@dataclasses.dataclass(frozen=True)
class Profile:
    """The smallest, usual and largest shape of every input, by name."""

    shapes: Mapping[str, Shapes]

    def __post_init__(self) -> None:
        """Freeze the mapping and check the order of the sizes."""
        object.__setattr__(self, "shapes", MappingProxyType(dict(self.shapes)))
        for name, (smallest, usual, largest) in self.shapes.items():
            in_order = len(smallest) == len(usual) == len(largest) and all(
                1 <= low <= middle <= high
                for low, middle, high in zip(smallest, usual, largest, strict=True)
            )
            if not in_order:
                raise OptionError(
                    f"input {name!r}: the shapes {_shape(smallest)}, {_shape(usual)} and "
                    f"{_shape(largest)} do not grow from smallest to usual to largest"
                )

    @classmethod
    def of(
        cls,
        manifest: Manifest,
        batch: tuple[int, int, int] = BATCH,
        sides: Sequence[Side] | None = None,
    ) -> Profile:
        """The profile of a model.

        Args:
            batch: smallest, usual and largest N.
            sides: smallest, usual and largest H and W, for models that have them; None: from 64
                pixels to the working size, which is the usual one.

        Raises:
            OptionError: the sizes do not grow, or a side is no multiple of `multiple_of`.
        """
        step = manifest.multiple_of
        if sides is None:
            working = -(-manifest.working_size // step) * step
            sides = (min(-(-SMALLEST_SIDE // step) * step, working), working, working)
        if len(batch) != 3 or len(sides) != 3:
            raise OptionError("a profile needs three sizes: smallest, usual and largest")
        found = []
        for count, side in zip(batch, sides, strict=True):
            height, width = (side, side) if isinstance(side, int) else side
            if height % step or width % step:
                raise OptionError(
                    f"{manifest.name}: the side {height}x{width} is no multiple of {step}"
                )
            found.append({"N": count, "H": height, "W": width})
        shapes: dict[str, Shapes] = {}
        for spec in manifest.inputs:
            unknown = {d for d in spec.shape if isinstance(d, str)} - {"N", "H", "W"}
            if unknown:
                raise OptionError(
                    f"{manifest.name}: input {spec.name!r} has the size {', '.join(unknown)}, for "
                    "which there is no profile"
                )
            smallest, usual, largest = (
                tuple(sizes[d] if isinstance(d, str) else d for d in spec.shape) for sizes in found
            )
            shapes[spec.name] = (smallest, usual, largest)
        return cls(shapes)

    @property
    def text(self) -> str:
        """One line that equal profiles, and only they, share: `image=1x3x64x64:4x..:8x..`."""
        return ";".join(
            f"{name}={':'.join(map(_shape, shapes))}"
            for name, shapes in sorted(self.shapes.items())
        )

    def bucket(self, shapes: Mapping[str, Sequence[int]]) -> int | None:
        """The smallest of BUCKETS that holds these inputs, whose first axis is the batch.

        None where their sides are not the usual ones, or no bucket of the profile is large enough.
        """
        if any(tuple(shapes[name][1:]) != s[1][1:] for name, s in self.shapes.items()):
            return None
        count = max(shape[0] for shape in shapes.values())
        smallest = max(low[0] for low, _, _ in self.shapes.values())
        largest = min(high[0] for _, _, high in self.shapes.values())
        return next((b for b in BUCKETS if max(count, smallest) <= b <= largest), None)

    def check(self, shapes: Mapping[str, Sequence[int]]) -> None:
        """Refuse input shapes that an engine of this profile cannot run.

        Raises:
            ShapeError: names the input and the range that the engine was built for.
        """
        for name, (smallest, _, largest) in self.shapes.items():
            shape = tuple(shapes[name])
            if len(shape) != len(smallest) or not all(
                low <= size <= high
                for low, size, high in zip(smallest, shape, largest, strict=True)
            ):
                raise ShapeError(
                    f"input {name!r} is {_shape(shape)}; the engine was built for "
                    f"{_shape(smallest)} to {_shape(largest)}: resize or split the input, or give "
                    "the engine a profile that holds it"
                )


def _shape(sizes: Sequence[int]) -> str:
    return "x".join(map(str, sizes)) or "scalar"
