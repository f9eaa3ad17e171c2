"""What a caller asks for: `Retouch`, one strength per operation."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from revisage.errors import OptionError

__all__ = ["OPERATIONS", "Retouch", "checked_strength"]

# Operations in the order in which they are applied.
OPERATIONS = ("wrinkles",)
# Named in the design, not in this version: asking for one is an error that says so.
_LATER = ("blemishes", "restore", "unmask")


@dataclasses.dataclass(frozen=True, init=False)
class Retouch:
    """Strength of each operation, 0 (leave alone) to 1 (as much as the network sees fit).

    `Retouch()` asks for nothing. Strength scales the finished edit, so that half the strength
    moves every sample half as far.

    Raises:
        OptionError: a strength outside 0..1, or an operation that this version does not have.
    """

    wrinkles: float = 0.0  # wrinkles and fine lines removed, skin texture kept

    def __init__(self, *, wrinkles: float = 0.0, **others: Any) -> None:
        for name in others:
            if name == "inpaint":
                raise OptionError("inpaint needs a painted hole: session.inpaint(photo, hole)")
            if name in _LATER:
                raise OptionError(
                    f"operation {name!r} is not in this version of Revisage; "
                    f"it has: {', '.join(OPERATIONS)}"
                )
            raise OptionError(
                f"there is no operation {name!r}; Revisage has: {', '.join(OPERATIONS)}"
            )
        object.__setattr__(self, "wrinkles", checked_strength("wrinkles", wrinkles))

    def strengths(self) -> dict[str, float]:
        """Operation -> strength for those above 0, in the order in which they are applied."""
        every = {name: float(getattr(self, name)) for name in OPERATIONS}
        return {name: strength for name, strength in every.items() if strength > 0.0}


def checked_strength(name: str, value: Any) -> float:
    """A strength as a float; OptionError when it is no number from 0 to 1."""
    if isinstance(value, bool) or not hasattr(value, "__float__"):
        raise OptionError(f"{name}={value!r} is not a strength; give a number from 0 to 1")
    strength = float(value)
    if not math.isfinite(strength) or not 0.0 <= strength <= 1.0:
        raise OptionError(f"{name}={value!r} is out of range; give a strength from 0 to 1")
    return strength + 0.0  # -0.0 becomes 0.0
