"""JSON from strangers: every value has the type and the size that was expected, or is refused.

A reader takes a value and where it stands (for the message), and gives it checked. Errors are
`BundleError`s that name the field. This module is a leaf: standard library and `revisage.errors`
only.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from revisage.errors import BundleError

__all__ = [
    "MAX_TEXT_BYTES",
    "Fields",
    "Reader",
    "dump",
    "load",
    "mapping_of",
    "read_integer",
    "read_number",
    "read_plain_number",
    "read_text",
    "tuple_of",
]

# Such files are written by hand-sized numbers; anything beyond these is damage or an attack.
MAX_TEXT_BYTES = 4 << 20
MAX_STRING = 4096
MAX_ITEMS = 1024  # of any list or mapping

# A list of numbers in indented JSON, to be written on one line. Strings hold no raw line break, and
# a list of strings is left as it is.
_FLAT_LIST = re.compile(r"\[\n[^\[\]{}\"]*\]")

Reader = Callable[[Any, str], Any]


class Fields:
    """The keys of one JSON object, each taken once; what is left over is an error."""

    def __init__(self, value: Any, where: str) -> None:
        self.where = where
        self.left = dict(read_object(value, where))

    def take(self, key: str, read: Reader) -> Any:
        """The value of a key that has to be there."""
        if key not in self.left:
            raise BundleError(f"{self.where}: the field {key!r} is missing")
        return read(self.left.pop(key), f"{self.where}: {key}")

    def finish(self) -> None:
        """Refuse what was not taken."""
        if self.left:
            unknown = ", ".join(repr(key[:40]) for key in sorted(self.left)[:4])
            raise BundleError(
                f"{self.where}: unknown field {unknown}; "
                "it was written by another version of Revisage"
            )


def load(text: str | bytes, where: str) -> Any:
    """The value of a JSON text without doubled keys, infinities or NaNs."""
    if len(text) > MAX_TEXT_BYTES:
        raise BundleError(f"{where}: {len(text)} bytes are too many (limit {MAX_TEXT_BYTES})")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise BundleError(f"{where}: a key stands twice in one object")
        return found

    def refuse(constant: str) -> float:
        raise BundleError(f"{where}: {constant} is not a number that may stand here")

    try:
        return json.loads(text, object_pairs_hook=unique, parse_constant=refuse)
    except BundleError:
        raise
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise BundleError(f"{where}: not readable as JSON ({error}); the file is damaged") from None


def dump(value: Any) -> str:
    """A dataclass as text: sorted keys, two spaces, lists of numbers on one line."""

    def plain(item: Any) -> Any:
        if dataclasses.is_dataclass(item):
            return {f.name: plain(getattr(item, f.name)) for f in dataclasses.fields(item)}
        if isinstance(item, Mapping):
            return {key: plain(content) for key, content in item.items()}
        if isinstance(item, (tuple, list)):
            return [plain(content) for content in item]
        return item

    text = json.dumps(plain(value), indent=2, sort_keys=True, allow_nan=False)
    return _FLAT_LIST.sub(lambda found: " ".join(found[0].split()), text) + "\n"


def read_object(value: Any, where: str) -> dict[str, Any]:
    """A mapping of at most `MAX_ITEMS` keys."""
    if not isinstance(value, dict) or len(value) > MAX_ITEMS:
        raise BundleError(f"{where}: expected an object of at most {MAX_ITEMS} keys")
    return value


def read_text(value: Any, where: str) -> str:
    """A string of at most `MAX_STRING` characters."""
    if not isinstance(value, str) or len(value) > MAX_STRING:
        raise BundleError(f"{where}: expected a string of at most {MAX_STRING} characters")
    return value


def read_integer(value: Any, where: str) -> int:
    """An integer of at most 64 bits."""
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) >= 1 << 63:
        raise BundleError(f"{where}: expected an integer, got {str(value)[:40]!r}")
    return value


def read_number(value: Any, where: str) -> float:
    """A finite number, as a float."""
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or not math.isfinite(float(value) if abs(value) < 1e300 else math.inf)
    ):
        raise BundleError(f"{where}: expected a number, got {str(value)[:40]!r}")
    return float(value)


def tuple_of(read: Reader) -> Reader:
    """A reader of lists."""

    def read_all(value: Any, where: str) -> tuple[Any, ...]:
        if not isinstance(value, list) or len(value) > MAX_ITEMS:
            raise BundleError(f"{where}: expected a list of at most {MAX_ITEMS} items")
        return tuple(read(item, f"{where}[{index}]") for index, item in enumerate(value))

    return read_all


def mapping_of(read: Reader) -> Reader:
    """A reader of objects with any keys."""

    def read_all(value: Any, where: str) -> dict[str, Any]:
        return {
            read_text(key, where): read(item, f"{where}.{key}")
            for key, item in read_object(value, where).items()
        }

    return read_all


def read_plain_number(value: Any, where: str) -> int | float:
    """A number that keeps its type: a stride stays an integer."""
    return (
        value
        if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 63
        else read_number(value, where)
    )
