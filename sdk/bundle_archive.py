"""A bundle as one file: a ZIP archive whose members are stored as they are.

Members are not compressed, on purpose: weights hardly shrink, the same bundle gives the same bytes
on every machine, and an archive can hold no more than its own size. What is read back is exactly
what `pack` writes, so everything with which archives have been abused is refused before a member is
read: compression, encryption, folders, links and devices, names that lead elsewhere or come twice,
members that overlap or leave gaps, more members than a bundle has, and sizes that contradict one
another.
"""

from __future__ import annotations

import os
import stat
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from revisage.errors import BundleError, OutputError
from revisage.manifest import is_plain_file_name
from revisage.whole_folder import refuse_existing, whole_folder

if TYPE_CHECKING:
    from revisage.bundle import Bundle

__all__ = ["member_names", "pack", "read_member", "unpack"]

MAX_MEMBERS = 32
MAX_DIRECTORY_BYTES = 1 << 13
MAX_ARCHIVE_BYTES = (1 << 32) - 1  # what the format counts without its 64-bit extension

# Of the ZIP format, APPNOTE 6.3: the fixed parts of a member's header and of the archive's end.
_HEADER_BYTES = 30
_END = struct.Struct("<4s4H2LH")
_END_SIGNATURE, _END64_LOCATOR_SIGNATURE, _END64_LOCATOR_BYTES = b"PK\x05\x06", b"PK\x06\x07", 20
_UTF8_NAME = 0x800  # a flag of a member


def member_names(archive: Path) -> tuple[str, ...]:
    """Names of the files in an archive.

    Raises:
        BundleError: it is no archive of a bundle.
    """
    with _opened(archive) as opened:
        return tuple(opened.namelist())


def read_member(archive: Path, name: str, limit: int) -> bytes:
    """All bytes of one file of at most `limit` bytes.

    Raises:
        BundleError: it is no archive of a bundle, or has no such file, or a larger one.
    """
    with _opened(archive) as opened:
        if name not in opened.namelist():
            raise BundleError(f"{archive / name}: missing; the bundle is incomplete")
        if opened.getinfo(name).file_size > limit:
            raise BundleError(
                f"{archive / name}: larger than {limit} bytes, which no bundle of ours is"
            )
        return opened.read(name)


def pack(bundle: Bundle, out: str | os.PathLike[str], *, force: bool = False) -> Path:
    """Write a bundle as one file; the same bundle gives the same bytes.

    Raises:
        OutputError: the file exists and `force` is not set, or it cannot be written.
        BundleError: the bundle was damaged since it was opened.
    """
    place = Path(out)
    refuse_existing(place, force=force, verb="pack")
    partial = place.with_name(f".{place.name}.{os.getpid()}.partial")
    try:
        with zipfile.ZipFile(partial, "x", zipfile.ZIP_STORED) as archive:
            for name, content in bundle.files():
                info = zipfile.ZipInfo(name)  # its date is the format's first, whatever the clock
                info.create_system = 3  # Unix, which the mode below is of
                info.external_attr = (stat.S_IFREG | 0o644) << 16
                archive.writestr(info, content)
        partial.replace(place)
    except OSError as error:
        raise OutputError(f"{place}: cannot be written ({error.strerror})") from error
    finally:
        partial.unlink(missing_ok=True)
    return place


def unpack(bundle: Bundle, folder: str | os.PathLike[str], *, force: bool = False) -> Path:
    """Write a bundle as the folder `folder/<name>`, whole or not at all.

    Raises:
        OutputError: the folder exists and `force` is not set, or it cannot be written.
        BundleError: the bundle was damaged since it was opened.
    """
    place = Path(folder) / bundle.name
    with whole_folder(place, force=force, verb="unpack") as written:
        for name, content in bundle.files():
            (written / name).write_bytes(content)
    return place


class _LayoutError(Exception):
    """Why an archive is not one that `pack` writes."""


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """The archive, its directory checked; what goes wrong while it is read is a BundleError."""
    try:
        if not path.is_file():  # a pipe would hang, a device never end
            raise _LayoutError("no regular file")
        with path.open("rb") as file:
            directory = _check_end(file)
            with zipfile.ZipFile(file) as archive:
                _check_members(archive.infolist(), directory)
                yield archive
    except BundleError:
        raise
    except _LayoutError as error:
        raise BundleError(
            f"{path}: not an archive of a bundle ({error}); make one with `revisage models pack`"
        ) from None
    except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError, RuntimeError) as error:
        raise BundleError(
            f"{path}: a damaged archive ({error}); get the file again, or pack the bundle again"
        ) from None
    except OSError as error:
        raise BundleError(f"{path}: cannot be read ({error.strerror or error})") from error


def _check_end(file: BinaryIO) -> int:
    """Check the last record, which says how much `zipfile` will read; where the directory starts.

    `zipfile` reads the whole directory before one can look at it.
    """
    size = file.seek(0, os.SEEK_END)
    if not _END.size <= size <= MAX_ARCHIVE_BYTES:
        raise _LayoutError(f"it has {size} bytes")
    file.seek(max(0, size - _END.size - _END64_LOCATOR_BYTES))
    tail = file.read()
    signature, disk, first, here, members, length, start, comment = _END.unpack(tail[-_END.size :])
    if signature != _END_SIGNATURE or comment:
        raise _LayoutError("it does not end as one")
    if tail[:4] == _END64_LOCATOR_SIGNATURE and len(tail) > _END.size:
        raise _LayoutError("it uses the 64-bit extension")
    if disk or first or here != members or not 1 <= members <= MAX_MEMBERS:
        raise _LayoutError(f"it has {members} members, a bundle at most {MAX_MEMBERS}")
    if length > MAX_DIRECTORY_BYTES or start + length + _END.size != size:
        raise _LayoutError("its directory is not where it says")
    return int(start)


def _check_members(members: list[zipfile.ZipInfo], directory: int) -> None:
    """Plain stored files, one behind the other from the first byte to the directory."""
    at = 0
    names: set[str] = set()
    for info in members:
        name = info.filename
        shown = repr(info.orig_filename[:80])
        kind = stat.S_IFMT(info.external_attr >> 16)
        if not is_plain_file_name(name) or info.orig_filename != name:
            raise _LayoutError(f"{shown} is not a plain file name")
        if name.lower() in names:
            raise _LayoutError(f"{shown} stands in it twice")
        names.add(name.lower())
        if kind not in {0, stat.S_IFREG}:
            raise _LayoutError(f"{shown} is a link or a device")
        if info.flag_bits & ~_UTF8_NAME:
            raise _LayoutError(f"{shown} is encrypted, or its size is not stated")
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise _LayoutError(f"{shown} is compressed")
        if info.header_offset != at:
            raise _LayoutError(f"{shown} overlaps another member, or leaves a gap")
        at += _HEADER_BYTES + len(name.encode()) + info.file_size
    if at != directory:
        raise _LayoutError("its members do not fill it")
