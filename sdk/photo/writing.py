"""Write a photo in its own format, with its depth and metadata, whole or not at all.

Note [What a file format changes]
    The result in memory is exact: samples outside the mask equal the input bit for bit. PNG, TIFF
    and lossless WebP keep that. JPEG, WebP and AVIF encode anew, which moves samples everywhere by
    a little; JPEG does so with the tables and subsampling of the photo it came from.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from revisage.errors import OutputError
from revisage.photo.output import Staging
from revisage.photo.photo import FORMATS, MAX_SIDE, Photo
from revisage.photo.tiff import tiff_chunks
from revisage.pixels import Pixels, colour_channels

__all__ = ["encode_photo", "format_for", "photo_pieces", "write_photo"]

_EXIF_PREFIX = b"Exif\x00\x00"
_MAX_SIDES = {"JPEG": 65_535, "WEBP": 16_383, "AVIF": 65_535, "PNG": MAX_SIDE, "TIFF": MAX_SIDE}
_PNG_STRIP = 256  # rows compressed at a time


def format_for(path: str | Path) -> str:
    """The format that a file name asks for: a key of `FORMATS`.

    Raises:
        OutputError: an ending that Revisage does not write.
    """
    ending = Path(path).suffix.lower()
    for name, endings in FORMATS.items():
        if ending in endings:
            return name
    known = ", ".join(ending for endings in FORMATS.values() for ending in endings)
    raise OutputError(f"{path}: unknown ending {ending!r}; use one of {known}")


def write_photo(photo: Photo, path: str | Path, *, force: bool = False) -> None:
    """Write a photo in the format that its name asks for; Note [What a file format changes].

    Args:
        force: replace a file that exists.

    Raises:
        OutputError: it exists already, cannot be written, or the format cannot hold the photo's
            depth or alpha.
    """
    with Staging(force=force) as staging:
        staging.write(path, photo_pieces(photo, path))


def encode_photo(photo: Photo, path: str | Path) -> bytes:
    """The bytes of a photo file in the format that `path` asks for; nothing is written.

    Raises:
        OutputError: the format cannot hold the photo's depth, alpha or size.
    """
    return b"".join(photo_pieces(photo, path))


def photo_pieces(photo: Photo, path: str | Path) -> Iterator[bytes]:
    """`encode_photo` in pieces, so that a large PNG or TIFF is never in memory as a whole.

    Raises:
        OutputError: as `encode_photo`, before the first piece.
    """
    kind = format_for(path)
    _check_fits(photo, kind, path)
    if kind == "TIFF":
        return tiff_chunks(photo)
    if kind == "PNG":
        return _png(photo)
    stream = io.BytesIO()
    try:
        _image(photo.pixels, kind).save(stream, format=kind, **_settings(photo, kind))
    except (OSError, ValueError) as error:  # metadata too long for the format, mostly
        raise OutputError(f"{path}: cannot be encoded as {kind} ({error})") from error
    return iter([stream.getvalue()])


def _check_fits(photo: Photo, kind: str, path: str | Path) -> None:
    pixels = photo.pixels
    depth = pixels.dtype.name
    fits = {"TIFF": ("uint8", "uint16", "float16", "float32"), "PNG": ("uint8", "uint16")}
    if depth not in fits.get(kind, ("uint8",)):
        better = "TIFF (.tif)" if depth.startswith("float") else "PNG or TIFF (.png, .tif)"
        raise OutputError(f"{path}: {kind} would lose the photo's {depth} depth; use {better}")
    if kind == "JPEG" and pixels.ndim == 3 and pixels.shape[2] in (2, 4):
        raise OutputError(
            f"{path}: JPEG would lose the photo's alpha; use PNG or TIFF (.png, .tif)"
        )
    if max(pixels.shape[:2]) > _MAX_SIDES[kind]:
        raise OutputError(f"{path}: {kind} holds at most {_MAX_SIDES[kind]} pixels a side")


def _image(pixels: Pixels, kind: str) -> Any:
    from PIL import Image

    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    image = Image.fromarray(pixels)
    if kind in ("WEBP", "AVIF"):  # which have no gray
        return image.convert({"L": "RGB", "LA": "RGBA"}.get(image.mode, image.mode))
    return image


def _settings(photo: Photo, kind: str) -> dict[str, Any]:
    """Arguments of Pillow's `save` that keep the file what it was."""
    details = photo.details if photo.format == kind else {}
    settings: dict[str, Any] = {}
    if photo.icc:
        settings["icc_profile"] = photo.icc
    if photo.exif:
        settings["exif"] = _EXIF_PREFIX + photo.exif
    if photo.xmp:
        settings["xmp"] = photo.xmp
    if kind == "JPEG":
        tables = details.get("qtables")
        if tables and len(tables) >= min(2, colour_channels(photo.pixels)):
            settings.update(qtables=tables, subsampling=details["subsampling"])
            settings["progressive"] = details["progressive"]
        else:
            settings.update(quality=95, subsampling=0)
        if details.get("comment"):
            settings["comment"] = details["comment"]
        settings["extra"] = b"".join(
            b"\xff\xed" + struct.pack(">H", len(body) + 2) + body
            for body in details.get("markers", ())
        )
    elif kind == "WEBP":
        settings.update(lossless=bool(details.get("lossless")), exact=True, quality=95)
    elif kind == "AVIF":
        settings.update(quality=95, subsampling="4:4:4")
    return settings


def _png_kept(photo: Photo) -> list[tuple[bytes, bytes]]:
    chunks = list(photo.details.get("chunks", ())) if photo.format == "PNG" else []
    if photo.icc:  # a profile and these exclude each other
        chunks = [chunk for chunk in chunks if chunk[0] not in (b"sRGB", b"gAMA", b"cHRM")]
    return chunks


def _xmp_chunk(photo: Photo) -> list[tuple[bytes, bytes]]:
    if not photo.xmp:
        return []
    return [(b"iTXt", b"XML:com.adobe.xmp\x00\x00\x00\x00\x00" + photo.xmp)]


def _png(photo: Photo) -> Iterator[bytes]:
    """A PNG, piece by piece; Pillow writes no 16-bit colour and drops some chunks."""
    pixels = photo.pixels
    height, width = pixels.shape[:2]
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    bits = pixels.dtype.itemsize * 8
    colour_type = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    yield b"\x89PNG\r\n\x1a\n"
    yield _chunk(b"IHDR", struct.pack(">LLBBBBB", width, height, bits, colour_type, 0, 0, 0))
    if photo.icc:
        yield _chunk(b"iCCP", b"ICC Profile\x00\x00" + zlib.compress(photo.icc))
    if photo.exif:
        yield _chunk(b"eXIf", photo.exif)
    for name, body in [*_png_kept(photo), *_xmp_chunk(photo)]:
        yield _chunk(name, body)
    rows = pixels.reshape(height, width * channels)
    for body in _deflated_rows(rows, channels * bits // 8):
        yield _chunk(b"IDAT", body)
    yield _chunk(b"IEND", b"")


def _chunk(name: bytes, body: bytes) -> bytes:
    checksum = zlib.crc32(body, zlib.crc32(name))
    return struct.pack(">L", len(body)) + name + body + struct.pack(">L", checksum)


def _deflated_rows(rows: Pixels, pixel_bytes: int) -> Iterable[bytes]:
    """Rows filtered with Sub (1) or Up (2), whichever leaves smaller differences, and deflated."""
    deflate = zlib.compressobj(6)
    above = np.zeros((1, rows.shape[1] * rows.dtype.itemsize), dtype=np.uint8)
    for top in range(0, rows.shape[0], _PNG_STRIP):
        strip = rows[top : top + _PNG_STRIP]
        strip = np.ascontiguousarray(strip.astype(strip.dtype.newbyteorder(">"), copy=False))
        raw = strip.view(np.uint8).reshape(strip.shape[0], -1)
        sub = raw.copy()
        sub[:, pixel_bytes:] -= raw[:, :-pixel_bytes]
        up = raw - np.concatenate([above, raw[:-1]])
        above = raw[-1:]
        # The usual heuristic: the filter whose bytes, taken as signed, have the smaller sum.
        sums = [np.abs(f.view(np.int8).astype(np.int16)).sum(axis=1) for f in (sub, up)]
        take_up = sums[1] < sums[0]
        filtered = np.empty((raw.shape[0], raw.shape[1] + 1), dtype=np.uint8)
        filtered[:, 0] = np.where(take_up, 2, 1)
        filtered[:, 1:] = np.where(take_up[:, None], up, sub)
        piece = deflate.compress(filtered.tobytes())
        if piece:
            yield piece
    yield deflate.flush()
