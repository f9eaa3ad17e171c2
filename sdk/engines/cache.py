"""Built engines, kept on disk: verified on every load, and built once however many ask.

Note [What an engine is built for]
    An `EngineKey` says everything that an engine depends on. A key that differs in its driver or in
    a version names another file, so that machines with several drivers may share a folder; the
    engine that an update made useless ages until it is the least recently used one.

    An engine of TensorRT for RTX holds no machine code for one driver: that is compiled when the
    engine is loaded. Its key states `ANY_DRIVER`, so an engine that was built ahead, on a machine
    without a GPU, is the one that the card finds later. Engines of TensorRT state the driver that
    timed their kernels, and can only be built where they run. The machine code that TensorRT for
    RTX compiled is a file beside its engine, under the key of `EngineKey.kernels`.

Note [One file per engine]
    A magic line, the length of the header (4 bytes, little endian), the header in JSON (key, size
    and sha256 of the payload, words about it), the payload. A file appears under its name by a
    rename, when it is whole and on the disk. An engine is code: what another user could have
    written is not loaded.

Note [Builders that die]
    Who builds holds a lock of the operating system, which a killed process loses. It leaves a file
    that ends in `.part`, which the next builder of that engine removes.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import hashlib
import io
import json
import logging
import os
import re
import stat
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

from revisage import env
from revisage.bundle import Bundle
from revisage.errors import BuildCancelledError

__all__ = [
    "ANY_DRIVER",
    "Cancel",
    "EngineCache",
    "EngineKey",
    "Entry",
    "Progress",
    "Watch",
    "current_watch",
    "watched",
]

ANY_DRIVER = "any"  # see Note [What an engine is built for]

MAGIC = b"revisage engine 1\n"
SUFFIX = ".revisage-engine"
LOCKS = "locks"  # folder of empty files, one for each engine that was ever built
MAX_HEADER_BYTES = 1 << 20
MAX_ENGINE_BYTES = 4 << 30
DAY = 86400.0  # seconds; no build of ours takes as long

T = TypeVar("T")

_log = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]  # phase, steps done, steps in all (0: not known)


class Cancel(Protocol):
    """Whether the caller changed its mind; a `threading.Event` is one."""

    def is_set(self) -> bool:
        """Whether to stop."""


@dataclasses.dataclass(frozen=True)
class Watch:
    """Who hears of a build, and may stop it."""

    progress: Progress | None = None
    cancel: Cancel | None = None


_watch: contextvars.ContextVar[Watch | None] = contextvars.ContextVar("watch", default=None)


def current_watch() -> Watch:
    """That of the innermost `watched` around the caller; silent and never stopping without one."""
    return _watch.get() or Watch()


@contextlib.contextmanager
def watched(progress: Progress | None = None, cancel: Cancel | None = None) -> Iterator[None]:
    """Watch every build that is begun or waited for inside the block, in this thread.

    Whoever opens an engine need not know that this takes a build, nor hand these arguments on.
    """
    token = _watch.set(Watch(progress, cancel))
    try:
        yield
    finally:
        _watch.reset(token)


@dataclasses.dataclass(frozen=True)
class EngineKey:
    """Everything that an engine depends on, as text; see Note [What an engine is built for]."""

    model_digest: str  # sha256 of the graph at this precision
    shapes: str  # `Profile.text`: smallest, usual and largest shape of every input
    precision: str
    engine: str  # "tensorrt-rtx"
    engine_version: str
    compute_capability: str  # "8.9"
    driver: str  # of the GPU, or ANY_DRIVER
    version: str  # of Revisage

    @classmethod
    def of(
        cls,
        bundle: Bundle,
        shapes: str,
        *,
        precision: str,
        engine: str,
        engine_version: str,
        compute_capability: str,
        driver: str,
    ) -> EngineKey:
        """The key of a bundle's graph at a precision, for this version of Revisage."""
        from revisage import __version__

        return cls(
            model_digest=bundle.graph_digest(precision),
            shapes=shapes,
            precision=precision,
            engine=engine,
            engine_version=engine_version,
            compute_capability=compute_capability,
            driver=driver,
            version=__version__,
        )

    def kernels(self, driver: str) -> EngineKey:
        """The key of what was compiled for this engine as it ran, under a driver."""
        return dataclasses.replace(self, engine=f"{self.engine}-kernels", driver=driver)

    @property
    def file_name(self) -> str:
        """Name of the engine's file: readable, and different for every other key."""
        return f"{self.stem}-{_digest(dataclasses.astuple(self))}{SUFFIX}"

    @property
    def stem(self) -> str:
        """What file names of the same engine for all drivers and versions begin with."""
        lasting = (self.model_digest, self.shapes, self.precision, self.engine)
        words = "-".join((self.engine, self.precision, f"sm{self.compute_capability}"))
        return f"{re.sub('[^a-z0-9-]', '', words)}-{_digest((*lasting, self.compute_capability))}"

    def differences(self, other: EngineKey) -> str:
        """Where another key differs, in words: "driver 570.1, not 580.2"."""
        return ", ".join(
            f"{field.name.replace('_', ' ')} {getattr(other, field.name)}, "
            f"not {getattr(self, field.name)}"
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != getattr(other, field.name)
        )


@dataclasses.dataclass(frozen=True)
class Entry:
    """One file of the cache, as its header describes it; the payload is not verified."""

    path: Path
    bytes: int  # of the file
    used: float  # when it was last loaded or written, seconds since 1970
    key: EngineKey | None  # None: the header is damaged, or the file cut short
    about: Mapping[str, str]  # words of who built it: model, seconds, layers


class _Unusable(Exception):  # noqa: N818  (an answer, not an error that leaves this file)
    """Why an entry is not loaded."""


class EngineCache:
    """A folder of built engines.

    Args:
        folder: default: `REVISAGE_CACHE`, else the user's cache folder. It is made when something
            is written, for this user alone.
        limit: bytes that the folder may hold; when it grows beyond, the engines that were not used
            for longest go. None takes `REVISAGE_CACHE_GIGABYTES`.
    """

    def __init__(
        self, folder: str | os.PathLike[str] | None = None, *, limit: int | None = None
    ) -> None:
        self.folder = Path(folder) if folder is not None else env.cache_folder()
        self.limit = env.cache_bytes() if limit is None else limit

    def path(self, key: EngineKey) -> Path:
        """Where the engine of a key is kept."""
        return self.folder / key.file_name

    def load(self, key: EngineKey) -> bytes | None:
        """The engine of a key, verified; None where there is none that can be used.

        A damaged or foreign file under its name is removed, with a warning of the logger
        `revisage.engines.cache` that says what was wrong.
        """
        path = self.path(key)
        try:
            content = _read(path, key)
        except FileNotFoundError:
            return None
        except OSError as error:
            _log.warning("%s: cannot be read (%s)", path, error.strerror or error)
            return None
        except _Unusable as reason:
            self.discard(key, str(reason))
            return None
        with contextlib.suppress(OSError):  # a folder that cannot be written serves too
            os.utime(path)
        return content

    def get_or_build(
        self,
        key: EngineKey,
        build: Callable[[], bytes],
        *,
        about: Mapping[str, str] | Callable[[], Mapping[str, str]] | None = None,
    ) -> bytes:
        """The engine of a key: from the cache, else built and kept.

        Of several processes and threads that ask at once one builds and the others wait, where the
        current watch hears ("waiting for another build", seconds so far, 0) and may stop them.
        Where the folder cannot be written the engine is built and given back all the same, with a
        warning.

        Args:
            build: makes the engine; what it raises is passed on, and nothing is kept.
            about: words for `revisage cache list` ({"model": "wrinkle_filler"}), or a function that
                gives them after the build.

        Raises:
            BuildCancelledError: the watch stopped the waiting.
        """
        content = self.load(key)
        if content is not None:
            return content
        self._explain_stale(key)
        path = self.path(key)
        with self._building(path) as writable:
            content = self.load(key) if writable else None
            if content is None:
                content = build()
                if writable:
                    words = about() if callable(about) else about
                    self._store(path, key, content, words or {})
        return content

    def store(
        self, key: EngineKey, content: bytes, *, about: Mapping[str, str] | None = None
    ) -> None:
        """Keep what an engine gathered as it ran; replaces what was kept under the key.

        A folder that this user may not write is left as it is: engines may be shipped in one.
        """
        if not self.folder.exists() or os.access(self.folder, os.W_OK):
            with self._building(path := self.path(key)) as writable:
                if writable:
                    self._store(path, key, content, about or {})

    def discard(self, key: EngineKey, reason: str) -> None:
        """Remove what is kept under a key, if anything, with a warning."""
        path = self.path(key)
        if path.exists():
            with contextlib.suppress(OSError):
                path.unlink()
            _log.warning("%s: %s; it is not used and will be made again", path, reason)

    def load_with_files(
        self, key: EngineKey, load: Callable[[Path], T], *, about: Mapping[str, str] | None = None
    ) -> T:
        """Load an engine with a library that reads and writes its own files.

        Args:
            load: is given a private folder with the files of the engine, and loads it from there; a
                folder that is empty means that it has to be built. What the folder holds
                afterwards is kept under the key. The folder goes when `load` is done.
            about: as for `get_or_build`, whose rules hold here too.
        """
        built: list[T] = []
        with tempfile.TemporaryDirectory(prefix="revisage-engine-") as name:
            folder, watch = Path(name), current_watch()

            def build() -> bytes:
                if watch.progress is not None:
                    watch.progress("building", 0, 0)
                built.append(load(folder))
                return _packed(folder)

            content = self.get_or_build(key, build, about=about)
            if built:
                return built[0]
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                archive.extractall(folder)
            return load(folder)

    def entries(self) -> list[Entry]:
        """Every engine in the folder, the least recently used first."""
        found = []
        for path in self._files(f"*{SUFFIX}"):
            with contextlib.suppress(FileNotFoundError):  # another process removed it
                found.append(_describe(path))
        return sorted(found, key=lambda entry: entry.used)

    def clear(self) -> tuple[int, int]:
        """Remove every engine; gives how many there were, and their bytes."""
        entries = self.entries()
        for entry in entries:
            entry.path.unlink(missing_ok=True)
        self._sweep(older_than=DAY)
        return len(entries), sum(entry.bytes for entry in entries)

    # --- building --------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _building(self, path: Path) -> Iterator[bool]:
        """Hold the lock of an entry; gives whether the folder can be written."""
        from filelock import FileLock, Timeout

        watch = current_watch()
        lock = FileLock(self.folder / LOCKS / path.name)
        start = time.monotonic()
        writable = True
        while not lock.is_locked and writable:
            if watch.cancel is not None and watch.cancel.is_set():
                raise BuildCancelledError(f"{path.name}: cancelled while another was building it")
            try:
                self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                (self.folder / LOCKS).mkdir(mode=0o700, exist_ok=True)
                lock.acquire(timeout=0)
            except Timeout:
                if watch.progress is not None:
                    watch.progress("waiting for another build", int(time.monotonic() - start), 0)
                time.sleep(0.1)
            except OSError as error:
                writable = False
                self._warn_not_kept(error)
        try:
            yield writable
        finally:
            lock.release()

    def _store(self, path: Path, key: EngineKey, content: bytes, about: Mapping[str, str]) -> None:
        """Write an entry whose lock is held; a full disk is a warning."""
        header = {
            "key": dataclasses.asdict(key),
            "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
            "about": dict(about),
        }
        text = json.dumps(header, indent=1).encode()
        part = ""
        try:
            self._sweep(f".{path.name}.", older_than=0.0)
            handle, part = tempfile.mkstemp(".part", f".{path.name}.", self.folder)
            with os.fdopen(handle, "wb") as file:
                file.write(MAGIC + len(text).to_bytes(4, "little") + text)
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            Path(part).chmod(0o644)  # a private folder keeps it private; one to ship is for others
            Path(part).replace(path)
            self._evict(path)
        except OSError as error:
            self._warn_not_kept(error)
        finally:
            if part:
                Path(part).unlink(missing_ok=True)

    def _warn_not_kept(self, error: OSError) -> None:
        _log.warning(
            "%s: cannot be written (%s): the engine runs, and is built again next time; "
            "make room there, or set REVISAGE_CACHE to another folder",
            self.folder,
            error.strerror or error,
        )

    def _explain_stale(self, key: EngineKey) -> None:
        """Say why an engine is built again that was built before."""
        for path in self._files(f"{key.stem}-*{SUFFIX}"):
            with contextlib.suppress(FileNotFoundError):
                found = _describe(path).key
                if found is not None and found != key:
                    _log.warning("%s: is for %s: built again", path.name, key.differences(found))
                    return

    # --- keeping house ---------------------------------------------------------------------------

    def _files(self, pattern: str) -> list[Path]:
        """Files of the folder; none where it is missing or not ours to read."""
        try:
            return sorted(self.folder.glob(pattern))
        except OSError:
            return []

    def _evict(self, newest: Path) -> None:
        """Remove the least recently used entries beyond the limit, but never the newest."""
        entries = self.entries()
        total = sum(entry.bytes for entry in entries)
        for entry in entries:
            if total <= self.limit:
                break
            if entry.path != newest:
                entry.path.unlink(missing_ok=True)
                total -= entry.bytes
        self._sweep(older_than=DAY)

    def _sweep(self, prefix: str = ".", *, older_than: float) -> None:
        """Remove what killed builders left; see Note [Builders that die]."""
        for path in self._files(f"{prefix}*.part"):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime >= older_than:
                    path.unlink()


def _digest(texts: tuple[str, ...]) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


def _packed(folder: Path) -> bytes:
    """Every file of a folder in one archive; the weights in them do not compress."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, path.relative_to(folder))
    return content.getvalue()


def _read(path: Path, key: EngineKey) -> bytes:
    """The payload of an entry; raises _Unusable, or OSError."""
    with path.open("rb") as file:
        _check_trust(os.fstat(file.fileno()))
        found, _, size, digest = _read_header(file)
        if found != key:
            raise _Unusable(f"the file is for {key.differences(found)}")
        content = file.read(size + 1)
    if len(content) != size:
        had = "more" if len(content) > size else f"{len(content)}"
        raise _Unusable(f"the file is damaged: {had} of {size} bytes are there")
    if hashlib.sha256(content).hexdigest() != digest:
        raise _Unusable("the file is damaged: its sha256 is not the stated one")
    return content


def _read_header(file: Any) -> tuple[EngineKey, dict[str, str], int, str]:
    """Key, words, size and sha256 of the payload; leaves `file` at the payload."""
    if file.read(len(MAGIC)) != MAGIC:
        raise _Unusable("the file is no engine of Revisage, or of another version")
    length = int.from_bytes(file.read(4), "little")
    text = file.read(min(length, MAX_HEADER_BYTES))
    try:
        header = json.loads(text)
        key = EngineKey(**{name: str(value) for name, value in header["key"].items()})
        about = {str(name): str(value) for name, value in header["about"].items()}
        size, digest = header["bytes"], header["sha256"]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise _Unusable("the file is damaged: its header cannot be read") from None
    if not (type(size) is int and 0 < size <= MAX_ENGINE_BYTES):
        raise _Unusable("the file is damaged: its header states an impossible size")
    return key, about, size, digest


def _check_trust(status: os.stat_result) -> None:
    """An engine is code: only this user and the administrator may have written it."""
    if not stat.S_ISREG(status.st_mode):
        raise _Unusable("it is no regular file")
    if os.name == "posix":
        if status.st_uid not in (0, os.getuid()):
            raise _Unusable("the file belongs to another user, and an engine is code")
        if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise _Unusable("other users may write the file, and an engine is code (chmod go-w)")


def _describe(path: Path) -> Entry:
    status = path.stat()
    key, about = None, dict[str, str]()
    with contextlib.suppress(OSError, _Unusable), path.open("rb") as file:
        found, about, size, _ = _read_header(file)
        key = found if file.tell() + size == status.st_size else None
    return Entry(path, status.st_size, status.st_mtime, key, about)
