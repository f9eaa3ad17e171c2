"""Files appear whole or not at all: written beside their place, then renamed."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

from revisage.errors import OutputError

__all__ = ["Staging", "check_output"]


def check_output(path: str | Path, *, force: bool) -> None:
    """Refuse a place that will not take a file, before any work is done for it.

    Raises:
        OutputError: a file is there already and `force` is not set, a folder is in the way, or the
            nearest folder above is not writable.
    """
    path = Path(path)
    if path.is_dir():
        raise OutputError(f"{path}: is a folder; name a file")
    if path.exists() and not force:
        raise OutputError(f"{path}: exists already; use --force (force=True) to replace it")
    above = path.parent
    while not above.exists():
        above = above.parent
    if not above.is_dir():
        raise OutputError(f"{path}: {above} is not a folder")
    if not os.access(above, os.W_OK | os.X_OK):
        raise OutputError(f"{path}: the folder {above} is not writable")


class Staging:
    """Several files that are written together: all of them appear at the end, or none.

    A context manager. Files are written under hidden names in their own folder and renamed when
    the block ends; after an exception nothing is left, folders made on the way included.

    Args:
        force: replace files that exist; else they are an OutputError.
    """

    def __init__(self, *, force: bool = False) -> None:
        self.force = force
        self._staged: dict[Path, Path] = {}  # final -> temporary
        self._folders: list[Path] = []  # made here, outermost first

    def path(self, final: str | Path) -> Path:
        """A new, empty, hidden file with the ending of `final`, which it will become.

        Raises:
            OutputError: `final` cannot be written, or was staged before.
        """
        final = Path(final)
        if final in self._staged:
            raise OutputError(f"{final}: two results would have this name; name one of them apart")
        check_output(final, force=self.force)
        self._make_folder(final.parent)
        temporary = final.with_name(f".{final.stem}.{secrets.token_hex(6)}.part{final.suffix}")
        try:
            # Not mkstemp: its files are private, these get the user's own permissions.
            os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        except OSError as error:
            raise OutputError(f"{final}: cannot be written ({error.strerror})") from error
        self._staged[final] = temporary
        return temporary

    def write(self, final: str | Path, content: bytes | Iterable[bytes]) -> None:
        """Stage a file with this content, or these pieces of it; errors as for `path`."""
        temporary = self.path(final)
        try:
            with temporary.open("wb") as file:
                for piece in (content,) if isinstance(content, bytes) else content:
                    file.write(piece)
        except OSError as error:  # the disk is full
            raise OutputError(f"{final}: cannot be written ({error.strerror})") from error

    def commit(self) -> None:
        """Rename every staged file to its final name; called when the block ends well."""
        done: list[Path] = []
        try:
            for final, temporary in self._staged.items():
                self._rename(temporary, final)
                done.append(final)
        except OSError as error:
            for final in () if self.force else done:
                final.unlink(missing_ok=True)
            reason = error.strerror or str(error)
            raise OutputError(f"{final}: cannot be written ({reason})") from error
        self._staged.clear()
        self._folders.clear()

    def _rename(self, temporary: Path, final: Path) -> None:
        if not self.force:
            # A link fails where the name was taken meanwhile; a rename would replace it silently.
            with contextlib.suppress(PermissionError, NotImplementedError):
                try:
                    os.link(temporary, final)
                except OSError as error:
                    if isinstance(error, FileExistsError):
                        raise
                else:
                    temporary.unlink()
                    return
            if final.exists():
                raise FileExistsError(f"{final} exists already")
        os.replace(temporary, final)

    def discard(self) -> None:
        """Remove everything staged; called when the block ends with an exception."""
        for temporary in self._staged.values():
            temporary.unlink(missing_ok=True)
        for folder in reversed(self._folders):
            with contextlib.suppress(OSError):  # somebody else put something there
                folder.rmdir()
        self._staged.clear()
        self._folders.clear()

    def _make_folder(self, folder: Path) -> None:
        missing = []
        while not folder.exists():
            missing.append(folder)
            folder = folder.parent
        for path in reversed(missing):
            try:
                path.mkdir()
            except FileExistsError:
                continue  # another process made it just now
            except OSError as error:
                raise OutputError(f"{path}: cannot be made ({error.strerror})") from error
            self._folders.append(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self.commit()
        finally:
            self.discard()
