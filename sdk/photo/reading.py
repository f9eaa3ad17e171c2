"""Read a picture file without losing depth, profile or metadata, and without trusting it.

Note [16 bits through Pillow]
    Pillow decodes 16-bit RGB to its 8-bit modes by keeping one byte of each sample: the first of
    a pair for the raw mode ";16B" (big endian), the second for ";16L". Decoding twice, once under
    each name, gives both bytes, losslessly and at the speed of its C decoders (pypng takes seven
    times as long). A test compares with pypng and tifffile.
"""

from __future__ import annotations

import contextlib
import io
import os
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from revisage.errors import MediaError
from revisage.photo.metadata import apply_orientation, upright_exif, upright_xmp
from revisage.photo.photo import MAX_PIXELS, MAX_SIDE, Photo
from revisage.pixels import Pixels

__all__ = ["check_size", "read_photo"]

_MAX_FILE_BYTES = 4 << 30
_EXIF_PREFIX = b"Exif\x00\x00"
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Chunks that say something about the picture as a whole and stay true after a retouch.
_PNG_KEPT = (b"cHRM", b"gAMA", b"sRGB", b"cICP", b"mDCV", b"cLLI", b"pHYs", b"tEXt", b"zTXt")
_MODES = ("L", "LA", "RGB", "RGBA", "I;16")


def read_photo(path: str | os.PathLike[str]) -> Photo:
    """Read a JPEG, PNG, TIFF, WebP or AVIF file.

    Depth (8, 16 bit, half, float), gray and alpha stay as they are; palettes become RGB or RGBA;
    the EXIF orientation is applied, once. Of a TIFF with several pictures, an animation or a CMYK
    file nothing is guessed: they are refused with the reason.

    Raises:
        MediaError: missing, empty, truncated, not a picture, of a kind that would lose something,
            or larger than 300 megapixels or 65535 pixels a side.
    """
    path = Path(path)
    data = _read_bytes(path)
    kind = _kind(path, data)
    with _one_sentence(path):
        if kind == "TIFF":
            from revisage.photo.tiff import read_tiff

            photo = read_tiff(path, data)
        else:
            photo = _read_with_pillow(path, data, kind)
    return _upright(photo)


def _read_bytes(path: Path) -> bytes:
    try:
        if path.is_dir():
            raise MediaError(f"{path}: is a folder, not a photo")
        size = path.stat().st_size
        if size == 0:
            raise MediaError(f"{path}: the file is empty")
        if size > _MAX_FILE_BYTES:
            raise MediaError(f"{path}: {size >> 20} MiB is larger than any photo")
        return path.read_bytes()
    except FileNotFoundError:
        raise MediaError(f"{path}: no such file") from None
    except MediaError:
        raise
    except OSError as error:
        raise MediaError(f"{path}: cannot be read ({error.strerror})") from error


def _kind(path: Path, data: bytes) -> str:
    if data[:3] == b"\xff\xd8\xff":
        return "JPEG"
    if data[:8] == _PNG_SIGNATURE:
        return "PNG"
    if data[:4] in (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+"):
        return "TIFF"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[4:12] in (b"ftypavif", b"ftypavis"):
        return "AVIF"
    if data[4:8] == b"ftyp" and data[8:12] in (b"heic", b"heix", b"mif1", b"hevc", b"msf1"):
        raise MediaError(f"{path}: HEIF cannot be read here; convert it to JPEG, PNG or TIFF")
    raise MediaError(f"{path}: not a photo that Revisage reads (JPEG, PNG, TIFF, WebP, AVIF)")


@contextlib.contextmanager
def _one_sentence(path: Path) -> Iterator[None]:
    """Whatever a decoder throws at a damaged file becomes one MediaError."""
    try:
        yield
    except MediaError:
        raise
    except MemoryError:
        raise MediaError(f"{path}: does not fit into memory") from None
    except Exception as error:  # decoders raise anything: SyntaxError, struct.error, KeyError, ...
        detail = str(error).strip().splitlines() or [type(error).__name__]
        raise MediaError(f"{path}: damaged or truncated ({detail[0]})") from error


def check_size(path: Path, width: int, height: int) -> None:
    """Refuse sizes that no photo has, before memory is taken for them."""
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE and width * height <= MAX_PIXELS):
        raise MediaError(
            f"{path}: claims {width} x {height} pixels; Revisage reads up to "
            f"{MAX_PIXELS // 1_000_000} megapixels and {MAX_SIDE} a side"
        )


def _open(data: bytes, kind: str) -> Any:
    """Open with the plugin of one format.

    Not `Image.open`: that probes every format, and its limit of pixels is a global setting, which
    a library must not change for its host. `check_size` is ours.
    """
    from PIL import AvifImagePlugin, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

    plugins: dict[str, Any] = {
        "JPEG": JpegImagePlugin.JpegImageFile,
        "PNG": PngImagePlugin.PngImageFile,
        "WEBP": WebPImagePlugin.WebPImageFile,
        "AVIF": AvifImagePlugin.AvifImageFile,
    }
    return plugins[kind](io.BytesIO(data))


def _read_with_pillow(path: Path, data: bytes, kind: str) -> Photo:
    details: dict[str, Any] = {}
    if kind == "AVIF" and _avif_is_deep(data):
        raise MediaError(
            f"{path}: this AVIF has more than 8 bits, which Pillow would cut; convert it to a "
            "16-bit PNG or TIFF"
        )
    if kind == "PNG":
        details["chunks"] = _png_chunks(path, data)
    with _open(data, kind) as image:
        check_size(path, image.width, image.height)
        if getattr(image, "n_frames", 1) > 1:
            raise MediaError(f"{path}: is an animation, not a photo")
        if image.mode in ("CMYK", "YCCK"):
            raise MediaError(
                f"{path}: has CMYK colours, which a retouch cannot keep; convert it to RGB with "
                "its colour profile first"
            )
        if kind == "JPEG":
            from PIL import JpegImagePlugin

            details.update(
                qtables=[list(image.quantization[key]) for key in sorted(image.quantization)],
                subsampling=max(0, JpegImagePlugin.get_sampling(image)),  # -1: unusual, take 4:4:4
                progressive=bool(image.info.get("progressive")),
                comment=image.info.get("comment"),
                markers=[bytes(body) for name, body in image.applist if name == "APP13"],
            )
        if kind == "WEBP":
            details["lossless"] = b"VP8L" in _riff_chunks(data)
        pixels = _pixels(path, data, kind, image)
        info = image.info  # read last: PNG text after the pixels comes with them
        exif, xmp = info.get("exif"), info.get("xmp")
        return Photo(
            pixels=pixels,
            format=kind,
            icc=info.get("icc_profile") or None,
            exif=exif.removeprefix(_EXIF_PREFIX) if exif else None,
            xmp=(xmp.encode() if isinstance(xmp, str) else xmp) or None,
            details=details,
        )


def _pixels(path: Path, data: bytes, kind: str, image: Any) -> Pixels:
    if kind == "PNG" and data[24] == 16:
        return _png_16_bit(data, image)
    see_through = "transparency" in image.info
    if image.mode == "1":
        image = image.convert("L")
    elif image.mode in ("P", "PA", "RGB", "L") and (see_through or image.mode in ("P", "PA")):
        image = image.convert("RGBA" if see_through or image.mode == "PA" else "RGB")
    if image.mode not in _MODES:
        raise MediaError(f"{path}: colours of kind {image.mode} are not understood; convert to RGB")
    return np.asarray(image)


def _png_16_bit(data: bytes, image: Any) -> Pixels:
    if "transparency" not in image.info:
        colour_type = data[25]
        if colour_type == 0:
            return np.asarray(image).astype(np.uint16)
        if colour_type in (2, 6):
            return join_bytes(*(_decode_as(data, image.mode, end) for end in "BL"))
    # Gray with alpha, or a transparent colour: rare, so the slow decoder will do.
    import png

    width, height, rows, info = png.Reader(bytes=data).asDirect()
    samples = np.vstack([np.asarray(row, dtype=np.uint16) for row in rows])
    return samples.reshape(height, width, info["planes"])


def _decode_as(data: bytes, mode: str, byte_order: str) -> npt.NDArray[np.uint8]:
    with _open(data, "PNG") as image:
        raw = f"{mode};16{byte_order}"
        image.tile = [tile._replace(args=raw) for tile in image.tile]
        return np.asarray(image)


def join_bytes(high: npt.NDArray[np.uint8], low: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint16]:
    """Samples from their high and low bytes (Note [16 bits through Pillow])."""
    pairs = np.empty((*high.shape, 2), dtype=np.uint8)
    pairs[..., 0], pairs[..., 1] = (low, high) if sys.byteorder == "little" else (high, low)
    return pairs.view(np.uint16)[..., 0]


def _png_chunks(path: Path, data: bytes) -> list[tuple[bytes, bytes]]:
    """The chunks to keep, in order; a PNG without its end is truncated."""
    kept: list[tuple[bytes, bytes]] = []
    position, ended = len(_PNG_SIGNATURE), False
    while position + 12 <= len(data):
        length, name = struct.unpack_from(">L4s", data, position)
        body = data[position + 8 : position + 8 + length]
        if name in _PNG_KEPT or (name == b"iTXt" and not body.startswith(b"XML:com.adobe.xmp")):
            kept.append((name, body))
        position += 12 + length
        if name == b"IEND":
            ended = True
            break
    if not ended:
        raise MediaError(f"{path}: damaged or truncated (the PNG has no end)")
    return kept


def _riff_chunks(data: bytes) -> list[bytes]:
    names, position = [], 12
    while position + 8 <= len(data):
        name, length = struct.unpack_from("<4sL", data, position)
        names.append(name)
        position += 8 + length + length % 2
    return names


def _avif_is_deep(data: bytes) -> bool:
    """Whether the AV1 configuration of the picture says 10 or 12 bits."""
    at = data.find(b"av1C", 0, 1 << 16)
    return at >= 0 and len(data) > at + 6 and bool(data[at + 6] & 0x40)


def _upright(photo: Photo) -> Photo:
    """Apply the orientation that EXIF states (else XMP), and say so in both."""
    import dataclasses

    orientation, exif, xmp = 1, photo.exif, photo.xmp
    if xmp:
        orientation, xmp = upright_xmp(xmp)
    if exif:
        stated, exif = upright_exif(exif)
        orientation = stated if stated != 1 else orientation
    orientation = int(photo.details.get("orientation", orientation))
    pixels = apply_orientation(photo.pixels, orientation)
    return dataclasses.replace(photo, pixels=pixels, exif=exif, xmp=xmp)
