"""Commands whose code needs an optional part of the installation."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from revisage.errors import MissingExtraError

__all__ = ["from_extra"]


@contextlib.contextmanager
def from_extra(extra: str, needed_for: str) -> Iterator[None]:
    """Imports inside the block; a package that is missing is one line that names the extra.

    A module of ours that is missing is a broken installation, and shows as it is.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("revisage"):
            raise
        raise MissingExtraError(extra, needed_for) from error
