"""Fast Fourier convolutions: both forms of the transform agree, and the parts do what they say."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch

from revisage.training.models.ffc import (
    FFC,
    FFCBlock,
    FFCResidualBlock,
    FourierUnit,
    SpectralTransform,
    fourier_matrices,
    irfft2_by_matrices,
    rfft2_by_matrices,
    use_fourier_transform,
)

SIZES = [(8, 8), (5, 7), (6, 5), (5, 6), (1, 1), (1, 8), (9, 1), (2, 2), (24, 40), (33, 45)]


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_matrix_products_are_the_transform(height: int, width: int) -> None:
    x = torch.randn(2, 3, height, width)
    across, down, back = fourier_matrices(x)
    spectrum = torch.fft.rfft2(x, norm="ortho")
    found = rfft2_by_matrices(x, across, down)
    torch.testing.assert_close(found[:, 0::2], spectrum.real, atol=1e-5, rtol=0)
    torch.testing.assert_close(found[:, 1::2], spectrum.imag, atol=1e-5, rtol=0)
    # Not the spectrum of any real picture: what the library ignores must be ignored too.
    parts = torch.randn_like(found)
    complex_parts = torch.complex(parts[:, 0::2], parts[:, 1::2])
    wanted = torch.fft.irfft2(complex_parts, s=(height, width), norm="ortho")
    torch.testing.assert_close(irfft2_by_matrices(parts, down, back), wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_both_forms_of_the_fourier_unit_agree(height: int, width: int, norm: bool) -> None:
    unit = FourierUnit(4, 6, norm=norm).eval()
    x = torch.randn(2, 4, height, width)
    with torch.inference_mode():
        wanted = unit(x)
        assert use_fourier_transform(unit, "matrices") is unit
        found = unit(x)
    assert wanted.shape == (2, 6, height, width)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


def test_spectrum_channels_are_interleaved() -> None:
    """A convolution that keeps real parts only makes every channel even: f(x) = f(-x)."""
    unit = FourierUnit(2, 2, norm=False)
    keep = torch.zeros(4, 4)
    keep[0, 0] = keep[2, 2] = 1.0  # c0 real and c1 real
    unit.conv_layer.weight.data = keep[:, :, None, None]
    x = torch.randn(1, 2, 6, 8)
    with torch.inference_mode():
        out = unit(x)
    mirrored = torch.roll(out.flip(2, 3), (1, 1), (2, 3))
    torch.testing.assert_close(out, mirrored, atol=1e-5, rtol=0)
    wanted = torch.fft.irfft2(
        torch.relu(torch.fft.rfft2(x, norm="ortho").real) + 0j, s=(6, 8), norm="ortho"
    )
    torch.testing.assert_close(out, wanted, atol=1e-5, rtol=0)


def test_without_norm_the_unit_is_homogeneous() -> None:
    unit = FourierUnit(3, 3, norm=False).eval()
    x = torch.randn(1, 3, 8, 8)
    with torch.inference_mode():
        torch.testing.assert_close(unit(5 * x), 5 * unit(x), atol=1e-4, rtol=1e-4)
    assert not any("bias" in name for name, _ in unit.named_parameters())


def test_one_pixel_reaches_the_whole_global_part() -> None:
    torch.manual_seed(1)  # with other weights, rectifiers may silence so narrow a block
    block = FFCBlock(8, 8, 3, 0.5, 0.5, padding=1).eval()
    local, wide = torch.rand(1, 4, 16, 16), torch.rand(1, 4, 16, 16)
    with torch.inference_mode():
        before_local, before_wide = block(local, wide)
        wide[0, :, 3, 3] += 5.0
        after_local, after_wide = block(local, wide)
    assert before_local is not None
    assert after_local is not None
    assert before_wide is not None
    assert after_wide is not None
    moved = (after_local != before_local).any(dim=1)[0]
    assert not bool(moved[6:].any())
    assert bool((after_wide != before_wide).any(dim=1)[0, 8:].any())


@pytest.mark.parametrize(("ratio_in", "ratio_out"), [(0, 0), (0, 0.75), (0.75, 0), (0.5, 0.25)])
def test_parts_without_channels_are_absent(ratio_in: float, ratio_out: float) -> None:
    layer = FFC(8, 16, 3, ratio_in, ratio_out, padding=1)
    wide_in, wide_out = int(8 * ratio_in), int(16 * ratio_out)
    local = torch.rand(1, 8 - wide_in, 8, 8)
    out_local, out_wide = layer(local, torch.rand(1, wide_in, 8, 8) if wide_in else None)
    assert out_local is not None
    assert out_local.shape == (1, 16 - wide_out, 8, 8)
    assert (out_wide is None) == (wide_out == 0)
    assert not any("convg" in name for name, _ in layer.named_parameters()) or wide_in


def test_stride_two_halves_both_parts() -> None:
    block = FFCBlock(8, 8, 3, 0.5, 0.5, stride=2, padding=1).eval()
    local, wide = block(torch.rand(1, 4, 12, 20), torch.rand(1, 4, 12, 20))
    assert local is not None
    assert wide is not None
    assert local.shape == wide.shape == (1, 4, 6, 10)


def test_residual_block_adds_its_input() -> None:
    block = FFCResidualBlock(8, 0.5, norm=False)
    for parameter in block.parameters():
        torch.nn.init.zeros_(parameter)
    local, wide = torch.randn(1, 4, 8, 8), torch.randn(1, 4, 8, 8)
    out_local, out_wide = block(local, wide)
    torch.testing.assert_close(out_local, local)
    torch.testing.assert_close(out_wide, wide)


def test_local_unit_sees_quadrants() -> None:
    """A value moved by half the size changes nothing that the quadrants' unit returns."""
    transform = SpectralTransform(16, 16, local_unit=True).eval()
    assert transform.lfu is not None
    x = torch.rand(1, 8, 8, 8)
    seen: list[torch.Tensor] = []
    transform.lfu.register_forward_hook(lambda module, inputs, out: seen.append(inputs[0]))
    with torch.inference_mode():
        transform.fu(x)
        out = transform(torch.rand(1, 16, 8, 8))
    assert out.shape == (1, 16, 8, 8)
    assert seen[0].shape == (1, 8, 4, 4)


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")  # of torch itself
def test_unit_exports_at_any_size() -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    unit = use_fourier_transform(FourierUnit(3, 4).eval(), "matrices")
    x = torch.randn(1, 3, 12, 10)
    height, width = torch.export.Dim("H", min=2), torch.export.Dim("W", min=2)
    program = torch.onnx.export(
        unit, (x,), dynamo=True, opset_version=18, dynamic_shapes=({2: height, 3: width},),
        verbose=False,
    )  # fmt: skip
    assert program is not None
    buffer = io.BytesIO()
    program.save(buffer)
    session = onnxruntime.InferenceSession(buffer.getvalue(), providers=["CPUExecutionProvider"])
    assert "DFT" not in {node.op_type for node in program.model.graph}
    use_fourier_transform(unit, "fft")
    for size in ((12, 10), (7, 9), (16, 24)):
        x = torch.randn(1, 3, *size)
        (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        with torch.inference_mode():
            np.testing.assert_allclose(found, unit(x).numpy(), atol=1e-5)
