"""Degradation: what each step does to a picture, and from which values it is drawn."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from revisage.training.data.degrade import AUTHORS, PAPER, Degradation, degrade

SHARP = Degradation(blur_share=0, scale_share=0, noise_share=0, jpeg_share=0)  # changes nothing


def only(**fields: object) -> Degradation:
    """A degradation of the given steps, always applied."""
    settings: dict[str, object] = {f"{n}_share": 0.0 for n in ("blur", "scale", "noise", "jpeg")}
    return Degradation(**(settings | {f"{n}_share": 1.0 for n in fields} | fields))  # type: ignore[arg-type]


def textured(size: int = 128) -> npt.NDArray[np.uint8]:
    """Smooth noise with detail at every scale."""
    rng = np.random.default_rng(0)
    field = np.full((size, size, 3), 128.0, np.float32)
    for cells, weight in ((8, 25), (32, 18), (size, 12)):
        grid = rng.standard_normal((cells, cells, 3), dtype=np.float32)
        field += weight * cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC)
    return np.clip(np.rint(field), 0, 255).astype(np.uint8)


def power_above(image: npt.NDArray[np.uint8], frequency: float) -> float:
    """Spectral power beyond a frequency, in cycles per pixel."""
    gray = image.astype(np.float64).mean(axis=2)
    spectrum = np.abs(np.fft.fft2(gray - gray.mean())) ** 2
    axis = np.fft.fftfreq(len(gray))
    return float(spectrum[np.hypot(*np.meshgrid(axis, axis)) > frequency].sum())


def test_same_seed_same_picture() -> None:
    image = textured()
    before = image.copy()
    first = degrade(image, np.random.default_rng(3))
    again = degrade(image, np.random.default_rng(3))
    other = degrade(image, np.random.default_rng(4))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    np.testing.assert_array_equal(image, before)
    assert first.shape == image.shape
    assert first.dtype == np.uint8
    assert first.flags.writeable


def test_no_step_changes_nothing() -> None:
    image = textured()
    np.testing.assert_array_equal(degrade(image, np.random.default_rng(0), SHARP), image)


@pytest.mark.parametrize("scale", [2.0, 4.0, 8.0])
def test_scale_removes_what_the_small_size_cannot_show(scale: float) -> None:
    image = textured()
    small = degrade(image, np.random.default_rng(0), SHARP, scale=scale)
    # The reduced picture has nothing beyond its Nyquist frequency; the kernel leaks a little.
    kept = power_above(small, 0.75 / scale) / power_above(image, 0.75 / scale)
    assert kept < 0.08
    low = power_above(image, 0) - power_above(image, 0.15 / scale)
    assert abs(power_above(small, 0) - power_above(small, 0.15 / scale) - low) < 0.1 * low


def test_fixed_scale_overrides_the_draw_and_keeps_the_others() -> None:
    flat = np.full((128, 128, 3), 128, np.uint8)
    settings = only(noise=(6.0, 6.0))
    result = degrade(flat, np.random.default_rng(0), settings, scale=8)
    again = degrade(flat, np.random.default_rng(0), settings, scale=8)
    np.testing.assert_array_equal(result, again)
    # Noise of the small size is as coarse as its pixels.
    neighbours = np.corrcoef(result[:, :-1].ravel(), result[:, 1:].ravel())[0, 1]
    assert neighbours > 0.9


@pytest.mark.parametrize("sigma", [2.0, 7.0, 15.0])
def test_noise_has_the_asked_deviation(sigma: float) -> None:
    flat = np.full((128, 128, 3), 128, np.uint8)
    noisy = degrade(flat, np.random.default_rng(0), only(noise=(sigma, sigma)))
    # 49152 samples: three standard errors are 1 %; rounding adds 1/12 to the variance.
    assert np.std(noisy.astype(float)) == pytest.approx(np.hypot(sigma, 12**-0.5), rel=0.015)
    assert abs(noisy.astype(float).mean() - 128) < 0.2


def test_noise_is_clipped_not_wrapped() -> None:
    for level in (0, 255):
        flat = np.full((64, 64, 3), level, np.uint8)
        noisy = degrade(flat, np.random.default_rng(0), only(noise=(7.0, 7.0))).astype(int)
        assert np.abs(noisy - level).max() < 50


@pytest.mark.parametrize("sigma", [1.0, 2.0, 3.0])
def test_blur_is_a_gaussian_of_the_asked_deviation(sigma: float) -> None:
    point = np.zeros((65, 65, 3), np.uint8)
    point[32:, :] = 255  # an edge: its derivative is the kernel
    edge = degrade(point, np.random.default_rng(0), only(blur=(sigma, sigma))).astype(float)
    kernel = np.diff(edge[:, 32, 0])
    where = np.arange(len(kernel)) - (kernel * np.arange(len(kernel))).sum() / kernel.sum()
    deviation = np.sqrt((kernel * where**2).sum() / kernel.sum())
    assert deviation == pytest.approx(sigma, rel=0.06)


def test_error_falls_with_the_quality_of_jpeg() -> None:
    image = textured()
    errors = []
    for quality in (10.0, 20.0, 40.0, 70.0, 95.0):
        stored = degrade(image, np.random.default_rng(0), only(jpeg=(quality, quality)))
        errors.append(np.abs(stored.astype(int) - image).mean())
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 1.5 * errors[-1]


def test_channels_stay_in_order() -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    image[..., 0] = 200
    result = degrade(image, np.random.default_rng(0), PAPER)
    assert result[..., 0].mean() > 150
    assert result[..., 2].mean() < 50


def test_larger_pictures_and_other_shapes() -> None:
    for shape in ((512, 512, 3), (60, 90, 3)):
        image = np.full(shape, 90, np.uint8)
        for settings in (PAPER, AUTHORS):
            assert degrade(image, np.random.default_rng(1), settings).shape == shape


def test_authors_blur_only_a_part() -> None:
    point = np.zeros((33, 33, 3), np.uint8)
    point[16:] = 255
    settings = Degradation(
        blur=AUTHORS.blur, blur_share=AUTHORS.blur_share, scale_share=0, noise_share=0, jpeg_share=0
    )
    rng = np.random.default_rng(0)
    blurred = [(degrade(point, rng, settings) != point).any() for _ in range(1000)]
    # 6 of 22; three standard errors of 1000 draws are 0.042.
    assert np.mean(blurred) == pytest.approx(6 / 22, abs=0.045)


@pytest.mark.parametrize(
    "fields",
    [
        {"blur": (3.0, 1.0)},
        {"scale": (0.5, 2.0)},
        {"noise": (-1.0, 2.0)},
        {"jpeg": (10.0, 101.0)},
        {"jpeg_share": 1.5},
        {"scale_step": -0.1},
    ],
)
def test_impossible_ranges_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(fields)).split("_")[0]):
        Degradation(**fields)  # type: ignore[arg-type]


def test_impossible_input_is_refused() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="scale must be 1 or more"):
        degrade(textured(), rng, scale=0.5)
    with pytest.raises(ValueError, match="uint8"):
        degrade(np.zeros((8, 8, 3)), rng)  # type: ignore[arg-type]
