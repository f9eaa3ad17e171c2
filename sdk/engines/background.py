"""Building in the background: one engine serves while the one that is wanted is being built."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from revisage.engines.cache import watched

__all__ = ["Background", "Serving"]

T = TypeVar("T")

_log = logging.getLogger(__name__)


class Serving(Generic[T]):
    """What serves, opened already."""

    def __init__(self, opened: T) -> None:
        self._wanted: T | None = opened

    @property
    def now(self) -> T:
        """What serves now."""
        assert self._wanted is not None
        return self._wanted

    @property
    def waiting(self) -> str:
        """Why a stand-by serves; "" where what was wanted does."""
        return ""

    def stop(self) -> None:
        """Stop a build that is under way, without waiting for its end."""

    def close(self) -> list[T]:
        """All that was opened, for the caller to let go of."""
        return [self.now]


class Background(Serving[T]):
    """What serves: what is wanted, or a stand-by as long as that takes a build.

    The wanted one is opened in a thread. Where this takes no build, nothing else is opened and the
    constructor waits for it; what it raises is raised here, so that a build is bridged and nothing
    that cannot run at all. As soon as a build begins the stand-by is opened. It serves until the
    build is done and the engine has passed its probe. A build that fails is reported once (by the
    logger `revisage.engines.background`), stands in `waiting`, and is not repeated.

    Args:
        name: of what is wanted, for messages.
        open_wanted: opens it; its builds are watched (`revisage.engines.cache.watched`).
        open_standby: opens what serves in the meantime.
    """

    def __init__(
        self, name: str, open_wanted: Callable[[], T], open_standby: Callable[[], T]
    ) -> None:
        self._name = name
        self._open_wanted = open_wanted
        self._cancel = threading.Event()
        self._known = threading.Event()  # whether it takes a build
        self._phase = ""  # of the build
        self._wanted = None
        self._standby: T | None = None
        self._error: BaseException | None = None
        # A daemon: a program that ends does not wait for an engine that nobody will use.
        self._thread = threading.Thread(target=self._open, name=f"opening {name}", daemon=True)
        self._thread.start()
        self._known.wait()
        if self._phase:
            try:
                self._standby = open_standby()
            except BaseException:
                self.stop()
                raise
        elif self._error is not None:
            raise self._error

    def _open(self) -> None:
        try:
            with watched(self._progress, self._cancel):
                self._wanted = self._open_wanted()
        except BaseException as error:  # raised by the constructor, or reported
            self._error = error
            if self._phase and not self._cancel.is_set():
                _log.warning("%s", self.waiting)
        finally:
            self._known.set()

    def _progress(self, phase: str, done: int, total: int) -> None:
        self._phase = f"{phase}, {done} of {total}" if total else phase
        self._known.set()

    @property
    def now(self) -> T:
        """What serves now; once it is the wanted one, it stays that."""
        standby = self._standby  # read first: another thread may drop it below
        if self._wanted is not None:
            # Who still uses the stand-by holds it; with the last of them it goes.
            self._standby = None
            return self._wanted
        assert standby is not None
        return standby

    @property
    def waiting(self) -> str:
        """Why the stand-by serves; "" where the wanted one does."""
        if self._wanted is not None:
            return ""
        if self._error is not None:
            return f"{self._name} could not be built and will not be tried again: {self._error}"
        return f"{self._name} is being built ({self._phase})"

    def stop(self) -> None:
        """Stop a build that is under way, without waiting for its end."""
        self._cancel.set()

    def close(self) -> list[T]:
        """Stop a build, wait for its end, and give all that was opened."""
        self.stop()
        self._thread.join()
        return [opened for opened in (self._wanted, self._standby) if opened is not None]
