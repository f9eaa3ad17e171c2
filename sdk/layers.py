"""Edits as files that an artist can open: delta and mask in 16-bit TIFF, placement in JSON.

For an edit named `wrinkles_face1` a folder holds

| file | content |
| --- | --- |
| `wrinkles_face1.json` | operation, strength, matrix, face: everything that is not a picture |
| `wrinkles_face1_delta.tif` | 16-bit RGB; 32768 is no change, +-32767 the full range |
| `wrinkles_face1_mask.tif` | 16-bit gray; 65535 is the full edit |
| `wrinkles_face1_delta.png`, `..._mask.png` | 8-bit previews, delta four times stronger |

Reading the folder gives the edits back exactly (Note [16-bit edits] in `revisage.edit`), so
re-applying them to the same photo gives the same bytes.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from revisage.edit import Edit, delta_codes, delta_from_codes, mask_codes, mask_from_codes
from revisage.errors import MediaError, RevisageError
from revisage.photo.output import Staging

__all__ = ["SCHEMA", "layer_paths", "read_layers", "stage_layers", "write_layers"]

SCHEMA = 1
_MAX_SIDECAR_BYTES = 1 << 20
_MAX_SIDE = 4096  # of a square, pixels
_PREVIEW_GAIN = 4.0
_ENDINGS = (".json", "_delta.tif", "_mask.tif", "_delta.png", "_mask.png")


def layer_paths(edit: Edit, folder: str | Path) -> list[Path]:
    """The files of one edit in a folder, whether or not they exist."""
    return [Path(folder) / f"{edit.name}{ending}" for ending in _ENDINGS]


def write_layers(edits: Iterable[Edit], folder: str | Path, *, force: bool = False) -> list[Path]:
    """Write edits into a folder, which is made where it is missing; all of them or none.

    Args:
        force: replace files that exist.

    Returns:
        The files written.

    Raises:
        OutputError: a file exists already and `force` is not set, or the folder is not writable.
    """
    with Staging(force=force) as staging:
        return stage_layers(staging, edits, folder)


def stage_layers(staging: Staging, edits: Iterable[Edit], folder: str | Path) -> list[Path]:
    """`write_layers` as a part of a larger write that succeeds or fails as a whole."""
    written: list[Path] = []
    for edit in edits:
        contents = (
            json.dumps(_sidecar(edit), indent=2).encode() + b"\n",
            _tiff(delta_codes(edit.delta)),
            _tiff(mask_codes(edit.mask)),
            _png(np.clip(edit.delta * _PREVIEW_GAIN * 127.5 + 127.5, 0, 255)),
            _png(edit.mask * 255.0),
        )
        for path, content in zip(layer_paths(edit, folder), contents, strict=True):
            staging.write(path, content)
            written.append(path)
    return written


def _sidecar(edit: Edit) -> dict[str, Any]:
    face = edit.face
    return {
        "revisage_layers": SCHEMA,
        "operation": edit.operation,
        "face_index": edit.face_index,
        "part": edit.part,
        "strength": edit.strength,
        "size": edit.size,
        "matrix": edit.matrix.tolist(),
        "matrix_maps": "photo pixel (x, y, 1) to square pixel; whole numbers are pixel centres",
        "delta": "(code - 32768) / 32767 of the full range",
        "mask": "code / 65535",
        "face": None
        if face is None
        else {
            "box": [float(value) for value in face.box],
            "landmarks": np.asarray(face.landmarks, dtype=np.float64).tolist(),
            "score": float(face.score),
            "yaw": float(face.yaw),
            "pitch": float(face.pitch),
            "roll": float(face.roll),
        },
    }


def _tiff(codes: npt.NDArray[np.uint16]) -> bytes:
    import tifffile

    stream = io.BytesIO()
    photometric = "rgb" if codes.ndim == 3 else "minisblack"
    tifffile.imwrite(stream, codes, photometric=photometric, compression="zlib", metadata=None)
    return stream.getvalue()


def _png(values: npt.NDArray[np.float32]) -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(np.rint(values).astype(np.uint8)).save(stream, format="PNG")
    return stream.getvalue()


def read_layers(folder: str | Path) -> list[Edit]:
    """The edits in a folder, ordered by face, then by part and file name.

    Raises:
        MediaError: no layers there, or a file that is missing, damaged or of another kind.
    """
    sidecars = sorted(path for path in Path(folder).glob("*.json") if _is_sidecar(path))
    if not sidecars:
        raise MediaError(f"{folder}: no Revisage layers there")
    edits = [_read_edit(path) for path in sidecars]
    order = sorted(
        range(len(edits)), key=lambda i: (edits[i].face_index, edits[i].part, sidecars[i].name)
    )
    return [edits[i] for i in order]


def _is_sidecar(path: Path) -> bool:
    """Whether a JSON file claims to be ours; other JSON (receipts) may lie in the same folder."""
    return path.with_name(f"{path.stem}_delta.tif").exists()


def _read_edit(path: Path) -> Edit:
    from revisage.faces import Face

    try:
        if path.stat().st_size > _MAX_SIDECAR_BYTES:
            raise MediaError(f"{path}: too large to be the sidecar of layers")
        entry = json.loads(path.read_text(encoding="utf-8"))
        if entry.get("revisage_layers") != SCHEMA:
            raise MediaError(
                f"{path}: layers of schema {entry.get('revisage_layers')!r}; "
                f"this version of Revisage reads {SCHEMA}"
            )
        size = int(entry["size"])
        if not 1 <= size <= _MAX_SIDE:
            raise MediaError(f"{path}: a square of {size} px is not within 1..{_MAX_SIDE}")
        face = None
        if entry["face"] is not None:
            stated = entry["face"]
            x, y, width, height = (float(value) for value in stated["box"])
            landmarks = np.asarray(stated["landmarks"], dtype=np.float32).reshape(68, 2)
            numbers = {key: float(stated[key]) for key in ("score", "yaw", "pitch", "roll")}
            if not all(map(math.isfinite, (x, y, width, height, *numbers.values()))):
                raise MediaError(f"{path}: the face holds numbers that are not finite")
            face = Face(box=(x, y, width, height), landmarks=landmarks, **numbers)
        return Edit(
            operation=str(entry["operation"]),
            face=face,
            delta=delta_from_codes(_codes(path, "_delta.tif", (size, size, 3))),
            mask=mask_from_codes(_codes(path, "_mask.tif", (size, size))),
            matrix=np.asarray(entry["matrix"], dtype=np.float64),
            strength=float(entry["strength"]),
            face_index=int(entry["face_index"]),
            part=int(entry.get("part", 0)),
        )
    except MediaError:
        raise
    except RevisageError as error:
        raise MediaError(f"{path}: {error}") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise MediaError(
            f"{path}: not readable layers ({type(error).__name__}: {error})"
        ) from error


def _codes(sidecar: Path, ending: str, shape: tuple[int, ...]) -> npt.NDArray[np.uint16]:
    import tifffile

    path = sidecar.with_name(sidecar.stem + ending)
    try:
        with tifffile.TiffFile(path) as tiff:
            page = tiff.pages[0]
            # Checked before anything is unpacked: a tiny file may claim a huge picture.
            if tuple(page.shape) != shape or page.dtype != np.uint16:
                raise MediaError(
                    f"{path}: must be {list(shape)} uint16, is {list(page.shape)} {page.dtype}"
                )
            return np.asarray(page.asarray(), dtype=np.uint16)
    except FileNotFoundError:
        raise MediaError(f"{path}: missing; every layer needs its delta and its mask") from None
    except MediaError:
        raise
    except Exception as error:  # decoders raise anything: zlib.error, struct.error, KeyError, ...
        raise MediaError(f"{path}: not a readable TIFF ({str(error) or 'damaged'})") from error
