"""Photos from and to files: JPEG, PNG, TIFF, WebP and AVIF, with their depth and metadata."""

from __future__ import annotations

from revisage.photo.photo import FORMATS, MAX_PIXELS, MAX_SIDE, Photo
from revisage.photo.reading import read_photo
from revisage.photo.writing import encode_photo, format_for, write_photo

__all__ = [
    "FORMATS",
    "MAX_PIXELS",
    "MAX_SIDE",
    "Photo",
    "encode_photo",
    "format_for",
    "read_photo",
    "write_photo",
]
