"""The task of StyleRetoucher's comparators: three networks, one set of pairs and figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from revisage.errors import RecipeError
from revisage.training.models.abpn import ABPN
from revisage.training.models.pix2pixhd import GlobalGenerator, LocalEnhancer
from revisage.training.recipe import overridden, read_recipe, recipe_path
from revisage.training.tasks import retouch_comparator, style_retoucher
from revisage.training.tasks.retouch_comparator import ComparatorTask, Signed


def _task(portraits: Path, name: str, **changes: dict[str, Any]) -> ComparatorTask:
    recipe = overridden(read_recipe(recipe_path(name)), retouch_comparator.TINY)
    recipe = overridden(recipe, {"data": {"portraits": [str(portraits)]}})
    torch.manual_seed(0)
    return retouch_comparator.build(overridden(recipe, changes))


def test_all_learn_and_are_judged_as_style_retoucher_is(portraits_folder: Path) -> None:
    """Table 1 compares networks, so the pairs must be the same."""
    recipe = read_recipe(recipe_path("style_retoucher"))
    recipe = overridden(recipe, style_retoucher.TINY)
    recipe = overridden(recipe, {"data": {"portraits": [str(portraits_folder)]}})
    other = style_retoucher.build(recipe)
    for name in ("autoretouch", "abpn", "pix2pixhd"):
        task = _task(portraits_folder, name)
        one, two = (t.sample(np.random.default_rng(4), 3) for t in (task, other))
        for key in ("image", "target"):
            torch.testing.assert_close(one[key], two[key], atol=0, rtol=0)
        pairs = zip(task.samples.held_out(2), other.samples.held_out(2), strict=True)
        for mine, theirs in pairs:
            for a, b in zip(mine, theirs, strict=True):
                torch.testing.assert_close(a, b, atol=0, rtol=0)


def test_crops(portraits_folder: Path) -> None:
    task = _task(portraits_folder, "autoretouch", data={"crop": 16, "lambda_clean": 1.0})
    batch = task.sample(np.random.default_rng(0), 4)
    assert batch["image"].shape == batch["target"].shape == (4, 3, 16, 16)
    torch.testing.assert_close(batch["image"], batch["target"], atol=0, rtol=0)
    assert not torch.equal(batch["image"][0], batch["image"][1])


def test_players_of_pix2pixhd(portraits_folder: Path) -> None:
    task = _task(portraits_folder, "pix2pixhd", loss={"perceptual": 0.0})
    assert isinstance(task.retoucher, Signed)
    assert isinstance(task.retoucher.generator, LocalEnhancer)
    batch = task.sample(np.random.default_rng(0), 2)
    generator, critic = task.turns
    loss, parts = generator.loss(batch)
    assert set(parts) == {"l1", "adversarial", "feature_matching"}
    wanted = parts["adversarial"] + 10 * parts["feature_matching"]
    assert loss.item() == pytest.approx(wanted, rel=1e-5)
    judged, _ = critic.loss(batch)
    judged.backward()
    assert all(p.grad is not None for p in task.critic.parameters())
    assert all(p.grad is None for p in task.retoucher.parameters())
    alone = _task(portraits_folder, "pix2pixhd", model={"enhancers": 0})
    assert isinstance(alone.retoucher, Signed)
    assert isinstance(alone.retoucher.generator, GlobalGenerator)


def test_abpn_is_also_taught_at_low_resolution(portraits_folder: Path) -> None:
    task = _task(portraits_folder, "abpn")
    assert isinstance(task.retoucher, ABPN)
    assert [turn.name for turn in task.turns] == ["generator"]
    _, parts = task.turns[0].loss(task.sample(np.random.default_rng(0), 2))
    assert set(parts) == {"l1", "low_resolution"}


def test_what_cannot_be_built_is_a_recipe_error(portraits_folder: Path) -> None:
    cases: tuple[tuple[dict[str, Any], str], ...] = (
        ({"model": {"network": "unet"}}, "autoretouch, abpn, pix2pixhd"),
        ({"model": {"blocks": 0}}, "at least 1"),
        ({"data": {"size": 30}}, "multiples of 4"),
        ({"data": {"crop": 10}}, "multiples of 4"),
        ({"data": {"crop": 64}}, "crop is 0 to size"),
        ({"data": {"ffhq": "x"}}, "belong together"),
        ({"data": {"lambda_low": 2.0}}, "low <= high"),
        ({"loss": {"low_resolution": 1.0}}, "abpn only"),
        ({"loss": {"feature_matching": 1.0}}, "needs the critic"),
        ({"loss": {"adversarial_kind": "none"}}, "no adversarial loss"),
    )
    for changes, words in cases:
        with pytest.raises(RecipeError, match=words):
            _task(portraits_folder, "autoretouch", **changes)
