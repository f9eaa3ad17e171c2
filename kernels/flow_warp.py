"""Backward bilinear sampling by a dense flow or an affine map.

Note [Warp arithmetic]
    All implementations compute exactly the following, so they agree bit for bit. The position of
    output pixel (x, y) in the image is split into whole pixels and a float32 fraction:

        flow (dx, dy):  column = x + floor(dx), fx = float32(dx - floor(dx)); rows alike
        matrix:         u = m00 * x + (m01 * y + m02) in float64, column = floor(u),
                        fx = float32(u - floor(u)); rows alike

    so a flow of whole pixels copies samples exactly, however large x is. Positions are clamped to
    +-2^30 first; NaN counts as -2^30. Then, for u16, f16 and f32, in float32 and not fused,

        top    = t00 if fx == 0 else t00 * (1 - fx) + t01 * fx;  bottom alike
        value  = top if fy == 0 else top * (1 - fy) + bottom * fy

    rounded half to even for u16, and rounded once for f16. For u8, in integers,

        a   = fx * 2^14 rounded half to even; b alike from fy
        w11 = (a * b + 2^13) >> 14;  w01 = a - w11;  w10 = b - w11;  w00 = 2^14 - a - w10
        value = (t00 * w00 + t01 * w01 + t10 * w10 + t11 * w11 + 2^13) >> 14

    The weights are not negative and add up to 2^14, so a value never leaves the range of its taps,
    and they fit the 16-bit products of every instruction set. A fraction is off by at most 2^-15
    and a weight by 2^-15 more: before rounding, a value is within 0.04 levels of that in real
    arithmetic (255 * (2 * 2^-15 + 2 * 2^-15) = 0.031), so it is at most one level from the float
    result, and differs from it only where that is within 0.04 of a tie.

Note [Flow upsampling]
    A flow [h, w, 2] that is smaller than the output [H, W] is read bilinearly with half-pixel
    centres (like resize with align_corners=False): row position (y + 0.5) * h / H - 0.5 in float64,
    clamped to 0..h-1, split into a whole part and a float32 fraction g; then
    a * (1 - g) + b * g in float32, along x first. Values stay in pixels of the output.

Note [Warp gradients]
    value = sum over the four taps of weight * tap, with weights (1 - fx) or fx, and (1 - fy) or fy,
    has the derivatives

        in the image:  each tap's weight, at the pixel that padding gave for the tap; none where a
                       tap read as 0
        in dx:         (t01 - t00) * (1 - fy) + (t11 - t10) * fy;  in dy alike

    At whole positions, where the warp has a kink, fx is 0 and t01 the right neighbour: the
    derivative is the one from the right (from below, in dy). Outside the image it is that of the
    padded picture: 0 with "border", mirrored with "reflect". A flow value that is NaN, infinite or
    beyond 2^30 has derivative 0. A smaller flow takes the sum over all pixels that it moves, with
    the weights of Note [Flow upsampling]; a flow shared by a batch the sum over the batch.
"""

from __future__ import annotations

from typing import Any, Literal, TypeVar

import numpy as np

from revisage.errors import OptionError, ShapeError
from revisage.kernels import _arrays, _dispatch
from revisage.kernels._arrays import HostArray, Matrix

__all__ = ["flow_warp", "flow_warp_backward", "flow_warp_backward_into", "flow_warp_into"]

A = TypeVar("A")
Layout = Literal["hwc", "chw"]
Padding = Literal["border", "zero", "reflect"]

_SAMPLES = ("uint8", "uint16", "float16", "float32")
_CUDA_SAMPLES = (*_SAMPLES, "bfloat16")
_PADDINGS = ("border", "zero", "reflect")
_FAR = 2.0**30


def flow_warp(
    image: A,
    flow: Any = None,
    *,
    matrix: Any = None,
    size: tuple[int, int] | None = None,
    padding: Padding = "border",
    layout: Layout = "hwc",
    threads: int | None = None,
    impl: str | None = None,
    stream: Any = None,
) -> A:
    """Warp an image: out[y, x] = bilinear(image, x + flow[y, x, 0], y + flow[y, x, 1]).

    | argument | shape | dtype | layout | device |
    | --- | --- | --- | --- | --- |
    | image | [H, W], [H, W, C], [N, H, W, C]; chw: [C, H, W], [N, C, H, W] \
| u8, u16, f16, f32; on CUDA also bf16 | C order | CPU, CUDA |
    | flow | [h, w, 2], or [N, h, w, 2] | f32 | (dx, dy) in pixels | as image |
    | matrix | [2, 3] | float64 | OUTPUT pixel (x, y, 1) -> image pixel | CPU |
    | result | as image, with H and W from `size` | as image | as image | as image |

    Integer coordinates are pixel centres. Exactly one of `flow` and `matrix` is given. A flow that
    is smaller than the output is upsampled on the fly (Note [Flow upsampling]); a batch may share
    one flow. Exact numbers: Note [Warp arithmetic].

    Source: the bilinear sampler of Jaderberg et al. 2015, "Spatial Transformer Networks",
    equation 5, as GFRNet's WarpNet uses it (Li et al. 2018, equation 2).

    Args:
        size: (height, width) of the result; default: that of the image.
        padding: what lies outside the image: "border" repeats the edge, "zero" is 0, "reflect"
            mirrors about the centre of the edge pixel. Positions that are infinite or NaN are far
            outside: 0 with "zero", some pixel of the image otherwise.
        layout: "hwc" or "chw".
        threads: CPU threads; None takes REVISAGE_NUM_THREADS, else all cores. Never changes bits.
        impl: "native", "reference" (NumPy), or None for native where it is built.
        stream: CUDA stream for CUDA arrays.

    Returns:
        An array of the library and on the device of `image`; inputs are not modified. Inputs that
        are not C-contiguous are copied first (on the CPU; refused on CUDA).

    Raises:
        ShapeError: wrong shape, dtype or strides, or a flow larger than the result.
        OptionError: both or neither of flow and matrix, unknown padding or layout, bad size.
        DeviceError: arrays on different devices, or on one that cannot run here.
    """
    device = _arrays.device_of("image", image)
    shape = _arrays.shape_of("image", image, device)
    _, _, _, _, axis = _split_shape(shape, layout)
    rows, columns = _checked_size(size, (shape[axis], shape[axis + 1]))
    out: A = _arrays.new_output(image, (*shape[:axis], rows, columns, *shape[axis + 2 :]), device)
    flow_warp_into(
        out,
        image,
        flow,
        matrix=matrix,
        padding=padding,
        layout=layout,
        threads=threads,
        impl=impl,
        stream=stream,
    )
    return out


def flow_warp_into(
    out: Any,
    image: Any,
    flow: Any = None,
    *,
    matrix: Any = None,
    padding: Padding = "border",
    layout: Layout = "hwc",
    threads: int | None = None,
    impl: str | None = None,
    stream: Any = None,
) -> None:
    """`flow_warp`, written into `out`, whose height and width are the size of the result.

    `out` has the dtype and the other axes of `image`, is writable and C-contiguous, and must not
    overlap an input. Arguments and errors as for `flow_warp`.
    """
    device = _arrays.common_device({"out": out, "image": image, "flow": flow})
    chosen = _dispatch.choose(impl, device)
    if (flow is None) == (matrix is None):
        raise OptionError("give either flow or matrix, not both and not neither")
    _check_padding(padding)
    if device == "cpu":
        image = _arrays.host_input("image", image, _SAMPLES)
        flow = None if flow is None else _arrays.host_input("flow", flow, ("float32",))
    samples = _SAMPLES if device == "cpu" else _CUDA_SAMPLES
    shape, dtype = _arrays.describe("image", image, device, samples)
    batch, _, _, _, axis = _split_shape(shape, layout)
    out_shape = _arrays.shape_of("out", out, device)
    if len(out_shape) != len(shape):
        raise ShapeError(f"out must have {len(shape)} axes like image, got {list(out_shape)}")
    rows, columns = _checked_size((out_shape[axis], out_shape[axis + 1]), (0, 0))
    wanted = (*shape[:axis], rows, columns, *shape[axis + 2 :])
    out = _arrays.output("out", out, wanted, dtype, device)
    if device == "cpu":
        _arrays.refuse_overlap(out, {"image": image, "flow": flow})
    if flow is not None:
        flow_shape, _ = _arrays.describe("flow", flow, device, ("float32",))
        _check_flow(flow_shape, len(shape) == 4, batch, (rows, columns))
    transform = None if matrix is None else _arrays.affine_matrix(matrix)
    count = _dispatch.thread_count(threads)
    handle = _dispatch.stream_handle(stream, device, image)
    if chosen == "reference":
        images = image.reshape(batch, *_planes(shape, layout))
        results = out.reshape(batch, *_planes(wanted, layout))
        flows = None if flow is None else flow.reshape(-1, *flow.shape[-3:])
        for index in range(batch):
            one_flow = None if flows is None else flows[index % len(flows)]
            _reference(results[index], images[index], one_flow, transform, padding, layout)
    else:
        _dispatch._native.flow_warp_into(
            out, image, flow, transform, padding, layout == "hwc", count, handle
        )


def flow_warp_backward(
    grad: Any,
    image: Any,
    flow: A,
    *,
    padding: Padding = "border",
    layout: Layout = "hwc",
    threads: int | None = None,
    impl: str | None = None,
    stream: Any = None,
) -> tuple[A, A]:
    """The gradients of `flow_warp` in its image and its flow.

    | argument | shape | dtype | layout | device |
    | --- | --- | --- | --- | --- |
    | grad | as the result of `flow_warp` | as image | gradient of the result, C order | as image |
    | image | as for `flow_warp` | f32; on CUDA also f16, bf16 | C order | CPU, CUDA |
    | flow | as for `flow_warp` | f32 | (dx, dy) in pixels | as image |
    | results | shapes of image and of flow | f32 | C order | as image |

    See Note [Warp gradients]. Both gradients are float32, whatever the image is, because they are
    sums over many pixels. Source: as for `flow_warp` (equations 6 and 7 there).

    Args:
        padding, layout: as they were in the forward call.
        threads: CPU threads; None takes REVISAGE_NUM_THREADS, else all cores. Never changes bits.
        impl: "native", "reference" (NumPy, in float64), or None for native where it is built. They
            agree within 1e-5 of the largest sum of absolute terms.
        stream: CUDA stream for CUDA arrays. On CUDA the order of the sums in the image and in a
            smaller flow varies from call to call, and with it the last bits.

    Returns:
        (grad_image, grad_flow), of the library and on the device of `flow`; inputs are not
        modified.

    Raises:
        ShapeError: wrong shape, dtype or strides, or a flow larger than grad.
        OptionError: unknown padding or layout.
        DeviceError: arrays on different devices, or on one that cannot run here.
    """
    device = _arrays.device_of("flow", flow)
    out: tuple[A, A] = (
        _arrays.new_output(flow, _arrays.shape_of("image", image, device), device),
        _arrays.new_output(flow, _arrays.shape_of("flow", flow, device), device),
    )
    flow_warp_backward_into(
        out,
        grad,
        image,
        flow,
        padding=padding,
        layout=layout,
        threads=threads,
        impl=impl,
        stream=stream,
    )
    return out


def flow_warp_backward_into(
    out: tuple[Any | None, Any | None],
    grad: Any,
    image: Any,
    flow: Any,
    *,
    padding: Padding = "border",
    layout: Layout = "hwc",
    threads: int | None = None,
    impl: str | None = None,
    stream: Any = None,
) -> None:
    """`flow_warp_backward`, written into the two arrays of `out`; what is None is not computed.

    They overlap neither each other nor an input. Arguments and errors as for `flow_warp_backward`.
    """
    outputs = dict(zip(("grad_image", "grad_flow"), out, strict=True))
    inputs = {"grad": grad, "image": image, "flow": flow}
    device = _arrays.common_device({**outputs, **inputs})
    chosen = _dispatch.choose(impl, device)
    _check_padding(padding)
    samples = ("float32",) if device == "cpu" else ("float32", "float16", "bfloat16")
    if device == "cpu":
        inputs = {name: _arrays.host_input(name, array, samples) for name, array in inputs.items()}
    shape, dtype = _arrays.describe("image", inputs["image"], device, samples)
    batch, _, _, _, axis = _split_shape(shape, layout)
    grad_shape, grad_dtype = _arrays.describe("grad", inputs["grad"], device, samples)
    sides: list[int | str] = list(shape)
    sides[axis : axis + 2] = ["H", "W"]
    _arrays.check_shape("grad", grad_shape, sides)
    _arrays.check_output("grad", grad_shape, grad_dtype, grad_shape, dtype)
    flow_shape, _ = _arrays.describe("flow", inputs["flow"], device, ("float32",))
    _check_flow(flow_shape, len(shape) == 4, batch, (grad_shape[axis], grad_shape[axis + 1]))
    for name, array in outputs.items():
        if array is not None:
            wanted = shape if name == "grad_image" else flow_shape
            outputs[name] = _arrays.output(name, array, wanted, "float32", device)
    if device == "cpu":
        for name, array in outputs.items():
            if array is not None:
                others = {other: outputs[other] for other in outputs if other != name}
                _arrays.refuse_overlap(array, {**inputs, **others}, name)
    count = _dispatch.thread_count(threads)
    handle = _dispatch.stream_handle(stream, device, inputs["image"])
    if chosen == "reference":
        gradients = _reference_backward(**inputs, padding=padding, layout=layout)
        for array, gradient in zip(outputs.values(), gradients, strict=True):
            if array is not None:
                np.copyto(array, gradient, casting="same_kind")
    else:
        _dispatch._native.flow_warp_backward_into(
            **outputs,
            **inputs,
            padding=padding,
            interleaved=layout == "hwc",
            threads=count,
            stream=handle,
        )


def _check_padding(padding: str) -> None:
    if padding not in _PADDINGS:
        raise OptionError(f"padding must be one of {', '.join(_PADDINGS)}, got {padding!r}")


def _split_shape(shape: tuple[int, ...], layout: str) -> tuple[int, int, int, int, int]:
    """N, C, H, W of an image shape, and the axis of H."""
    if layout not in ("hwc", "chw"):
        raise OptionError(f"layout must be 'hwc' or 'chw', got {layout!r}")
    if len(shape) not in (2, 3, 4) or 0 in shape:
        wanted = "[H, W, C] or [N, H, W, C]" if layout == "hwc" else "[C, H, W] or [N, C, H, W]"
        raise ShapeError(f"image must be [H, W], {wanted} and not empty, got {list(shape)}")
    batch = shape[0] if len(shape) == 4 else 1
    axis = len(shape) - 2 if layout == "chw" or len(shape) == 2 else len(shape) - 3
    channels = 1
    if len(shape) > 2:
        channels = shape[-1] if layout == "hwc" else shape[-3]
    return batch, channels, shape[axis], shape[axis + 1], axis


def _planes(shape: tuple[int, ...], layout: str) -> tuple[int, int, int]:
    """Shape of one image of a batch with all three axes."""
    if len(shape) > 2:
        return shape[-3], shape[-2], shape[-1]
    return (shape[0], shape[1], 1) if layout == "hwc" else (1, shape[0], shape[1])


def _checked_size(size: tuple[int, int] | None, default: tuple[int, int]) -> tuple[int, int]:
    if size is None:
        return default
    try:
        rows, columns = (int(n) for n in size)
    except (TypeError, ValueError) as error:
        raise OptionError(f"size must be (height, width), got {size!r}") from error
    if not (0 < rows < 2**24 and 0 < columns < 2**24):
        raise OptionError(f"size must be (height, width), each 1 to 2^24 - 1, got {size!r}")
    return rows, columns


def _check_flow(shape: tuple[int, ...], batched: bool, batch: int, size: tuple[int, int]) -> None:
    if batched and len(shape) == 4:
        _arrays.check_shape("flow", shape, (batch, "h", "w", 2))
    else:
        _arrays.check_shape("flow", shape, ("h", "w", 2))
    if shape[-3] > size[0] or shape[-2] > size[1]:
        raise ShapeError(
            f"flow {list(shape[-3:-1])} is larger than the result {list(size)}; "
            "reduce the flow, or ask for a larger size"
        )


def _reference(
    out: HostArray,
    image: HostArray,
    flow: HostArray | None,
    matrix: Matrix | None,
    padding: str,
    layout: str,
) -> None:
    """The twin: Note [Warp arithmetic] in NumPy, for one image [H, W, C] or [C, H, W]."""
    planes = image.transpose(2, 0, 1) if layout == "hwc" else image  # [C, H, W]
    result = out.transpose(2, 0, 1) if layout == "hwc" else out  # [C, H', W']
    height, width = planes.shape[1:]
    rows, columns = result.shape[1:]
    y, x = np.arange(rows)[:, None], np.arange(columns)[None, :]
    if matrix is not None:
        a, b, c, d, e, f = matrix
        column, fx = _split_position(a * x + (b * y + c))
        row, fy = _split_position(d * x + (e * y + f))
    else:
        assert flow is not None  # for mypy: checked by the caller
        dense = _upsample_flow(flow, rows, columns)
        column, fx = _split_position(dense[..., 0])
        row, fy = _split_position(dense[..., 1])
        column, row = column + x, row + y

    def tap(dy: int, dx: int) -> HostArray:
        """Samples at (row + dy, column + dx) with padding, [C, H', W'] as `number`."""
        r, c = row + dy, column + dx
        values = planes[:, _fold(r, height, padding), _fold(c, width, padding)].astype(number)
        if padding == "zero":
            inside = (r >= 0) & (r < height) & (c >= 0) & (c < width)
            values = np.where(inside, values, number(0))
        return np.asarray(values)

    number = np.int32 if out.dtype == np.uint8 else np.float32
    taps = (tap(0, 0), tap(0, 1), tap(1, 0), tap(1, 1))
    if out.dtype == np.uint8:
        result[...] = _mix_fixed(taps, fx, fy)
        return
    with np.errstate(invalid="ignore", over="ignore"):
        value = _mix(_mix(*taps[:2], fx), _mix(*taps[2:], fx), fy)
        if out.dtype == np.uint16:
            value = np.rint(value)
        result[...] = value.astype(out.dtype)


def _split_position(position: HostArray) -> tuple[HostArray, HostArray]:
    """Whole part (int64) and float32 fraction of positions, clamped; NaN is far outside."""
    with np.errstate(invalid="ignore"):
        clamped = np.where(np.isnan(position), -_FAR, position).clip(-_FAR, _FAR)
        whole = np.floor(clamped)
        return whole.astype(np.int64), (clamped - whole).astype(np.float32)


def _mix(first: HostArray, second: HostArray, fraction: HostArray) -> HostArray:
    mixed = first * (np.float32(1) - fraction) + second * fraction
    return np.asarray(np.where(fraction == 0, first, mixed))


def _mix_fixed(taps: tuple[HostArray, ...], fx: HostArray, fy: HostArray) -> HostArray:
    """Four int32 taps mixed in fixed point, as u8 samples are."""
    one = 1 << 14
    right = np.rint(fx * np.float32(one)).astype(np.int32)
    below = np.rint(fy * np.float32(one)).astype(np.int32)
    w11 = (right * below + one // 2) >> 14
    weights = (one - right - (below - w11), right - w11, below - w11, w11)
    total = sum(tap * weight for tap, weight in zip(taps, weights, strict=True))
    return np.asarray((total + one // 2) >> 14)


def _fold(index: HostArray, size: int, padding: str) -> HostArray:
    """Indices brought into 0..size-1; what lies outside is masked by the caller for "zero"."""
    if padding != "reflect" or size == 1:
        return index.clip(0, size - 1)
    period = 2 * (size - 1)
    folded = np.mod(index, period)
    return np.asarray(np.minimum(folded, period - folded))


def _upsample_flow(flow: HostArray, rows: int, columns: int) -> HostArray:
    """Note [Flow upsampling]: [h, w, 2] -> [rows, columns, 2] float32."""
    if flow.shape[:2] == (rows, columns):
        return flow
    top, bottom, gy = _upsampled_positions(rows, flow.shape[0])
    left, right, gx = _upsampled_positions(columns, flow.shape[1])
    one, gx, gy = np.float32(1), gx[None, :, None], gy[:, None, None]
    with np.errstate(invalid="ignore", over="ignore"):
        along = flow[:, left] * (one - gx) + flow[:, right] * gx  # [h, columns, 2]
        return np.asarray(along[top] * (one - gy) + along[bottom] * gy)


def _upsampled_positions(count: int, size: int) -> tuple[HostArray, HostArray, HostArray]:
    """Note [Flow upsampling]: both neighbours in a flow of `size`, and the fraction between."""
    at = ((np.arange(count) + 0.5) * size / count - 0.5).clip(0, size - 1)
    whole = np.floor(at).astype(np.int64)
    return whole, np.minimum(whole + 1, size - 1), (at - whole).astype(np.float32)


def _reference_backward(
    grad: HostArray, image: HostArray, flow: HostArray, padding: str, layout: str
) -> tuple[HostArray, HostArray]:
    """The twin of the backward: Note [Warp gradients] in NumPy, in float64."""
    batch = len(image) if image.ndim == 4 else 1
    grads = grad.reshape(batch, *_planes(grad.shape, layout)).astype(np.float64)
    images = image.reshape(batch, *_planes(image.shape, layout)).astype(np.float64)
    flows = flow.reshape(-1, *flow.shape[-3:])
    grad_image, grad_flow = np.zeros(images.shape), np.zeros(flows.shape)
    for index in range(batch):
        shared = index % len(flows)
        axes = (2, 0, 1) if layout == "hwc" else (0, 1, 2)
        grad_flow[shared] += _reference_backward_planes(
            grads[index].transpose(axes),
            images[index].transpose(axes),
            grad_image[index].transpose(axes),
            flows[shared],
            padding,
        )
    return grad_image.reshape(image.shape), grad_flow.reshape(flow.shape)


def _reference_backward_planes(
    grad: HostArray, planes: HostArray, grad_planes: HostArray, flow: HostArray, padding: str
) -> HostArray:
    """Fills in `grad_planes` [C, H, W] and returns the gradient [h, w, 2] in the flow."""
    height, width = planes.shape[1:]
    rows, columns = grad.shape[1:]
    dense = _upsample_flow(flow, rows, columns)
    column, fx = _split_position(dense[..., 0])
    row, fy = _split_position(dense[..., 1])
    column, row = column + np.arange(columns)[None, :], row + np.arange(rows)[:, None]
    weights_x, weights_y = (1 - fx.astype(float), fx), (1 - fy.astype(float), fy)
    slopes = np.zeros((rows, columns, 2))
    for dy, dx in ((0, 0), (0, 1), (1, 0), (1, 1)):
        r, c = row + dy, column + dx
        inside = (r >= 0) & (r < height) & (c >= 0) & (c < width) | (padding != "zero")
        at = _fold(r, height, padding), _fold(c, width, padding)
        for g, plane, grad_plane in zip(grad, planes, grad_planes, strict=True):
            np.add.at(grad_plane, at, np.where(inside, g * weights_y[dy] * weights_x[dx], 0))
            term = g * np.where(inside, plane[at], 0)
            slopes[..., 0] += (1 if dx else -1) * weights_y[dy] * term
            slopes[..., 1] += (1 if dy else -1) * weights_x[dx] * term
    slopes[~(np.abs(dense) < _FAR)] = 0
    top, bottom, gy = _upsampled_positions(rows, flow.shape[0])
    left, right, gx = _upsampled_positions(columns, flow.shape[1])
    # Rows first, then columns, which lie first too while they are added up.
    along, grad_flow = np.zeros((flow.shape[0], columns, 2)), np.zeros(flow.shape)
    np.add.at(along, top, slopes * (1 - gy)[:, None, None])
    np.add.at(along, bottom, slopes * gy[:, None, None])
    by_column = along.transpose(1, 0, 2)
    np.add.at(grad_flow.transpose(1, 0, 2), left, by_column * (1 - gx)[:, None, None])
    np.add.at(grad_flow.transpose(1, 0, 2), right, by_column * gx[:, None, None])
    return grad_flow
