"""Checkpoint files read as data: nothing in them is ever executed.

A torch checkpoint is a pickle, and a pickle is a program: loading one the usual way may run any
code. Here the pickle is first measured opcode by opcode, then read by an unpickler that knows only
how tensors are described. Every other class that it names (training callbacks, configuration
objects of packages that need not be installed) becomes an inert placeholder: it can be
"constructed", filled and used as a dictionary key, and does nothing at all.

Note [What a checkpoint may hold]
* torch's zip format (since 1.6): entries stored, never compressed, so nothing can expand.
* torch's legacy format (before 1.6): five pickles and the raw storages behind them.
* safetensors, which holds no program.
* Tensors stay in the file until they are asked for: the optimiser's state, twice the size of the
  weights, is never read.

Sizes are bounded before anything is allocated: a tensor cannot be larger than its storage, a
storage not larger than the file, and the pickle not larger than `MAX_PICKLE_BYTES`.
"""

from __future__ import annotations

import dataclasses
import io
import itertools
import math
import os
import pickle
import pickletools
import struct
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch

from revisage.errors import CheckpointError

__all__ = ["Checkpoint", "ForeignObject", "StoredTensor", "read_checkpoint"]

MAX_FILE_BYTES = 16 << 30
MAX_PICKLE_BYTES = 32 << 20
MAX_ENTRIES = 200_000
MAX_FOREIGN_CLASSES = 10_000
MAX_MEMO = 4_000_000
MAX_RANK = 16

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001

_STORAGE_DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


@dataclasses.dataclass(frozen=True)
class _Storage:
    """One block of numbers inside the file, not read yet."""

    dtype: torch.dtype
    count: int
    read: Callable[[], bytes] = dataclasses.field(compare=False)

    def __setstate__(self, state: object) -> None:
        """Ignore a pickled state: only the file's index says what a storage is."""


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """A tensor that is described but not read; `load` reads it."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    load: Callable[[], torch.Tensor] = dataclasses.field(compare=False, repr=False)

    def __setstate__(self, state: object) -> None:
        """Ignore a pickled state: the description above is complete."""


class ForeignObject:
    """Stands for an object of a class that is not built: accepts everything, does nothing."""

    __slots__ = ()

    def __new__(cls, *_arguments: object, **_named: object) -> ForeignObject:
        return object.__new__(cls)

    def __init__(self, *_arguments: object, **_named: object) -> None: ...

    def __call__(self, *_arguments: object, **_named: object) -> ForeignObject:
        return ForeignObject()

    def __setstate__(self, state: object) -> None: ...

    def __setitem__(self, key: object, value: object) -> None: ...

    def append(self, item: object) -> None:
        """Take a list item, as the pickle machine asks for."""

    def extend(self, items: object) -> None:
        """Take list items."""

    def add(self, item: object) -> None:
        """Take a set item."""


class _Dictionary(dict[Any, Any]):
    """An ordered dictionary whose pickled attributes (`_metadata`) are dropped."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None: ...


class _Builder:
    """A callable that the pickle may name. Instances have no attributes that it could change."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None: ...


class _StorageKind(_Builder):
    __slots__ = ("dtype",)

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype


class _MakeDictionary(_Builder):
    __slots__ = ()

    def __call__(self, items: Any = ()) -> _Dictionary:
        return _Dictionary(items)


class _MakeTuple(_Builder):
    __slots__ = ()

    def __call__(self, items: Any = ()) -> tuple[Any, ...]:
        return tuple(items)


class _RebuildTensor(_Builder):
    __slots__ = ()

    def __call__(
        self, storage: object, offset: object, shape: object, stride: object, *_rest: object
    ) -> StoredTensor:
        return _described_tensor(storage, offset, shape, stride)


class _RebuildParameter(_Builder):
    __slots__ = ()

    def __call__(self, tensor: object, *_rest: object) -> object:
        return tensor


class _RebuildFromType(_Builder):
    __slots__ = ()

    def __call__(self, build: object, _kind: object, arguments: Any, *_rest: object) -> object:
        return build(*arguments) if isinstance(build, _Builder) and callable(build) else None


_KNOWN: dict[tuple[str, str], _Builder] = {
    ("collections", "OrderedDict"): _MakeDictionary(),
    ("torch", "Size"): _MakeTuple(),
    ("torch._utils", "_rebuild_tensor"): _RebuildTensor(),
    ("torch._utils", "_rebuild_tensor_v2"): _RebuildTensor(),
    ("torch._utils", "_rebuild_parameter"): _RebuildParameter(),
    ("torch._utils", "_rebuild_parameter_with_state"): _RebuildParameter(),
    ("torch._tensor", "_rebuild_from_type_v2"): _RebuildFromType(),
    **{("torch", name): _StorageKind(dtype) for name, dtype in _STORAGE_DTYPES.items()},
}


def _described_tensor(
    storage: object, offset: object, shape: object, stride: object
) -> StoredTensor:
    """Check the description of a tensor against its storage."""
    if not isinstance(storage, _Storage) or not isinstance(offset, int):
        raise CheckpointError("a tensor without a storage; the file is damaged")
    if not (
        isinstance(shape, tuple)
        and isinstance(stride, tuple)
        and len(shape) == len(stride) <= MAX_RANK
        and all(isinstance(n, int) and n >= 0 for n in (*shape, *stride, offset))
    ):
        raise CheckpointError("a tensor with an impossible shape; the file is damaged")
    count = math.prod(shape)
    last = offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
    if count > storage.count or (count and last >= storage.count):
        raise CheckpointError(
            f"a tensor of shape {list(shape)} is larger than its storage of {storage.count} values"
        )

    def load() -> torch.Tensor:
        raw = storage.read()
        if not raw:
            return torch.empty(shape, dtype=storage.dtype)
        values = torch.frombuffer(bytearray(raw), dtype=storage.dtype)
        return values.as_strided(shape, stride, offset).clone(memory_format=torch.contiguous_format)

    return StoredTensor(shape, storage.dtype, load)


class _TensorUnpickler(pickle.Unpickler):
    """Builds tensors' descriptions, dictionaries and plain values; all else is inert."""

    def __init__(self, file: BinaryIO, find_storage: Callable[[Any], _Storage]) -> None:
        # Text pickled by Python 2 comes as bytes in an unknown encoding; latin-1 takes all of it.
        super().__init__(file, encoding="latin-1")
        self._find_storage = find_storage
        self._foreign: dict[tuple[str, str], type[ForeignObject]] = {}

    def find_class(self, module: str, name: str) -> Any:
        known = _KNOWN.get((module, name))
        if known is not None:
            return known
        if len(self._foreign) >= MAX_FOREIGN_CLASSES:
            raise CheckpointError("it names more classes than any checkpoint does")
        # A type of its own: the pickle machine constructs with `cls.__new__`.
        inert = type("ForeignObject", (ForeignObject,), {"__slots__": ()})
        return self._foreign.setdefault((module, name), inert)

    def persistent_load(self, pid: Any) -> Any:
        return self._find_storage(pid)


def _measure_pickle(file: BinaryIO) -> bytes:
    """Walk one pickle without running it; returns its bytes and leaves the file behind it.

    The C unpickler allocates what an opcode asks for (a memo index of 2**31 costs 32 GB), so the
    opcodes are looked at first.
    """
    start = file.tell()
    for opcode, argument, position in pickletools.genops(file):
        if (position or 0) - start > MAX_PICKLE_BYTES:
            raise CheckpointError(f"its pickle is larger than {MAX_PICKLE_BYTES} bytes")
        if opcode.name in {"PUT", "BINPUT", "LONG_BINPUT"} and int(argument or 0) > MAX_MEMO:
            raise CheckpointError(f"its pickle asks for a memo of {argument} entries")
        if opcode.name.startswith("EXT") or opcode.name in {"NEXT_BUFFER", "READONLY_BUFFER"}:
            raise CheckpointError(f"its pickle uses {opcode.name}, which no checkpoint does")
    end = file.tell()
    file.seek(start)
    return file.read(end - start)


def _unpickle(file: BinaryIO, find_storage: Callable[[Any], _Storage]) -> Any:
    data = _measure_pickle(file)
    return _TensorUnpickler(io.BytesIO(data), find_storage).load()


def _storage_of(pid: Any, open_data: Callable[[str, int, int], Callable[[], bytes]]) -> _Storage:
    """Read a persistent id `("storage", kind, key, location, count, ...)`."""
    if not (
        isinstance(pid, tuple)
        and len(pid) >= 5
        and pid[0] == "storage"
        and isinstance(pid[1], _StorageKind)
        and isinstance(pid[2], str)
        and isinstance(pid[4], int)
        and pid[4] >= 0
    ):
        raise CheckpointError("it refers to a storage in an unknown way")
    kind, key, count = pid[1], pid[2], pid[4]
    return _Storage(kind.dtype, count, open_data(key, count, kind.dtype.itemsize))


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """What a file holds: nested dictionaries and lists with `StoredTensor` leaves."""

    path: Path
    content: Any
    metadata: Mapping[str, str]  # of a safetensors file; empty for the others


def read_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a checkpoint without executing anything in it. See Note [What a checkpoint may hold].

    Raises:
        CheckpointError: no such file, not a checkpoint, truncated, or absurd sizes.
    """
    place = Path(path)
    try:
        size = place.stat().st_size
        with place.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise CheckpointError(f"{place}: cannot be read ({error.strerror or error})") from error
    if size == 0:
        raise CheckpointError(f"{place}: the file is empty")
    if size > MAX_FILE_BYTES:
        raise CheckpointError(f"{place}: {size} bytes are more than a checkpoint has")
    try:
        return _read_by_format(place, head)
    except CheckpointError as error:
        raise CheckpointError(f"{place}: {error}") from error.__cause__
    except _DAMAGE as error:
        raise CheckpointError(
            f"{place}: damaged or truncated ({type(error).__name__}: {str(error)[:200]})"
        ) from error


# What the pickle machine and the zip reader raise on damage. A hostile pickle can make the machine
# meet any of these; none of them means that its code has run.
_DAMAGE = (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    EOFError,
    struct.error,
    AttributeError,
    IndexError,
    KeyError,
    MemoryError,
    NotImplementedError,
    OverflowError,
    RecursionError,
    TypeError,
    ValueError,
)


def _read_by_format(path: Path, head: bytes) -> Checkpoint:
    if head[:4] == b"PK\x03\x04":
        return Checkpoint(path, _read_zip(path), {})
    # Before the pickle: a safetensors file may begin with any byte, the length of its header.
    if head[8:9] == b"{":
        return _read_safetensors(path)
    if head[:1] == b"\x80":
        return Checkpoint(path, _read_legacy(path), {})
    raise CheckpointError("not a checkpoint: neither a torch file nor safetensors")


def _read_zip(path: Path) -> Any:
    archive = zipfile.ZipFile(path)
    entries = archive.infolist()
    if len(entries) > MAX_ENTRIES:
        raise CheckpointError(f"{len(entries)} entries are more than a checkpoint has")
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise CheckpointError("its entries are compressed, which torch never does")
    if sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise CheckpointError("its entries overlap; the file is damaged or hostile")
    names = {entry.filename: entry for entry in entries}
    roots = [n[: -len("data.pkl")] for n in names if n.endswith("data.pkl") and n.count("/") <= 1]
    if len(roots) != 1:
        raise CheckpointError("not a checkpoint: a zip file without torch's data.pkl")
    root = roots[0]
    if any(name.startswith(f"{root}code/") for name in names):
        raise CheckpointError(
            "a TorchScript program, not a checkpoint: save the module's state_dict() instead"
        )
    order = "little"
    if f"{root}byteorder" in names:
        order = archive.read(f"{root}byteorder").decode("ascii", "replace").strip()
    if order != sys.byteorder:
        raise CheckpointError(f"written on a {order}-endian machine: save it again on this kind")

    def open_data(key: str, count: int, itemsize: int) -> Callable[[], bytes]:
        name = f"{root}data/{key}"
        if name not in names:
            raise CheckpointError(f"the values of storage {key!r} are missing; it is truncated")
        if names[name].file_size != count * itemsize:
            raise CheckpointError(f"storage {key!r} has the wrong length; it is truncated")

        def read() -> bytes:
            try:
                with zipfile.ZipFile(path) as opened:
                    return opened.read(name)  # checks the CRC
            except (OSError, zipfile.BadZipFile) as error:
                raise CheckpointError(f"{path}: storage {key!r} is damaged ({error})") from error

        return read

    with archive:
        if names[f"{root}data.pkl"].file_size > MAX_PICKLE_BYTES:
            raise CheckpointError(f"its pickle is larger than {MAX_PICKLE_BYTES} bytes")
        data = io.BytesIO(archive.read(f"{root}data.pkl"))
        return _unpickle(data, lambda pid: _storage_of(pid, open_data))


def _read_legacy(path: Path) -> Any:
    """The format before torch 1.6: magic, protocol, system, object, keys, then the storages."""
    places: dict[str, tuple[int, int]] = {}  # key -> first byte and length, known at the end

    def no_storage(_pid: Any) -> _Storage:
        raise CheckpointError("a storage where none may stand")

    def open_data(key: str, count: int, itemsize: int) -> Callable[[], bytes]:
        def read() -> bytes:
            first, stored = places[key]
            if stored != count:
                raise CheckpointError(f"{path}: storage {key!r} has the wrong length")
            with path.open("rb") as opened:
                opened.seek(first)
                raw = opened.read(count * itemsize)
            if len(raw) != count * itemsize:
                raise CheckpointError(f"{path}: truncated inside storage {key!r}")
            return raw

        sizes[key] = itemsize
        return read

    sizes: dict[str, int] = {}
    with path.open("rb") as file:
        opening = [argument for _, argument, _ in itertools.islice(pickletools.genops(file), 3)]
        file.seek(0)
        if _LEGACY_MAGIC not in opening or _unpickle(file, no_storage) != _LEGACY_MAGIC:
            raise CheckpointError(
                "not a checkpoint: a pickle that torch did not write. If it holds module objects, "
                "as the published files of stylegan2-ada-pytorch do, reading it would run what is "
                "in it: load it with its own code base and torch.save(module.state_dict(), FILE)"
            )
        if _unpickle(file, no_storage) != _LEGACY_PROTOCOL:
            raise CheckpointError("a torch file of an unknown protocol")
        system = _unpickle(file, no_storage)
        if not isinstance(system, dict) or not system.get("little_endian", False):
            raise CheckpointError("written on a big-endian machine: save it again on this kind")
        content = _unpickle(file, lambda pid: _storage_of(pid, open_data))
        keys = _unpickle(file, no_storage)
        if not isinstance(keys, list) or set(map(str, keys)) != set(sizes):
            raise CheckpointError("its list of storages is damaged")
        end = path.stat().st_size
        for key in map(str, keys):
            (count,) = struct.unpack("<q", file.read(8))
            first = file.tell()
            if count < 0 or first + count * sizes[key] > end:
                raise CheckpointError(f"truncated inside storage {key!r}")
            places[key] = (first, count)
            file.seek(first + count * sizes[key])
    return content


def _read_safetensors(path: Path) -> Checkpoint:
    from safetensors import SafetensorError, safe_open

    def load(name: str) -> Callable[[], torch.Tensor]:
        def read() -> torch.Tensor:
            with safe_open(path, framework="pt") as opened:
                tensor: torch.Tensor = opened.get_tensor(name)
            return tensor

        return read

    try:
        with safe_open(path, framework="pt") as file:
            content = {}
            for name in file.keys():  # noqa: SIM118  (not a dictionary)
                view = file.get_slice(name)
                dtype = _SAFETENSORS_DTYPES.get(view.get_dtype())
                if dtype is None:
                    raise CheckpointError(f"tensor {name!r} has the dtype {view.get_dtype()}")
                content[name] = StoredTensor(tuple(view.get_shape()), dtype, load(name))
            return Checkpoint(path, content, dict(file.metadata() or {}))
    except SafetensorError as error:
        raise CheckpointError(f"damaged or truncated safetensors file ({error})") from error


_SAFETENSORS_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
