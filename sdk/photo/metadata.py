"""EXIF and XMP: find the orientation, and say that it has been applied."""

from __future__ import annotations

import re
import struct
from typing import Any

import numpy as np

from revisage.pixels import Pixels

__all__ = ["apply_orientation", "upright_exif", "upright_xmp"]

_ORIENTATION = 0x0112
_SHORT, _LONG = 3, 4
_XMP_ORIENTATION = re.compile(rb"""(tiff:Orientation(?:\s*=\s*["']|>))([1-8])(?=["'<])""")


def upright_exif(exif: bytes) -> tuple[int, bytes]:
    """The orientation an EXIF block states, and the block with orientation 1 and no thumbnail.

    The block is patched in place and every other byte kept, so that maker notes, whose offsets
    only their camera knows, stay readable. The thumbnail would show the photo before the retouch,
    perhaps lying on its side. A block that cannot be understood is kept as it is.

    Args:
        exif: a TIFF stream, without the "Exif" prefix of JPEG.

    Returns:
        Orientation 1 to 8 (1 where none is stated), block.
    """
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None or len(exif) < 14:
        return 1, exif
    block = bytearray(exif)
    orientation = 1
    try:
        magic, start = struct.unpack_from(order + "HL", block, 2)
        if magic != 42:
            return 1, exif
        (count,) = struct.unpack_from(order + "H", block, start)
        for index in range(count):
            entry = start + 2 + 12 * index
            tag, kind, length = struct.unpack_from(order + "HHL", block, entry)
            if tag == _ORIENTATION and length == 1 and kind in (_SHORT, _LONG):
                code = "H" if kind == _SHORT else "L"
                (stated,) = struct.unpack_from(order + code, block, entry + 8)
                orientation = stated if 1 <= stated <= 8 else 1
                struct.pack_into(order + code, block, entry + 8, 1)
        struct.pack_into(order + "L", block, start + 2 + 12 * count, 0)  # no second directory
    except struct.error:  # points beyond its end
        return orientation, exif
    return orientation, bytes(block)


def upright_xmp(xmp: bytes) -> tuple[int, bytes]:
    """The orientation an XMP packet states (1 where none), and the packet with orientation 1."""
    found = _XMP_ORIENTATION.search(xmp)
    if found is None:
        return 1, xmp
    return int(found[2]), _XMP_ORIENTATION.sub(rb"\g<1>1", xmp)


def apply_orientation(pixels: Pixels, orientation: int) -> Pixels:
    """Turn and mirror pixels as EXIF orientation 1 to 8 asks."""
    turned: Any = pixels
    if orientation in (5, 6, 7, 8):
        turned = np.swapaxes(turned, 0, 1)
    if orientation in (3, 4, 7, 8):
        turned = turned[::-1]
    if orientation in (2, 3, 6, 7):
        turned = turned[:, ::-1]
    return np.ascontiguousarray(turned)
