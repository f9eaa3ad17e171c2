"""The kernels as torch operators: gradients, agreement of native and twin, compiling, exporting."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck

from revisage import kernels
from revisage.errors import OptionError, ShapeError
from revisage.training.ops import feature_blend, fft_conv, flow_warp

PADDINGS = ("border", "zero", "reflect")
# Odd and even widths have other columns that are their own conjugates.
SIZES = [(4, 6), (5, 7), (3, 4), (1, 1), (1, 5), (6, 1), (2, 2)]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(20240607)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request: pytest.FixtureRequest) -> str:
    """Where tensors lie; skips without compiled kernels for it."""
    name: str = request.param
    usable = torch.cuda.is_available() and "cuda:0" in kernels.available_devices()
    if name == "cuda" and not usable:
        if os.environ.get("REVISAGE_REQUIRE_CUDA") == "1":
            pytest.fail("REVISAGE_REQUIRE_CUDA=1, and torch or the kernels find no CUDA device")
        pytest.skip("no CUDA device, or kernels or torch built without CUDA")
    if not kernels.HAS_NATIVE:
        pytest.skip("the native kernels are not built")
    return name


def fourier_inputs(
    n: int = 2, c: int = 3, d: int = 2, size: tuple[int, int] = (4, 6), dtype: Any = torch.float64
) -> list[Tensor]:
    return [
        torch.randn(n, c, *size, dtype=dtype),
        torch.randn(2 * d, 2 * c, dtype=dtype),
        torch.rand(2 * d, dtype=dtype) + 0.5,
        torch.randn(2 * d, dtype=dtype),
    ]


def warp_inputs(
    n: int = 2,
    c: int = 3,
    size: tuple[int, int] = (5, 6),
    flow: tuple[int, ...] = (2, 5, 6, 2),
    dtype: Any = torch.float64,
) -> list[Tensor]:
    # Far enough to leave the picture on every side.
    return [torch.randn(n, c, *size, dtype=dtype), torch.randn(flow, dtype=dtype) * max(size) / 2]


def blend_inputs(
    n: int = 2, c: int = 5, size: tuple[int, int] = (4, 3), dtype: Any = torch.float64
) -> list[Tensor]:
    shapes = ((n, c, *size), (n, c, *size), (n, 2, *size), (n, 2, c))
    return [torch.randn(shape, dtype=dtype) for shape in shapes]


def with_gradients(tensors: list[Tensor], device: str = "cpu") -> list[Tensor]:
    return [tensor.detach().to(device).requires_grad_() for tensor in tensors]


# --- gradients -----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_gradients_of_the_fourier_unit(size: tuple[int, int]) -> None:
    inputs = with_gradients(fourier_inputs(size=size))
    assert gradcheck(fft_conv, inputs)


def test_second_gradients_of_the_fourier_unit() -> None:
    """The backward is composed of torch's operators, so penalties on gradients work."""
    assert gradgradcheck(fft_conv, with_gradients(fourier_inputs(n=1, c=2, size=(3, 4))))


@pytest.mark.parametrize("wanted", range(4))
def test_one_gradient_alone(wanted: int) -> None:
    inputs = fourier_inputs()
    inputs[wanted].requires_grad_()
    assert gradcheck(fft_conv, inputs)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("flow", [(2, 5, 6, 2), (5, 6, 2), (2, 3, 4, 2), (2, 2, 2), (1, 6, 2)])
def test_gradients_of_the_warp(padding: Any, flow: tuple[int, ...]) -> None:
    inputs = with_gradients(warp_inputs(flow=flow))
    assert gradcheck(lambda *given: flow_warp(*given, padding=padding), inputs)


@pytest.mark.parametrize("strength", [1.0, 0.3, 0.0])
def test_gradients_of_the_blend(strength: float) -> None:
    inputs = with_gradients(blend_inputs())
    assert gradcheck(lambda *given: feature_blend(*given, strength=strength), inputs)


# --- native and twin -----------------------------------------------------------------------------

Operator = Callable[..., Tensor]


def compare(operator: Operator, inputs: list[Tensor], device: str, tolerance: float) -> None:
    """Values and gradients of float32 native against the float64 twin, relative to the largest."""
    native = with_gradients(inputs, device)
    twin = with_gradients([tensor.double() for tensor in inputs])
    out = operator(*native, impl="native")
    wanted = operator(*twin, impl="reference")
    grad = torch.randn(out.shape)
    out.backward(grad.to(device))
    wanted.backward(grad.double())
    pairs = [(out, wanted), *((a.grad, b.grad) for a, b in zip(native, twin, strict=True))]
    for found, true in pairs:
        assert found is not None
        assert true is not None
        assert found.dtype == torch.float32
        error = (found.detach().cpu().double() - true.detach()).abs().max()
        assert error <= tolerance * true.abs().max().clamp_min(1e-3)


@pytest.mark.parametrize("size", [*SIZES, (16, 16), (24, 40), (33, 45), (31, 32)])
def test_native_fourier_unit_agrees(size: tuple[int, int], device: str) -> None:
    compare(fft_conv, fourier_inputs(3, 20, 17, size, torch.float32), device, 1e-5)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("flow", [(2, 33, 45, 2), (33, 45, 2), (2, 9, 12, 2), (5, 7, 2)])
def test_native_warp_agrees(padding: str, flow: tuple[int, ...], device: str) -> None:
    """2e-4: positions of an upsampled flow have float32's rounding in the native kernel."""
    inputs = warp_inputs(2, 4, (33, 45), flow, torch.float32)

    def operator(*given: Tensor, impl: str) -> Tensor:
        return flow_warp(*given, padding=padding, impl=impl)  # type: ignore[arg-type]

    compare(operator, inputs, device, 2e-4)


@pytest.mark.parametrize("strength", [1.0, 0.4])
def test_native_blend_agrees(strength: float, device: str) -> None:
    def operator(*given: Tensor, impl: str) -> Tensor:
        return feature_blend(*given, strength=strength, impl=impl)

    compare(operator, blend_inputs(2, 19, (17, 23), torch.float32), device, 1e-5)


def test_strides_and_histories_do_not_matter(device: str) -> None:
    """Transposed, sliced, and the results of other operators."""
    x, weight, scale, shift = (t.to(device) for t in fourier_inputs(dtype=torch.float32))
    wanted = fft_conv(x, weight, scale, shift)
    strided = x.mT.contiguous().mT
    assert not strided.is_contiguous()
    padded = nn.Parameter(torch.stack((scale, scale), dim=1))[:, 0]
    torch.testing.assert_close(fft_conv(strided, weight.T.clone().T, padded, shift), wanted)


def test_the_twin_is_the_numpy_twin() -> None:
    x, weight, scale, shift = fourier_inputs(dtype=torch.float32)
    found = fft_conv(x, weight, scale, shift, impl="reference").numpy()
    true = kernels.fft_conv(*(t.numpy() for t in (x, weight, scale, shift)), impl="reference")
    np.testing.assert_allclose(found, true, atol=1e-5)
    for padding in PADDINGS:
        for flow in ((2, 5, 6, 2), (3, 4, 2)):
            image, field = warp_inputs(flow=flow, dtype=torch.float32)
            warped = flow_warp(image, field, padding=padding, impl="reference").numpy()
            true = kernels.flow_warp(
                image.numpy(), field.numpy(), padding=padding, layout="chw", impl="reference"
            )
            np.testing.assert_allclose(warped, true, atol=1e-5)
    given = blend_inputs(dtype=torch.float32)
    blended = feature_blend(*given, strength=0.7, impl="reference").numpy()
    true = kernels.feature_blend(*(t.numpy() for t in given), strength=0.7, impl="reference")
    np.testing.assert_allclose(blended, true, atol=1e-6)


def test_implementations_that_cannot_be() -> None:
    inputs = fourier_inputs()
    with pytest.raises(OptionError, match="impl must be"):
        fft_conv(*inputs, impl="quick")
    with pytest.raises(ShapeError, match="float32"):
        fft_conv(*inputs, impl="native")


def test_wrong_shapes_are_errors(device: str) -> None:
    x, weight, scale, shift = fourier_inputs(dtype=torch.float32)
    with pytest.raises(ShapeError, match="scale"):
        fft_conv(x, weight, scale[:-1], shift)
    image, flow = warp_inputs(dtype=torch.float32)
    with pytest.raises(ShapeError, match="flow"):
        flow_warp(image, flow[..., :1].contiguous())
    style, photo, spatial, channel = blend_inputs(dtype=torch.float32)
    with pytest.raises(ShapeError, match="channel_logits"):
        feature_blend(style, photo, spatial, channel[:, :, :-1].contiguous())


# --- torch's own checks, compiling and exporting -------------------------------------------------


def cases(dtype: Any) -> list[tuple[str, tuple[Any, ...]]]:
    return [
        ("fft_conv", tuple(with_gradients(fourier_inputs(dtype=dtype)))),
        ("flow_warp", (*with_gradients(warp_inputs(dtype=dtype)), "border")),
        ("flow_warp", (*with_gradients(warp_inputs(flow=(3, 4, 2), dtype=dtype)), "zero")),
        ("feature_blend", (*with_gradients(blend_inputs(dtype=dtype)), 0.5)),
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("index", range(4))
def test_torch_finds_the_operators_well_defined(index: int, dtype: Any) -> None:
    name, arguments = cases(dtype)[index]
    torch.library.opcheck(getattr(torch.ops.revisage, name).default, arguments)


class AllThree(nn.Module):
    """A little of everything: [N, 4, H, W] -> [N, 4, H, W]."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 8) / 4)
        self.scale, self.shift = nn.Parameter(torch.rand(8) + 0.5), nn.Parameter(torch.zeros(8))
        self.flow = nn.Conv2d(4, 2, 3, padding=1, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        wide = fft_conv(x, self.weight, self.scale, self.shift)
        moved = flow_warp(x, 3 * self.flow(x).permute(0, 2, 3, 1), padding="reflect")
        return feature_blend(moved, wide, x[:, :2], x.mean((2, 3))[:, None] * self.scale[:2, None])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")  # torch's own
@pytest.mark.filterwarnings("ignore:Torchinductor does not support.*complex")  # runs them eagerly
def test_compiled_in_one_piece_it_computes_and_trains_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Without what other versions of these operators may have left in the cache.
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    network = AllThree()
    compiled = torch.compile(network, fullgraph=True)
    for size in ((8, 10), (6, 14)):
        x = torch.randn(2, 4, *size)
        torch.testing.assert_close(compiled(x), network(x), atol=1e-5, rtol=1e-5)
    network(x).square().sum().backward()
    wanted = {name: parameter.grad for name, parameter in network.named_parameters()}
    network.zero_grad()
    compiled(x).square().sum().backward()
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(parameter.grad, wanted[name], atol=1e-4, rtol=1e-4)


def test_an_exported_program_computes_the_same() -> None:
    network = AllThree().eval()
    height, width = (2 * torch.export.Dim(name, min=2) for name in ("H2", "W2"))
    shapes = ({0: torch.export.Dim("N"), 2: height, 3: width},)
    program = torch.export.export(network, (torch.randn(2, 4, 8, 10),), dynamic_shapes=shapes)
    names = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert {f"revisage.{n}.default" for n in ("fft_conv", "flow_warp", "feature_blend")} <= names
    x = torch.randn(3, 4, 6, 14)
    torch.testing.assert_close(program.module()(x), network(x))
