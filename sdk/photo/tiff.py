"""TIFF in and out: 8, 16 bit, half and float, gray and RGB, with or without alpha.

tifffile reads what its own decoders can; files that need libtiff (LZW, JPEG inside TIFF) go through
Pillow, 16-bit ones in two passes (Note [16 bits through Pillow] in `reading.py`). Writing is ours,
on Pillow's directory writer, because tifffile cannot write an EXIF directory.
"""

from __future__ import annotations

import io
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from revisage.errors import MediaError
from revisage.photo.photo import Photo
from revisage.pixels import Pixels

__all__ = ["read_tiff", "tiff_chunks"]

_EXIF_IFD, _GPS_IFD, _INTEROPERABILITY = 34665, 34853, 40965
_XMP, _ICC, _ORIENTATION, _EXTRA_SAMPLES = 700, 34675, 274, 338
# Tags that describe how the samples are stored: never copied from one file to another.
_STRUCTURE = frozenset(
    {254, 255, 256, 257, 258, 259, 262, 263, 264, 265, 266, 273, 277, 278, 279, 280, 281, 284}
    | {288, 289, 290, 291, 301, 317, 318, 319, 320, 322, 323, 324, 325, 330, 332, 333, 334, 336}
    | {337, 339, 340, 341, 347, *range(512, 522), 529, 530, 531, 532, 50706, 50740}
    | {_ORIENTATION, _EXTRA_SAMPLES, _XMP, _ICC, _EXIF_IFD, _GPS_IFD}
)
_DTYPES = ("uint8", "uint16", "float16", "float32")
_GRAY, _RGB, _PALETTE = 1, 2, 3
_PHOTOMETRIC = {0: "white-is-zero gray", 4: "a mask", 5: "CMYK", 8: "Lab", 9: "Lab", 10: "Lab"}
_DEFLATE, _UNCOMPRESSED = 8, 1
_STRIP_BYTES = 1 << 20


def read_tiff(path: Path, data: bytes) -> Photo:
    """The picture of a TIFF file, with orientation still to be applied ("orientation" in details).

    Raises:
        MediaError: several pictures, CMYK and other colours, unusual depths, damage.
    """
    import tifffile

    from revisage.photo.reading import check_size

    with tifffile.TiffFile(io.BytesIO(data)) as tiff:
        page: Any = tiff.pages[0]
        for other in list(tiff.pages)[1:3]:
            if not getattr(other, "is_reduced", False):
                raise MediaError(f"{path}: holds several pictures; save the one you want alone")
        width, height = int(page.imagewidth), int(page.imagelength)
        check_size(path, width, height)
        kind = int(page.photometric)
        if kind in _PHOTOMETRIC:
            raise MediaError(
                f"{path}: has colours of kind {_PHOTOMETRIC[kind]}, which a retouch cannot keep; "
                "convert it to RGB first"
            )
        if any(
            start + count > len(data)
            for start, count in zip(page.dataoffsets, page.databytecounts, strict=True)
        ):
            raise MediaError(f"{path}: damaged or truncated (the TIFF ends before its picture)")
        pixels = _pixels(path, data, page)
        tags = page.tags
        extra = tags[_EXTRA_SAMPLES].value if _EXTRA_SAMPLES in tags else ()
        extra = extra if isinstance(extra, tuple) else (extra,)
        return Photo(
            pixels=pixels,
            format="TIFF",
            icc=_bytes_of(tags, _ICC),
            exif=_exif_of(data),
            xmp=_bytes_of(tags, _XMP),
            details={
                "orientation": _orientation_of(tags),
                "compressed": int(page.compression) != _UNCOMPRESSED,
                "extra_sample": int(extra[0]) if extra else 2,
            },
        )


def _orientation_of(tags: Any) -> int:
    value = tags[_ORIENTATION].value if _ORIENTATION in tags else 1
    return int(value) if isinstance(value, int) and 1 <= value <= 8 else 1


def _bytes_of(tags: Any, code: int) -> bytes | None:
    value = tags[code].value if code in tags else b""
    return (value.encode() if isinstance(value, str) else bytes(value)) or None


def _pixels(path: Path, data: bytes, page: Any) -> Pixels:
    name = np.dtype(page.dtype).name if page.dtype is not None else "unknown"
    samples = int(page.samplesperpixel)
    direct = int(page.photometric) in (_GRAY, _RGB)
    if direct and (name not in _DTYPES or int(page.bitspersample) not in (8, 16, 32)):
        if int(page.bitspersample) == 1:
            return _through_pillow(path, data, page)
        raise MediaError(
            f"{path}: samples of {page.bitspersample} bits ({name}) are not understood; save it "
            "with 8 or 16 bits, or as 32-bit float"
        )
    if not direct or samples > 4:
        return _through_pillow(path, data, page)
    try:
        array = page.asarray()
    except ValueError as error:
        if "imagecodecs" not in str(error):
            raise
        return _through_pillow(path, data, page)
    if int(page.planarconfig) == 2 and array.ndim == 3:
        array = np.moveaxis(array, 0, 2)
    shape = (page.imagelength, page.imagewidth, *((samples,) if samples > 1 else ()))
    return np.ascontiguousarray(array.reshape(shape)).astype(page.dtype, copy=False)


def _through_pillow(path: Path, data: bytes, page: Any) -> Pixels:
    """Decode with libtiff: compressions that tifffile alone does not know, palettes, YCbCr."""
    from PIL import TiffImagePlugin

    from revisage.photo.reading import join_bytes

    deep = int(page.bitspersample) > 8
    image: Any = TiffImagePlugin.TiffImageFile(io.BytesIO(data))
    with image:
        if image.mode in ("1", "P"):
            return np.asarray(image.convert("L" if image.mode == "1" else "RGB"))
        if not deep and image.mode in ("L", "LA", "RGB", "RGBA"):
            return np.asarray(image)
        if image.mode in ("I;16", "I;16B"):
            return np.asarray(image).astype(np.uint16)
        mode = image.mode
        raw = image.tile[0].args[0] if image.tile else ""
        if not (deep and mode in ("RGB", "RGBA") and raw == f"{mode};16N"):
            raise MediaError(
                f"{path}: this kind of TIFF ({page.compression.name}, {page.dtype}) cannot be read "
                "here; save it uncompressed or with Deflate (ZIP)"
            )
    halves = {}
    for order in "BL":
        again: Any = TiffImagePlugin.TiffImageFile(io.BytesIO(data))
        with again:
            again.tile = [
                tile._replace(args=(f"{mode};16{order}", *tile.args[1:])) for tile in again.tile
            ]
            halves[order] = np.asarray(again)
    # libtiff hands over samples in the machine's order.
    high, low = ("L", "B") if sys.byteorder == "little" else ("B", "L")
    return join_bytes(halves[high], halves[low])


def _exif_of(data: bytes) -> bytes | None:
    """EXIF (and camera, author, date tags) of a TIFF as a block for any format."""
    from PIL import Image

    if data[2:4] not in (b"\x2a\x00", b"\x00\x2a"):  # BigTIFF has wider offsets
        return None
    exif = Image.Exif()
    exif.load(data)
    for code in (_EXIF_IFD, _GPS_IFD):
        exif.get_ifd(code).pop(_INTEROPERABILITY, None)
    for code in list(exif):
        if code in _STRUCTURE and code not in (_EXIF_IFD, _GPS_IFD):
            del exif[code]
    return exif.tobytes().removeprefix(b"Exif\x00\x00") if len(exif) else None


def tiff_chunks(photo: Photo) -> Iterator[bytes]:
    """A little-endian TIFF file, piece by piece: the directory first, then strips of about 1 MiB.

    Deflate with the horizontal predictor, or no compression where the photo came from an
    uncompressed TIFF.
    """
    from PIL import Image, TiffImagePlugin

    pixels = photo.pixels
    height, width = pixels.shape[:2]
    samples = pixels.shape[2] if pixels.ndim == 3 else 1
    bits, whole = pixels.dtype.itemsize * 8, pixels.dtype.kind == "u"
    compressed = bool(photo.details.get("compressed", True))
    rows = max(1, min(height, _STRIP_BYTES // max(1, width * samples * bits // 8)))
    tops = range(0, height, rows)
    if compressed:  # their lengths stand in the directory, before them
        strips = [_strip(pixels[top : top + rows], True) for top in tops]
        lengths = [len(strip) for strip in strips]
    else:
        lengths = [pixels[top : top + rows].nbytes for top in tops]

    ifd: Any = TiffImagePlugin.ImageFileDirectory_v2()
    if photo.exif:
        exif = Image.Exif()
        exif.load(b"Exif\x00\x00" + photo.exif)
        for code, value in exif.items():
            if code not in _STRUCTURE:
                ifd[code] = value
        for code in (_EXIF_IFD, _GPS_IFD):
            inner = dict(exif.get_ifd(code))
            inner.pop(_INTEROPERABILITY, None)
            if inner:
                ifd[code] = inner
    for code, blob in ((_XMP, photo.xmp), (_ICC, photo.icc)):
        if blob:
            ifd.tagtype[code] = 1 if code == _XMP else 7  # BYTE, UNDEFINED
            ifd[code] = blob
    ifd[256], ifd[257] = width, height
    ifd[258] = (bits,) * samples
    ifd[259] = _DEFLATE if compressed else _UNCOMPRESSED
    ifd[262] = _RGB if samples >= 3 else _GRAY
    ifd[277], ifd[278], ifd[284] = samples, rows, 1
    if compressed and whole:
        ifd[317] = 2
    if samples in (2, 4):
        ifd[_EXTRA_SAMPLES] = int(photo.details.get("extra_sample", 2))
    ifd[339] = ((1 if whole else 3),) * samples
    for code, values in (
        (273, np.cumsum([0, *lengths[:-1]]).tolist()),  # the writer adds its own length
        (279, lengths),
    ):
        ifd.tagtype[code] = 4  # LONG, whatever the values before they are moved
        ifd[code] = tuple(values)
    stream = io.BytesIO()
    ifd.save(stream)
    yield stream.getvalue()
    yield from strips if compressed else (_strip(pixels[t : t + rows], False) for t in tops)


def _strip(rows: Pixels, compressed: bool) -> bytes:
    little = rows.astype(rows.dtype.newbyteorder("<"), copy=False)
    if not compressed:
        return little.tobytes()
    if little.dtype.kind == "u":  # predictor 2: differences to the pixel on the left, modulo
        little = little.copy()
        little[:, 1:] -= rows[:, :-1]
    return zlib.compress(little.tobytes(), 6)
