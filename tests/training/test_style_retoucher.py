"""StyleRetoucher: its blend is that of the kernel, its dial, its blends, its training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from revisage.errors import RecipeError
from revisage.kernels import feature_blend
from revisage.training.data.aligned_faces import align_face
from revisage.training.data.retouch_pairs import RetouchPairs
from revisage.training.importers import from_checkpoint
from revisage.training.loop import fit
from revisage.training.models.psp import Psp
from revisage.training.models.style_retoucher import (
    BLENDS,
    FeatureSelection,
    StyleRetoucher,
    blend_features,
    level_strengths,
)
from revisage.training.models.stylegan2 import StyleGAN2
from revisage.training.models.stylegan2_ada import NvStyleGAN2
from revisage.training.recipe import Run, overridden, read_recipe, recipe_path, section
from revisage.training.tasks import style_retoucher as task_module
from tests.training.drawn_portraits import drawn_portrait


def small_retoucher(blend: str = "both", size: int = 16) -> StyleRetoucher:
    torch.manual_seed(0)
    prior = StyleGAN2(size, style_dim=8, n_mlp=2, largest_width=8, channel_multiplier=1)
    network = StyleRetoucher(prior, blend)
    network.centre(64)
    for parameter in network.selection.parameters():  # logits begin at 0
        torch.nn.init.normal_(parameter)
    return network.eval()


@pytest.mark.parametrize("strength", [1.0, 0.0, 0.4])
def test_the_blend_is_that_of_the_kernel(strength: float) -> None:
    rng = np.random.default_rng(0)
    style, image = rng.standard_normal((2, 2, 5, 6, 7)).astype(np.float32)
    spatial = 3 * rng.standard_normal((2, 2, 6, 7)).astype(np.float32)
    channel = 3 * rng.standard_normal((2, 2, 5)).astype(np.float32)
    for impl in ("reference", None):
        wanted = feature_blend(style, image, spatial, channel, strength=strength, impl=impl)
        arrays = (style, image, spatial, channel)
        found = blend_features(*(torch.from_numpy(a) for a in arrays), strength)
        np.testing.assert_allclose(found.numpy(), wanted, atol=2e-6, rtol=2e-6)


def test_the_blend_of_the_network_is_that_of_the_kernel() -> None:
    torch.manual_seed(0)
    selection = FeatureSelection(6, "both")
    for parameter in selection.parameters():
        torch.nn.init.normal_(parameter)
    style, image = torch.randn(2, 6, 8, 8), torch.randn(2, 6, 8, 8)
    with torch.inference_mode():
        found = selection(style, image, 0.7)
        spatial, channel = selection.logits(style, image)
    assert spatial is not None
    assert channel is not None
    wanted = feature_blend(
        style.numpy(), image.numpy(), spatial.numpy(), channel.numpy(), strength=0.7
    )
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-5, rtol=1e-5)


def test_one_mask_alone_is_a_weighted_mean() -> None:
    style, image = torch.ones(1, 2, 2, 2), torch.zeros(1, 2, 2, 2)
    spatial = torch.zeros(1, 2, 2, 2)
    spatial[0, 0, 0, 0] = 100.0
    found = blend_features(style, image, spatial, None)
    torch.testing.assert_close(found[0, :, 0, 0], torch.ones(2))
    torch.testing.assert_close(found[0, :, 1, 1], torch.full((2,), 0.5))
    channel = torch.tensor([[[100.0, 0.0], [0.0, 100.0]]])  # [N, 2, C]
    found = blend_features(style, image, None, channel)
    torch.testing.assert_close(found[0, :, 0, 0], torch.tensor([1.0, 0.0]))
    with pytest.raises(ValueError, match="spatial logits, channel logits"):
        blend_features(style, image, None, None)


def test_the_masks_begin_without_a_preference() -> None:
    style, image = torch.randn(2, 6, 8, 8), torch.randn(2, 6, 8, 8)
    torch.testing.assert_close(FeatureSelection(6, "both")(style, image), (style + image) / 4)
    torch.testing.assert_close(FeatureSelection(6, "spatial")(style, image), (style + image) / 2)


def test_strengths_of_levels() -> None:
    assert level_strengths(0.5, 9) == [1.0, *[0.5] * 7, 1.0]  # levels 2 to 8 of nine
    assert level_strengths([0.1, 0.2, 0.3], 3) == [0.1, 0.2, 0.3]
    for wrong, words in (
        ([1.0, 1.0], "3 \\(one for each level\\)"),
        (-0.1, "at least 0"),
        (float("nan"), "finite"),
    ):
        with pytest.raises(ValueError, match=words):
            level_strengths(wrong, 3)


@pytest.mark.parametrize("blend", BLENDS)
def test_blends(blend: str) -> None:
    network = small_retoucher(blend)
    image = torch.rand(2, 3, 16, 16)
    with torch.inference_mode():
        out = network(image)
        other = network(1 - image)
    assert out.shape == image.shape
    assert not torch.allclose(out, other)
    names = {name.split(".")[2] for name, _ in network.named_parameters() if "selection" in name}
    assert (
        names
        == {
            "none": set(),
            "concat": {"join"},
            "spatial": {"spatial"},
            "channel": {"channel"},
            "both": {"spatial", "channel"},
        }[blend]
    )


def test_the_dial_works_level_by_level() -> None:
    network = small_retoucher()
    image = torch.rand(1, 3, 16, 16)
    with torch.inference_mode():
        full = network(image)
        torch.testing.assert_close(network(image, [1.0, 1.0, 1.0]), full, atol=0, rtol=0)
        torch.testing.assert_close(network(image, torch.ones(3)), full, atol=0, rtol=0)
        half = network(image, 0.5)
        torch.testing.assert_close(network(image, [1.0, 0.5, 1.0]), half, atol=0, rtol=0)
        single = [network(image, [0.0 if i == j else 1.0 for i in range(3)]) for j in range(3)]
    for changed in (half, *single):
        assert not torch.allclose(changed, full)


def test_without_prior_channels_the_latents_do_not_matter() -> None:
    network = small_retoucher("channel")
    image = torch.rand(1, 3, 16, 16)
    with torch.inference_mode():
        before = network(image, [0.0] * 3)
        network.prior.input.input.normal_()
        # Strength 0 at all levels: only what the encoder saw goes on.
        torch.testing.assert_close(network(image, [0.0] * 3), before, atol=0, rtol=0)
        assert not torch.allclose(network(image), before)


def test_strength_needs_a_channel_mask() -> None:
    image = torch.rand(1, 3, 16, 16)
    for blend in ("none", "concat", "spatial"):
        with pytest.raises(ValueError, match="no channel mask"):
            small_retoucher(blend)(image, 0.5)
    with pytest.raises(ValueError, match=r"\[N, 3, 16, 16\]"):
        small_retoucher()(torch.rand(1, 3, 8, 8))
    with pytest.raises(ValueError, match="none, concat, spatial, channel, both"):
        FeatureSelection(4, "sum")


def test_results_repeat_and_gradients_reach_every_part() -> None:
    network = small_retoucher()
    image = torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(network(image), network(image), atol=0, rtol=0)
    network(image).square().mean().backward()
    unused = [
        name
        for name, parameter in network.named_parameters()
        if parameter.grad is None and not name.startswith("prior.style.")
    ]
    assert unused == []


def test_sizes() -> None:
    with torch.device("meta"):
        paper, compact = StyleRetoucher.paper(), StyleRetoucher.compact()
    assert (paper.size, paper.levels, compact.size, compact.levels) == (1024, 9, 256, 7)
    assert round(sum(p.numel() for p in paper.parameters()) / 1e6, 2) == 70.59
    assert round(sum(p.numel() for p in compact.parameters()) / 1e6, 2) == 3.55


# --- training ------------------------------------------------------------------------------------


def tiny(portraits: Path, name: str, **changes: dict[str, Any]) -> dict[str, dict[str, Any]]:
    recipe = overridden(read_recipe(recipe_path(name)), task_module.TINY)
    recipe = overridden(recipe, {"data": {"portraits": [str(portraits)]}})
    return overridden(recipe, changes)


def test_training_is_judged(portraits_folder: Path, tmp_path: Path) -> None:
    recipe = tiny(
        portraits_folder,
        "style_retoucher",
        run={"same_batch": True, "log_every": 1, "threads": 1, "steps": 6},
        loss={"r1_every": 3},
    )
    task = task_module.build(recipe)
    lines: list[dict[str, float]] = []
    figures = fit(
        task,
        section(recipe, "run", Run),
        tmp_path,
        optimisers=recipe["optimiser"],
        progress=lambda line: lines.append(dict(line)),
    )
    assert lines[-1][task.watch] < lines[0][task.watch]
    assert [i for i, line in enumerate(lines) if "critic_r1/r1" in line] == [0, 3]
    assert {"psnr", "ssim", "l1", "l2", "blemish_psnr", "input_psnr"} <= set(figures)
    assert task.pictures(task.networks)["retoucher"].shape == (96, 64, 3)


def test_psp_is_trained_by_the_same_task(portraits_folder: Path) -> None:
    task = task_module.build(tiny(portraits_folder, "psp"))
    assert isinstance(task.retoucher, Psp)
    assert [turn.name for turn in task.turns] == ["generator"]
    assert set(task.networks) == {"retoucher"}
    loss, parts = task.turns[0].loss(task.sample(np.random.default_rng(0), 2))
    loss.backward()
    assert set(parts) == {"l1", "l2"}
    assert task.retoucher.encoder.latlayer1.weight.grad is not None


@pytest.mark.parametrize("blend", BLENDS)
def test_every_row_of_the_ablation_takes_a_step(blend: str, portraits_folder: Path) -> None:
    task = task_module.build(tiny(portraits_folder, "style_retoucher", model={"blend": blend}))
    batch = task.sample(np.random.default_rng(0), 2)
    for turn in task.turns:
        loss, _ = turn.loss(dict(batch))
        assert bool(torch.isfinite(loss))
        loss.backward()


def test_samples_are_functions_of_the_generator(portraits_folder: Path) -> None:
    task = task_module.build(tiny(portraits_folder, "style_retoucher", data={"lambda_clean": 0.0}))
    one, two = (task.sample(np.random.default_rng(5), 3) for _ in range(2))
    for name in ("image", "target"):
        torch.testing.assert_close(one[name], two[name], atol=0, rtol=0)
        assert one[name].shape == (3, 3, 32, 32)
        assert float(one[name].min()) >= 0
        assert float(one[name].max()) <= 1
    assert not torch.equal(one["image"], one["target"])
    clean = task_module.build(tiny(portraits_folder, "style_retoucher", data={"lambda_clean": 1.0}))
    batch = clean.sample(np.random.default_rng(5), 3)
    torch.testing.assert_close(batch["image"], batch["target"], atol=0, rtol=0)


@pytest.mark.parametrize("metadata", [True, False])
def test_retouched_pairs(metadata: bool, portraits_folder: Path, tmp_path: Path) -> None:
    listing: dict[str, Any] = {}
    for number in (0, 1, 56000):
        photo, landmarks = drawn_portrait(number, 0, 64)
        name = f"{number // 1000 * 1000:05d}/{number:05d}.png"
        clean = cv2.GaussianBlur(photo, (0, 0), 1.5)
        for folder, picture in (("ffhq/images1024x1024", photo), ("ffhqr", clean)):
            path = tmp_path / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), picture[..., ::-1])
        listing[str(number)] = {
            "image": {
                "file_path": f"images1024x1024/{name}",
                "face_landmarks": landmarks.tolist(),
            },
            "category": "training",
        }
    if metadata:
        (tmp_path / "ffhq" / "ffhq-dataset-v2.json").write_text(json.dumps(listing))
    folders = {"ffhq": str(tmp_path / "ffhq"), "retouched": str(tmp_path / "ffhqr")}
    changes = {**folders, "lambda_low": 1.0, "lambda_high": 1.0, "lambda_clean": 0.0}
    task = task_module.build(tiny(portraits_folder, "style_retoucher", data=changes))
    batch = task.sample(np.random.default_rng(0), 4)
    difference = (batch["image"] - batch["target"]).abs()
    assert 1e-3 < float(difference.mean()) < 0.1
    figures = task.validate(task.networks, tmp_path, 0)
    assert figures["input_blemish_psnr"] < figures["input_psnr"]
    assert task.notes["alignment"] == ("canonical square" if metadata else "FFHQ's own")
    pairs = RetouchPairs(folders["ffhq"], folders["retouched"], "train", 64)
    assert len(pairs) == 2
    photo, clean = pairs[1]
    if metadata:
        wanted = align_face(drawn_portrait(1, 0, 64)[0], drawn_portrait(1, 0, 64)[1], 64)[0]
        np.testing.assert_array_equal(photo, wanted)
    else:
        np.testing.assert_array_equal(photo, drawn_portrait(1, 0, 64)[0])
    with pytest.raises(RecipeError, match="belong together"):
        task_module.build(tiny(portraits_folder, "style_retoucher", data={"ffhq": "x"}))


@pytest.mark.parametrize("layout", ["rosinality", "nvlabs"])
def test_a_prior_from_a_file(layout: str, portraits_folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(3)
    path = tmp_path / "prior.pt"
    if layout == "rosinality":
        torch.save({"g_ema": StyleGAN2(32, 8, 2, 1, largest_width=6).state_dict()}, path)
    else:
        torch.save(NvStyleGAN2(8, 0, 8, 32, channels=[6] * 4, num_layers=2).state_dict(), path)
    for frozen in (True, False):
        model = {"prior": str(path), "freeze_prior": frozen}
        task = task_module.build(tiny(portraits_folder, "style_retoucher", model=model))
        assert isinstance(task.retoucher, StyleRetoucher)
        assert task.retoucher.prior.widths == [6] * 4
        assert task.notes["prior"].startswith(str(path))
        learning = {p.requires_grad for p in task.retoucher.prior.parameters()}
        assert learning == {not frozen}
        assert float(task.retoucher.latent_head.mean.abs().max()) > 0


def test_a_frozen_prior_stays(portraits_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "prior.pt"
    torch.save(StyleGAN2(32, 8, 2, 1, largest_width=6).state_dict(), path)
    recipe = tiny(
        portraits_folder,
        "style_retoucher",
        model={"prior": str(path), "freeze_prior": True},
        run={"steps": 2, "threads": 1},
    )
    task = task_module.build(recipe)
    fit(task, section(recipe, "run", Run), tmp_path / "run", optimisers=recipe["optimiser"])
    assert isinstance(task.retoucher, StyleRetoucher)
    before = from_checkpoint(path).state_dict()
    for key, value in task.retoucher.prior.state_dict().items():
        torch.testing.assert_close(value, before[key], atol=0, rtol=0, msg=key)


def test_what_cannot_be_built_is_a_recipe_error(portraits_folder: Path, tmp_path: Path) -> None:
    small = tmp_path / "small.pt"
    torch.save(StyleGAN2(16, 8, 2, 1, largest_width=6).state_dict(), small)
    (tmp_path / "text.pt").write_text("nothing")
    cases: tuple[tuple[dict[str, Any], str], ...] = (
        ({"model": {"prior": "nowhere.pt"}}, "nowhere.pt is not a file"),
        ({"model": {"prior": str(small)}}, "not a StyleGAN2 generator of 32 px"),
        ({"model": {"prior": str(tmp_path / "text.pt")}}, "not a checkpoint"),
        ({"model": {"freeze_prior": True}}, "freeze_prior needs prior"),
        ({"model": {"blend": "sum"}}, "blend is one of"),
        ({"model": {"network": "unet"}}, "style_retoucher or psp"),
        ({"data": {"size": 40}}, "power of two"),
        ({"data": {"lambda_low": 2.0}}, "low <= high"),
        (
            {
                "loss": {
                    "perceptual": 1.0,
                    "perceptual_network": "vgg19",
                    "perceptual_weights": "nowhere.pth",
                }
            },
            "nowhere",
        ),
    )
    for changes, words in cases:
        with pytest.raises(RecipeError, match=words):
            task_module.build(tiny(portraits_folder, "style_retoucher", **changes))
