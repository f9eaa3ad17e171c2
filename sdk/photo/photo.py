"""`Photo`: the samples of a picture file and what the file says about them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from revisage.pixels import Pixels

__all__ = ["FORMATS", "MAX_PIXELS", "MAX_SIDE", "Photo"]

MAX_PIXELS = 300_000_000  # beyond any camera; what a hostile file of a few bytes may claim
MAX_SIDE = 65_535  # the most that JPEG can say

# Format -> endings of file names; the first is the usual one.
FORMATS: dict[str, tuple[str, ...]] = {
    "JPEG": (".jpg", ".jpeg"),
    "PNG": (".png",),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
    "AVIF": (".avif",),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Photo:
    """A picture, upright: the EXIF orientation has been applied to the pixels and set to 1."""

    pixels: Pixels  # Note [Photos] in revisage.pixels
    format: str = ""  # key of FORMATS; "" where it came from no file
    icc: bytes | None = None  # colour profile
    exif: bytes | None = None  # TIFF stream, without the "Exif\0\0" of JPEG
    xmp: bytes | None = None  # RDF packet
    details: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # of its format, below

    # details of JPEG: "qtables" (list), "subsampling" (Pillow's 0..2), "progressive", "comment",
    #     "markers" (APP13, with IPTC); PNG: "chunks" [(kind, data)]; WEBP: "lossless";
    #     TIFF: "compressed", "extra_sample" (1: alpha is premultiplied, 2: it is not).

    def with_pixels(self, pixels: Pixels) -> Photo:
        """The same file with other samples."""
        return dataclasses.replace(self, pixels=pixels)

    def __repr__(self) -> str:
        kept = [name for name in ("icc", "exif", "xmp") if getattr(self, name)]
        return f"Photo({list(self.pixels.shape)} {self.pixels.dtype}, {self.format}, {kept})"
