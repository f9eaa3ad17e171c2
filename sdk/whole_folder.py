"""Folders that appear whole or not at all: written beside their place, then renamed."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from revisage.errors import OutputError, RevisageError

__all__ = ["refuse_existing", "whole_folder"]


def refuse_existing(place: Path, *, force: bool, verb: str) -> None:
    """OutputError where something is there that must not be replaced; `verb` is of the remedy."""
    if place.exists() and not force:
        raise OutputError(f"{place} exists already: remove it, or {verb} with --force")


@contextlib.contextmanager
def whole_folder(place: Path, *, force: bool, verb: str) -> Iterator[Path]:
    """A folder to write into, which becomes `place` when the block ends well.

    What the block raises leaves `place` as it was, and nothing beside it.

    Args:
        force: replace what is there; it comes back if the new one cannot take its place.
        verb: of the command that writes: "export".

    Raises:
        OutputError: it exists and `force` is not set, or it cannot be written.
    """
    refuse_existing(place, force=force, verb=verb)
    with contextlib.ExitStack() as cleaning:
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            written = Path(tempfile.mkdtemp(prefix=f".{place.name}-", dir=place.parent))
            cleaning.callback(shutil.rmtree, written, ignore_errors=True)
            yield written
            written.chmod(0o755)  # mkdtemp makes it private
            _rename(written, place)
        except RevisageError:
            raise
        except OSError as error:
            raise OutputError(f"{place}: cannot be written ({error.strerror})") from error


def _rename(written: Path, place: Path) -> None:
    """An old folder steps aside first and comes back if that fails."""
    if not place.exists():
        written.rename(place)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{place.name}-old-", dir=place.parent))
    place.rename(aside / place.name)
    try:
        written.rename(place)
    except OSError:
        (aside / place.name).rename(place)
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
