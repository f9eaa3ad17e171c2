"""Batches made ahead in one background thread (synthesis releases the GIL in numba and OpenCV)."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterator
from typing import Generic, TypeVar

__all__ = ["Prefetched"]

Item = TypeVar("Item")


class Prefetched(Generic[Item]):
    """An iterator whose next items are made in a thread, in order.

    An exception in the thread is raised here, where its item would have come. `close` (or leaving
    the `with` block) ends the thread and waits for it.

    Args:
        items: endless or not.
        depth: how many may wait; 0 makes none ahead and starts no thread.
    """

    def __init__(self, items: Iterator[Item], depth: int) -> None:
        self._items = items
        self._stop = threading.Event()
        self._ready: queue.Queue[Item | _End] = queue.Queue(max(1, depth))
        self._thread: threading.Thread | None = None
        if depth > 0:
            self._thread = threading.Thread(target=self._produce, name="batches", daemon=True)
            self._thread.start()

    def _produce(self) -> None:
        end = _End(StopIteration())
        try:
            for item in self._items:
                if not self._put(item):
                    return
        except BaseException as error:
            end = _End(error)
        self._put(end)

    def _put(self, item: Item | _End) -> bool:
        """False where nobody waits any more."""
        while not self._stop.is_set():
            with contextlib.suppress(queue.Full):
                self._ready.put(item, timeout=0.05)
                return True
        return False

    def __iter__(self) -> Iterator[Item]:
        return self

    def __next__(self) -> Item:
        if self._thread is None:
            return next(self._items)
        item = self._ready.get()
        if isinstance(item, _End):
            self._ready.put(item)  # whoever asks again gets the same answer
            raise item.error
        return item

    def close(self) -> None:
        """End the thread; the item that it is making is finished first."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def __enter__(self) -> Prefetched[Item]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _End:
    """What ended the items."""

    def __init__(self, error: BaseException) -> None:
        self.error = error
