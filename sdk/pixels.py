"""Photos in and out of a session: whatever holds pixels becomes a NumPy array and back.

Note [Photos]
    A photo is [H, W] (gray) or [H, W, C] with C = 1 (gray), 2 (gray, alpha), 3 (RGB) or 4 (RGBA);
    uint8 and uint16 use the full range of the type, float16 and float32 have 1.0 as white and may
    go beyond. Values are display-encoded (sRGB or alike), alpha is not premultiplied.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from revisage.errors import ShapeError

if TYPE_CHECKING:
    from revisage.engines.arrays import Exchange

__all__ = ["Pixels", "colour_channels", "full_range", "host_array", "open_pixels", "unit_range"]

Pixels = npt.NDArray[Any]

_DTYPES = ("uint8", "uint16", "float16", "float32")
_FULL_RANGE = {"uint8": 255.0, "uint16": 65535.0, "float16": 1.0, "float32": 1.0}
_PIL_MODES = ("L", "LA", "RGB", "RGBA", "I;16", "F")
_HOST_DEVICES = (1, 3, 11)  # DLPack: CPU, pinned by CUDA, pinned by ROCm


def full_range(dtype: npt.DTypeLike) -> float:
    """The sample value that means white: 255, 65535, or 1.0 for floats."""
    return _FULL_RANGE[np.dtype(dtype).name]


def colour_channels(pixels: Pixels) -> int:
    """How many of the channels are colour: 1 for gray, 3 for RGB. The rest is alpha."""
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    return 3 if channels >= 3 else 1


def open_pixels(photo: Any) -> tuple[Pixels, Callable[[Pixels], Any]]:
    """The samples of a photo, and the way back to what the caller gave.

    NumPy arrays come back as arrays of the same dtype and byte order, PIL images as PIL images with
    their info (profile, EXIF), anything with DLPack on the CPU through its own library's
    `from_dlpack`. Other holders of an `__array_interface__` come back as NumPy arrays.

    A photo on a CUDA device (torch, CuPy, ...) is copied to the CPU, where faces are aligned and
    edits applied, and back to its device: the samples are read after the work that is on the
    current stream of its library, and the result is complete for the work that comes next.

    Returns:
        C-contiguous [H, W] or [H, W, C] (Note [Photos]), which may share the photo's memory and
        must not be written to; and a function from such an array to the caller's kind.

    Raises:
        ShapeError: not a photo, or of a shape or dtype that Note [Photos] does not list.
        DeviceError: the photo lies on a device that is neither CPU nor CUDA.
        MissingExtraError: it lies on a GPU, and CuPy is not installed.
    """
    if isinstance(photo, np.ndarray):
        dtype = photo.dtype
        native = photo.astype(dtype.newbyteorder("="), copy=False)
        return _checked(native), lambda out: out.astype(dtype, copy=False)
    if type(photo).__module__.split(".")[0] == "PIL":
        return _open_pil(photo)
    if _beyond_host(photo):
        return _open_on_gpu(photo)
    if hasattr(photo, "__dlpack__"):
        return _open_dlpack(photo)
    if hasattr(photo, "__array_interface__"):
        return _checked(np.asarray(photo)), lambda out: out
    raise ShapeError(
        f"a {type(photo).__name__} is not a photo; give a NumPy array, a PIL image, or anything "
        "with DLPack (to read a file: revisage.photo.read_photo)"
    )


def _checked(pixels: Pixels) -> Pixels:
    if pixels.dtype.name not in _DTYPES:
        raise ShapeError(
            f"a photo of dtype {pixels.dtype.name} is not understood; convert it to one of "
            f"{', '.join(_DTYPES)}"
        )
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and not 1 <= pixels.shape[2] <= 4):
        raise ShapeError(
            f"a photo must be [H, W] or [H, W, C] with 1 to 4 channels, got {list(pixels.shape)}"
        )
    if 0 in pixels.shape:
        raise ShapeError(f"the photo is empty: {list(pixels.shape)}")
    return np.ascontiguousarray(pixels)


def _open_pil(image: Any) -> tuple[Pixels, Callable[[Pixels], Any]]:
    from PIL import Image

    if image.mode in ("1", "P", "PA"):
        see_through = image.mode == "PA" or "transparency" in image.info
        image = image.convert("L" if image.mode == "1" else "RGBA" if see_through else "RGB")
    if image.mode not in _PIL_MODES:
        raise ShapeError(
            f"PIL images of mode {image.mode} are not understood; convert to one of "
            f"{', '.join(_PIL_MODES)}"
        )
    info = dict(image.info)

    def back(out: Pixels) -> Any:
        made = Image.fromarray(out)
        made.info = info
        return made

    return _checked(np.asarray(image)), back


def _open_dlpack(photo: Any) -> tuple[Pixels, Callable[[Pixels], Any]]:
    try:
        pixels = np.from_dlpack(photo)
    except (BufferError, RuntimeError, TypeError) as error:
        raise ShapeError(
            f"the {type(photo).__name__} does not give its samples by DLPack "
            f"({str(error).splitlines()[0]}); detach it, and use a dtype that NumPy has"
        ) from error
    library = sys.modules[type(photo).__module__.split(".")[0]]
    from_dlpack: Callable[[Any], Any] = getattr(library, "from_dlpack", lambda out: out)
    return _checked(pixels), from_dlpack


def host_array(array: Any, name: str) -> Any:
    """An array on a GPU as a NumPy array; what lies elsewhere as it is.

    Raises:
        DeviceError, MissingExtraError: as `open_pixels` does.
    """
    if not _beyond_host(array):
        return array
    _, view, stream = _view_on_gpu(array, name)
    return view.get(stream=stream)


def _beyond_host(array: Any) -> bool:
    if isinstance(array, np.ndarray):
        return False
    if hasattr(array, "__dlpack_device__"):
        return array.__dlpack_device__()[0] not in _HOST_DEVICES
    return hasattr(array, "__cuda_array_interface__")


def _view_on_gpu(array: Any, name: str) -> tuple[Exchange, Any, Any]:
    """The way back, a CuPy view, and the caller's stream."""
    from revisage.engines.arrays import open_arrays

    given = open_arrays({name: array}, None, f"the {name}")
    import cupy

    return given, given.arrays[name], cupy.cuda.ExternalStream(given.stream)


def _open_on_gpu(photo: Any) -> tuple[Pixels, Callable[[Pixels], Any]]:
    given, view, stream = _view_on_gpu(photo, "photo")

    def back(out: Pixels) -> Any:
        import cupy

        with view.device, stream:
            return given.give_back(cupy.asarray(out))

    return _checked(view.get(stream=stream)), back


def unit_range(samples: Pixels) -> npt.NDArray[np.float32]:
    """Samples as float32 in [0, 1]: integers divided by their full range, floats clamped."""
    if samples.dtype.kind == "u":
        return samples.astype(np.float32) / np.float32(full_range(samples.dtype))
    clean = np.nan_to_num(samples.astype(np.float32), copy=False, nan=0.0, posinf=1.0, neginf=0.0)
    return np.clip(clean, 0.0, 1.0)
