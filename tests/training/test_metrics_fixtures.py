"""Metrics: the values of the published code, a second implementation, and what bad input gets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torchmetrics.functional.classification as second_classification
import torchmetrics.functional.image as second_image

from revisage.errors import CheckpointError, RecipeError
from revisage.training.importers import from_state_dict
from revisage.training.losses.focal_frequency import focal_frequency_loss
from revisage.training.metrics.errors import batch_psnr, l1, l2
from revisage.training.metrics.frechet import (
    FrechetFeatures,
    features_of,
    frechet_distance,
    frechet_features,
)
from revisage.training.metrics.lpips import Lpips, lpips_network
from revisage.training.metrics.niqe import (
    Pristine,
    fit_pristine,
    gaussian_window,
    half_size,
    luma,
    niqe,
    niqe_features,
    read_pristine,
    save_pristine,
)
from revisage.training.metrics.report import LARGEST_PSNR, image_figures
from revisage.training.metrics.segmentation import Overlap
from revisage.training.metrics.ssim import ms_ssim, ssim
from tests.training.parity import close, fixtures

TOLERANCE = 1e-5  # of the fixtures for single values


def pair(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Smooth noise in 0..1 and the same with more noise."""
    generator = torch.Generator().manual_seed(0)
    one = torch.nn.functional.avg_pool2d(torch.rand(shape, generator=generator), 5, 1, 2)
    return one, (one + 0.1 * torch.rand(shape, generator=generator)).clamp(0, 1)


def textured(height: int, width: int, seed: int = 0) -> np.ndarray:
    """[height, width, 3] uint8 of noise that looks a little like skin."""
    rng = np.random.default_rng(seed)
    coarse = np.kron(rng.normal(size=(height // 8 + 1, width // 8 + 1, 3)), np.ones((8, 8, 1)))
    noise = 128 + 20 * coarse[:height, :width] + 12 * rng.normal(size=(height, width, 3))
    return np.clip(noise, 0, 255).astype(np.uint8)


# --- fixtures -------------------------------------------------------------------------------------


def test_ssim_fixtures() -> None:
    for _, meta, arrays in fixtures("ssim_*.json"):
        for prefix, cases, function in (
            ("ssim", meta["cases"], ssim),
            ("ms", meta["ms_cases"], ms_ssim),
        ):
            for case in cases:
                number = case["id"]
                one = torch.from_numpy(arrays[f"{prefix}_a{number}"])
                two = torch.from_numpy(arrays[f"{prefix}_b{number}"])
                found = function(one, two, case["data_range"])
                close(found, arrays[f"{prefix}_v{number}"], TOLERANCE)


def test_focal_frequency_fixtures_with_all_options() -> None:
    for _, meta, arrays in fixtures("ffl_*.json"):
        for case in meta["cases"]:
            number = case["id"]
            found = torch.from_numpy(arrays[f"a{number}"]).requires_grad_()
            options = {k: v for k, v in case["kwargs"].items() if k != "loss_weight"}
            loss = focal_frequency_loss(
                found, torch.from_numpy(arrays[f"b{number}"]), **options
            ) * case["kwargs"].get("loss_weight", 1.0)
            close(loss, arrays[f"value{number}"], TOLERANCE)
            loss.backward()
            assert found.grad is not None
            close(found.grad, arrays[f"grad_a{number}"], TOLERANCE)


def test_frechet_fixtures() -> None:
    for _, meta, arrays in fixtures("frechet_*.json"):
        for case in meta["cases"]:
            number = case["id"]
            one, two = arrays[f"f1_{number}"], arrays[f"f2_{number}"]
            # With fewer samples than dimensions the square root is delicate.
            tolerance = 1e-2 if min(len(one), len(two)) <= one.shape[1] else 1e-6
            wanted = float(arrays[f"fid_{number}"])
            assert frechet_distance(one, two) == pytest.approx(wanted, rel=tolerance)
        assert abs(frechet_distance(arrays["f1_0"], arrays["f1_0"])) < 1e-6


def test_niqe_fixtures() -> None:
    for _, meta, arrays in fixtures("niqe_*.json"):
        np.testing.assert_allclose(gaussian_window(), arrays["gaussian_window"], atol=1e-12)
        pristine = Pristine(arrays["seeded_mu"].reshape(-1), arrays["seeded_cov"], "seeded")
        for case in meta["cases"]:
            number, border = case["id"], case["crop_border"]
            image = arrays[f"image{number}"]
            plane = luma(image)[border : image.shape[0] - border, border : image.shape[1] - border]
            wanted = arrays[f"y{number}"]
            whole = plane[: wanted.shape[0], : wanted.shape[1]]
            np.testing.assert_array_equal(whole, wanted)
            np.testing.assert_allclose(half_size(whole), arrays[f"half{number}"], atol=1e-3)
            features = niqe_features(plane)
            np.testing.assert_allclose(features, arrays[f"features{number}"], atol=5e-3)
            for name, gray in (("niqe_seeded", False), ("niqe_seeded_gray", True)):
                if f"{name}{number}" in arrays:
                    found = niqe(image, pristine, border=border, gray=gray)
                    assert found == pytest.approx(float(arrays[f"{name}{number}"]), rel=1e-3)


def test_lpips_fixtures() -> None:
    for fill, meta, arrays in fixtures("lpips_*.json"):
        try:
            state = fill.state_dict_torch(meta)
        except FileNotFoundError:
            pytest.skip(f"{meta['name']} needs the heads of the PyPI package lpips")
        network = from_state_dict(state)
        assert isinstance(network, Lpips)
        assert list(network.state_dict()) == list(state)
        for name in [name for name in arrays if name.startswith("a")]:
            one = torch.from_numpy(arrays[name])
            two = torch.from_numpy(arrays["b" + name[1:]])
            close(network(one, two), arrays["value" + name[1:]], TOLERANCE)
            close(network.per_layer(one, two), arrays["per_layer" + name[1:]], TOLERANCE)


# --- a second implementation ----------------------------------------------------------------------


def test_torchmetrics_agrees_on_pictures() -> None:
    one, two = pair(2, 3, 176, 192)
    torch.testing.assert_close(
        batch_psnr(one, two).mean(),
        second_image.peak_signal_noise_ratio(
            one, two, data_range=1.0, reduction="elementwise_mean", dim=(1, 2, 3)
        ),
    )
    # TorchMetrics also averages over windows that reach across the mirrored border.
    _, windows = second_image.structural_similarity_index_measure(
        one, two, data_range=1.0, reduction="none", return_full_image=True
    )
    inside = windows[..., 5:-5, 5:-5].mean(dim=(1, 2, 3))
    torch.testing.assert_close(ssim(one, two), inside, atol=1e-5, rtol=0)


def test_torchmetrics_agrees_on_masks() -> None:
    rng = np.random.default_rng(0)
    found, truth = rng.random((2, 3, 20, 30)) > 0.6
    overlap = Overlap()
    for one, two in zip(found, truth, strict=True):
        overlap.add(one, two)
    a, b = torch.from_numpy(found).int(), torch.from_numpy(truth).int()
    second = {
        "iou": second_classification.binary_jaccard_index(a, b),
        "precision": second_classification.binary_precision(a, b),
        "recall": second_classification.binary_recall(a, b),
        "f1": second_classification.binary_f1_score(a, b),
    }
    assert overlap.figures() == pytest.approx({k: float(v) for k, v in second.items()})


def test_overlap_of_nothing_with_nothing_is_whole() -> None:
    overlap = Overlap()
    overlap.add(np.zeros((4, 4)), np.zeros((4, 4)))
    assert overlap.figures() == {"iou": 1.0, "precision": 1.0, "recall": 1.0, "f1": 1.0}


# --- errors, SSIM ---------------------------------------------------------------------------------


def test_errors_of_a_known_difference() -> None:
    one = torch.zeros(2, 3, 4, 5)
    two = torch.stack([torch.full((3, 4, 5), 0.1), torch.full((3, 4, 5), 0.5)])
    torch.testing.assert_close(l1(one, two), torch.tensor([0.1, 0.5]))
    torch.testing.assert_close(l2(one, two), torch.tensor([0.01, 0.25]))
    torch.testing.assert_close(batch_psnr(one, two), torch.tensor([20.0, 6.0206]))


def test_errors_count_the_mask_only() -> None:
    one, two = torch.zeros(1, 3, 4, 4), torch.ones(1, 3, 4, 4)
    two[..., :2] = 0.25
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., :2] = 1
    assert float(l1(one, two, mask)) == pytest.approx(0.25)
    with pytest.raises(ValueError, match="empty"):
        l1(one, two, torch.zeros(1, 1, 4, 4))
    with pytest.raises(ValueError, match="mask must be"):
        l1(one, two, torch.zeros(1, 4, 4))


def test_equal_pictures() -> None:
    one, _ = pair(2, 3, 176, 170)
    torch.testing.assert_close(ssim(one, one), torch.ones(2))
    torch.testing.assert_close(ms_ssim(one, one), torch.ones(2))
    assert bool(torch.isinf(batch_psnr(one, one)).all())


def test_pictures_that_cannot_be_compared() -> None:
    one, two = pair(1, 3, 20, 24)
    with pytest.raises(ValueError, match="161 pixels"):
        ms_ssim(one, two)
    with pytest.raises(ValueError, match="11 pixels"):
        ssim(one[..., :10], two[..., :10])
    with pytest.raises(ValueError, match=r"\[N, C, H, W\]"):
        ssim(one, two[..., 1:])
    with pytest.raises(ValueError, match="floating point"):
        l1(one.byte(), two.byte())


# --- Frechet distance -----------------------------------------------------------------------------


def test_frechet_distance_of_moved_and_widened_sets() -> None:
    rows = np.random.default_rng(0).normal(size=(400, 6))
    assert frechet_distance(rows, rows + 2) == pytest.approx(6 * 4)
    # Deviations s and 2 s: (s - 2 s)^2 in every direction.
    rows -= rows.mean(axis=0)
    spread = float(np.trace(np.cov(rows, rowvar=False)))
    assert frechet_distance(rows, 2 * rows) == pytest.approx(spread)


def test_frechet_distance_of_fewer_samples_than_dimensions() -> None:
    rng = np.random.default_rng(0)
    one, two = rng.normal(size=(12, 32)), rng.normal(size=(10, 32)) + 1
    assert frechet_distance(one, two) > 20
    assert frechet_distance(np.ones((3, 4)), np.ones((3, 4))) == pytest.approx(0)


@pytest.mark.parametrize(
    ("one", "two", "match"),
    [
        (np.zeros((1, 3)), np.zeros((4, 3)), "at least 2 samples"),
        (np.zeros((4, 3)), np.zeros((4, 2)), "3 and 2 dimensions"),
        (np.full((4, 3), np.nan), np.zeros((4, 3)), "not finite"),
    ],
)
def test_features_that_are_refused(one: np.ndarray, two: np.ndarray, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        frechet_distance(one, two)


def test_the_stand_in_is_never_called_fid() -> None:
    features = frechet_features()
    assert features.name == "fid_stand_in"
    assert "stand-in" in features.record
    one, two = pair(6, 3, 32, 32)
    sharp, noisy = features_of(features, one.split(4)), features_of(features, [two])
    assert len(sharp) == len(noisy) == 6
    assert frechet_distance(sharp, noisy) > 10 * abs(frechet_distance(sharp, sharp))


def test_fid_needs_the_inception_file(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="pt_inception"):
        frechet_features(str(tmp_path / "absent.pth"))
    torch.save({"conv.weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="Conv2d_1a_3x3"):
        frechet_features(str(tmp_path / "other.pth"))
    with pytest.raises(ValueError, match="no picture"):
        features_of(FrechetFeatures("fid", "", torch.nn.Identity()), [])


@pytest.mark.slow
def test_inception_from_a_file(tmp_path: Path) -> None:
    from revisage.training.models.inception import FidInception

    torch.manual_seed(0)
    network = FidInception().eval()
    assert sum(p.numel() for p in network.parameters()) == 21_785_568
    state = {**network.state_dict(), "fc.weight": torch.zeros(1008, 2048)}
    torch.save(state, tmp_path / "inception.pth")
    features = frechet_features(str(tmp_path / "inception.pth"))
    assert features.name == "fid"
    image, _ = pair(1, 3, 40, 50)
    found = features_of(features, [image])
    assert found.shape == (1, 2048)
    with torch.inference_mode():
        np.testing.assert_allclose(found, network(image).double().numpy())


# --- NIQE -----------------------------------------------------------------------------------------


def test_niqe_prefers_what_it_was_fitted_to(tmp_path: Path) -> None:
    pristine = fit_pristine((textured(480, 480, seed) for seed in range(3)), "drawn noise")
    save_pristine(pristine, tmp_path / "pristine.npz")
    again = read_pristine(tmp_path / "pristine.npz")
    assert "drawn noise" in again.record
    fresh = textured(288, 288, 7)
    blurred = (np.roll(fresh.astype(float), 1, 1) + fresh + np.roll(fresh.astype(float), 1, 0)) / 3
    assert niqe(fresh, again) < 0.5 * niqe(blurred.astype(np.uint8), again)


def test_niqe_refuses_what_it_cannot_judge(tmp_path: Path) -> None:
    pristine = Pristine(np.zeros(36), np.eye(36), "none")
    with pytest.raises(ValueError, match="two blocks"):
        niqe(textured(100, 120), pristine)
    with pytest.raises(ValueError, match="two blocks"):
        niqe(np.full((200, 200, 3), 7, np.uint8), pristine)
    with pytest.raises(ValueError, match="uint8 RGB"):
        niqe(np.zeros((200, 200)), pristine)
    with pytest.raises(ValueError, match="96 x 96"):
        niqe(textured(90, 200), pristine)
    with pytest.raises(ValueError, match="too few"):
        fit_pristine([textured(200, 200)], "one picture")
    (tmp_path / "text.npz").write_text("no")
    with pytest.raises(RecipeError, match=r"niqe_pris_params\.npz"):
        read_pristine(tmp_path / "text.npz")
    np.savez(tmp_path / "small.npz", mu_pris_param=np.zeros(3), cov_pris_param=np.eye(3))
    with pytest.raises(RecipeError, match="36 features"):
        read_pristine(tmp_path / "small.npz")


def test_half_size_keeps_flat_and_linear_pictures() -> None:
    flat = np.full((96, 96), 80, np.float32)
    np.testing.assert_allclose(half_size(flat), flat[::2, ::2], atol=1e-4)
    ramp = np.broadcast_to(np.arange(96, dtype=np.float32), (96, 96))
    np.testing.assert_allclose(
        half_size(ramp)[:, 4:-4], ramp[:48, 0:96:2][:, 4:-4] + 0.5, atol=1e-4
    )


# --- LPIPS ----------------------------------------------------------------------------------------


def test_lpips_from_two_files_is_that_of_one(tmp_path: Path) -> None:
    torch.manual_seed(0)
    whole = Lpips("alex")
    state = whole.state_dict()
    torch.save(state, tmp_path / "whole.pth")
    heads = {key: value for key, value in state.items() if key.startswith("lin") and key[3] != "s"}
    torch.save(heads, tmp_path / "heads.pth")
    trunk = {"classifier.1.weight": torch.zeros(2)}
    for key, value in state.items():
        if key.startswith("net."):
            trunk["features." + key.split(".", 2)[2]] = value
    torch.save(trunk, tmp_path / "trunk.pth")
    one, two = pair(2, 3, 48, 40)
    wanted = whole(2 * one - 1, 2 * two - 1)
    assert bool((wanted != 0).all())
    for files in (("whole.pth", ""), ("trunk.pth", "heads.pth")):
        network = lpips_network(*(str(tmp_path / name) if name else "" for name in files))
        assert network.name == "lpips"
        assert "sha256" in network.record
        torch.testing.assert_close(network(2 * one - 1, 2 * two - 1), wanted)
    with pytest.raises(CheckpointError, match=r"heads of LPIPS, whose keys are lin0\.model"):
        lpips_network(str(tmp_path / "trunk.pth"), str(tmp_path / "trunk.pth"))


def test_lpips_vgg_is_recognised() -> None:
    with torch.device("meta"):
        keys = Lpips("vgg").state_dict()
    state = {key: torch.zeros(value.shape) for key, value in keys.items()}
    network = from_state_dict(state)
    assert isinstance(network, Lpips)
    assert [name for name, _ in network.net.named_children()][-1] == "slice5"
    assert network.lins[4].model[1].weight.shape == (1, 512, 1, 1)  # type: ignore[index, union-attr]
    assert "net.slice5.28.weight" in network.state_dict()


def test_lpips_needs_both_files(tmp_path: Path) -> None:
    (tmp_path / "heads.pth").write_bytes(b"")
    with pytest.raises(RecipeError, match="no trunk"):
        lpips_network("", str(tmp_path / "heads.pth"))
    with pytest.raises(RecipeError, match="not a file"):
        lpips_network(str(tmp_path / "absent.pth"))


def test_the_stand_in_is_never_called_lpips() -> None:
    network = lpips_network()
    assert network.name == "lpips_stand_in"
    assert "stand-in" in network.record
    one, two = pair(2, 3, 48, 40)
    found = network(2 * one - 1, 2 * two - 1)
    assert found.shape == (2,)
    assert bool((found > network(2 * one - 1, 2 * one - 1)).all())


# --- the report -----------------------------------------------------------------------------------


def test_image_figures_have_the_usual_names() -> None:
    one, two = pair(2, 3, 176, 170)
    figures = image_figures(one, two, distance=lpips_network())
    assert set(figures) == {"l1", "l2", "psnr", "ssim", "ms_ssim", "lpips_stand_in"}
    assert figures["ssim"] == pytest.approx(float(ssim(one, two).mean()))
    assert set(image_figures(one[..., :32], two[..., :32])) == {"l1", "l2", "psnr", "ssim"}
    assert image_figures(one, one)["psnr"] == LARGEST_PSNR


def test_image_figures_of_the_hole() -> None:
    one, two = torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8)
    two[..., :4] = 0.5
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., :4] = 1
    figures = image_figures(one, two, mask)
    assert figures == pytest.approx({"l1": 0.5, "l2": 0.25, "psnr": 6.0206}, abs=1e-4)
