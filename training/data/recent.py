"""What was used last, kept in memory up to a number of bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Recent"]

Array = npt.NDArray[Any]


class Recent:
    """Arrays by key; those not used for the longest time go when there are too many bytes.

    Threads may share it. An array is made outside the lock, so that one that is slow to make does
    not stop the others; of two threads that make the same one, both get the one that is kept.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit  # bytes; the array used last is kept even if it is larger
        self.size = 0  # bytes
        self._arrays: OrderedDict[Hashable, Array] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._arrays)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._arrays

    def get(self, key: Hashable, make: Callable[[], Array]) -> Array:
        """The array of a key, made if it is not kept; read-only."""
        with self._lock:
            if key in self._arrays:
                self._arrays.move_to_end(key)
                return self._arrays[key]
        made = np.asarray(make())
        made.setflags(write=False)
        with self._lock:
            if key in self._arrays:
                return self._arrays[key]
            self._arrays[key] = made
            self.size += made.nbytes
            while self.size > self.limit and len(self._arrays) > 1:
                _, oldest = self._arrays.popitem(last=False)
                self.size -= oldest.nbytes
        return made
