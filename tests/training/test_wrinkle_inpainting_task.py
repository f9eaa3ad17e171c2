"""The adversarial filler task: its losses, its turns, its recipes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from revisage.errors import RecipeError
from revisage.training.losses.adversarial import filler_adversarial_loss
from revisage.training.losses.masked import known_missing_l1
from revisage.training.models.lama import LamaGenerator
from revisage.training.models.unet import UNet
from revisage.training.recipe import overridden, read_recipe, recipe_path
from revisage.training.tasks.wrinkle_inpainting import TINY, InpaintingTask, build
from revisage.training.tasks.wrinkle_segmenter import read_segmenter

RECIPES = (
    "wrinkle_inpainting",
    "wrinkle_inpainting_paper",
    "inpaint_free_form",
    "inpaint_free_form_paper",
)


def tiny(portraits: Path, name: str = "wrinkle_inpainting_paper", **loss: Any) -> InpaintingTask:
    recipe = overridden(read_recipe(recipe_path(name)), TINY)
    changes = {"data": {"portraits": [str(portraits)]}, "loss": loss}
    torch.manual_seed(0)
    return build(overridden(recipe, changes))


# Losses whose networks take time to load, for tests of other things.
PLAIN: dict[str, Any] = {"perceptual": 0.0, "wrinkle_critic": 0.0}


@pytest.mark.parametrize("name", RECIPES)
def test_both_players_learn(name: str, portraits_folder: Path) -> None:
    task = tiny(portraits_folder, name)
    optimisers = {
        turn.name: torch.optim.Adam(task.networks[turn.networks[0]].parameters(), rate)
        for turn, rate in zip(task.turns, (3e-3, 1e-4), strict=True)
    }
    batch = task.sample(np.random.default_rng(3), 2)
    watched, seen = [], []
    for _ in range(10):
        for turn in task.turns:
            for network in task.networks.values():
                network.requires_grad_(False)
            player = task.networks[turn.networks[0]].requires_grad_(True)
            player.zero_grad()
            loss, parts = turn.loss(batch)
            loss.backward()  # type: ignore[no-untyped-call]
            assert all(p.grad is not None for p in player.parameters())
            optimisers[turn.name].step()
            if turn.name == "generator":
                assert parts["l1"] > 0
                watched.append(loss.item())
            else:
                seen.append(loss.item())
    assert watched[-1] < watched[0]
    assert seen[-1] < seen[0]


def test_samples_follow_the_seed(portraits_folder: Path) -> None:
    task = tiny(portraits_folder, **PLAIN)
    first = task.sample(np.random.default_rng(5), 3)
    again = task.sample(np.random.default_rng(5), 3)
    other = task.sample(np.random.default_rng(6), 3)
    assert first["image"].shape == (3, 3, 32, 32)
    assert first["mask"].shape == (3, 1, 32, 32)
    assert set(first["mask"].unique().tolist()) == {0.0, 1.0}
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["image"], other["image"])
    assert float(first["mask"].mean(dim=(1, 2, 3)).min()) > 0


def test_weights_of_the_losses(portraits_folder: Path) -> None:
    """The total is the weighted sum, and a weight of 0 leaves a loss out."""
    weights = {
        "l1_known": 3.0,
        "l1_missing": 2.0,
        "adversarial": 5.0,
        "feature_matching": 7.0,
        "perceptual": 0.5,
        "focal_frequency": 11.0,
        "wrinkle_critic": 13.0,
    }
    task = tiny(portraits_folder, **weights)
    batch = task.sample(np.random.default_rng(3), 2)
    total, parts = task.generator_loss(batch)
    named = {key: value for key, value in weights.items() if not key.startswith("l1_")}
    expected = parts["reconstruction"] + sum(w * parts[key] for key, w in named.items())
    assert total.item() == pytest.approx(expected, rel=1e-5)
    assert all(parts[key] > 0 for key in named)

    alone = tiny(portraits_folder, **dict.fromkeys(named, 0.0), l1_known=3.0, l1_missing=2.0)
    total, parts = alone.generator_loss(batch)
    assert set(parts) == {"reconstruction", "l1"}
    with torch.no_grad():
        given = torch.cat([batch["image"] * (1 - batch["mask"]), batch["mask"]], dim=1)
        predicted = alone.networks["generator"](given)
    expected_l1 = known_missing_l1(predicted, batch["image"], batch["mask"], known=3.0, missing=2.0)
    assert total.item() == pytest.approx(expected_l1.item(), rel=1e-4)


def test_critic_counts_only_the_hole_as_fake(portraits_folder: Path) -> None:
    """With no hole and no penalty the fake picture is taught as a real one."""
    task = tiny(portraits_folder, **PLAIN, r1=0.0)
    batch = dict(task.sample(np.random.default_rng(3), 2))
    batch["mask"] = torch.zeros_like(batch["mask"])
    critic = task.networks["critic"].eval()
    loss, _ = task.critic_loss(batch)
    with torch.no_grad():
        given = torch.cat([batch["image"], batch["mask"]], dim=1)
        fake, _ = critic(task.networks["generator"](given))
        real, _ = critic(batch["image"])
    expected = filler_adversarial_loss(fake) + filler_adversarial_loss(real)
    # The generator's batch norms take their statistics from the batch in both calls.
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    penalised = tiny(portraits_folder, **PLAIN, r1=1000.0)
    _, parts = penalised.critic_loss(batch)
    assert parts["r1"] > 0


def test_validation_keeps_known_pixels_and_judges_baselines(
    portraits_folder: Path, tmp_path: Path
) -> None:
    recipe = overridden(read_recipe(recipe_path("wrinkle_inpainting")), TINY)
    data = {"portraits": [str(portraits_folder)], "baselines": True, "held_out": 3}
    task = build(overridden(recipe, {"data": data}))
    networks = {name: network.eval() for name, network in task.networks.items()}
    figures = task.validate(networks, tmp_path, 0)
    for name in ("psnr", "ssim", "l1", "wrinkle_left", "lpips_stand_in", "fid_stand_in"):
        assert np.isfinite(figures[name])
        assert np.isfinite(figures[f"telea_{name}"])
        assert np.isfinite(figures[f"texture_{name}"])
    assert figures["psnr"] > 10  # the compact filler starts at a smooth fill
    assert task.validate(networks, tmp_path, 0) == figures
    sheet = task.pictures(networks)["generator"]
    assert sheet.shape == (3 * 32, 3 * 32, 3)
    known = sheet[32:64] != 128
    np.testing.assert_array_equal(sheet[64:][known], sheet[:32][known])
    assert "stand-in" in task.notes["perceptual"]


def test_paper_recipes_are_lama_as_published() -> None:
    for name in ("wrinkle_inpainting_paper", "inpaint_free_form_paper"):
        recipe = read_recipe(recipe_path(name))
        assert recipe["run"]["steps"] == 40 * 25_000
        assert recipe["optimiser"]["generator"]["learning_rate"] == 1e-3
        assert recipe["optimiser"]["critic"]["learning_rate"] == 1e-4
        loss, model = recipe["loss"], recipe["model"]
        assert (loss["l1_known"], loss["l1_missing"], loss["r1"]) == (10, 0, 0.001)
        assert (loss["adversarial"], loss["feature_matching"], loss["perceptual"]) == (10, 100, 30)
        assert (model["ngf"], model["blocks"], model["downsamplings"]) == (64, 18, 3)
    wrinkle = read_recipe(recipe_path("wrinkle_inpainting_paper"))["loss"]
    assert wrinkle["focal_frequency"] > 0
    assert wrinkle["wrinkle_critic"] > 0


def test_starts_from_weights(portraits_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "lama.pt"
    first = LamaGenerator(ngf=4, n_blocks=1)
    state = {f"generator.{key}": value for key, value in first.state_dict().items()}
    torch.save({"state_dict": state}, file)
    recipe = overridden(read_recipe(recipe_path("wrinkle_inpainting_paper")), TINY)
    data = {"portraits": [str(portraits_folder)]}
    changes = {"model": {"weights": str(file)}, "data": data, "loss": PLAIN}
    started = build(overridden(recipe, changes)).networks["generator"].state_dict()
    assert all(torch.equal(value, started[key]) for key, value in first.state_dict().items())


def test_wrong_options_say_what_is_known(portraits_folder: Path) -> None:
    recipe = overridden(read_recipe(recipe_path("wrinkle_inpainting")), TINY)
    recipe = overridden(recipe, {"data": {"portraits": [str(portraits_folder)]}, "loss": PLAIN})
    for table, key, value, message in (
        ("model", "network", "unet", "known: lama, compact"),
        ("data", "holes", "round", "known: wrinkles, strokes, free_form"),
        ("model", "weights", "nowhere.safetensors", "not a file"),
        ("loss", "segmenter", "nowhere.safetensors", "trained wrinkle segmenter"),
    ):
        with pytest.raises(RecipeError, match=message):
            build(overridden(recipe, {table: {key: value}}))


def test_segmenter_of_the_paper_can_be_the_critic(tmp_path: Path) -> None:
    """Published layouts are read too, and get the pictures that they were trained on."""
    torch.manual_seed(2)
    network = UNet(decoder_channels=(8, 8)).eval()
    torch.save(network.state_dict(), tmp_path / "unet.pth")
    segmenter = read_segmenter(tmp_path / "unet.pth")
    image = torch.rand(1, 3, 32, 32)
    mean = torch.tensor([0.485, 0.456, 0.406]).reshape(1, 3, 1, 1)
    deviation = torch.tensor([0.229, 0.224, 0.225]).reshape(1, 3, 1, 1)
    with torch.no_grad():
        torch.testing.assert_close(segmenter(image), network((image - mean) / deviation))
