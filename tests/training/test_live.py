"""The live network: its budget, its contract, and what its teachers ask of it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from revisage.errors import RecipeError
from revisage.training.losses.perceptual import file_record
from revisage.training.models.live import LiveRetoucher
from revisage.training.models.style_retoucher import BLENDS, StyleRetoucher
from revisage.training.models.stylegan2 import StyleGAN2
from revisage.training.recipe import overridden, read_recipe, recipe_path
from revisage.training.tasks import live
from revisage.training.tasks.live import LiveTask, Teachers, load_retoucher
from tests.support import ROOT

WEIGHTS = ROOT / "training" / "weights"


def _lively(**settings: Any) -> LiveRetoucher:
    torch.manual_seed(0)
    network = LiveRetoucher(**settings).eval()
    nn.init.normal_(network.head.weight, std=1.0)
    return network


def _task(portraits: Path, **changes: dict[str, Any]) -> LiveTask:
    recipe = overridden(read_recipe(recipe_path("live")), live.TINY)
    recipe = overridden(recipe, {"data": {"portraits": [str(portraits)]}})
    torch.manual_seed(0)
    return live.build(overridden(recipe, changes))


# -- the network ----------------------------------------------------------------------------------


def test_the_budget() -> None:
    network = LiveRetoucher.compact().eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 3, 256, 256))
    assert counter.get_total_flops() / 2 <= 0.6e9
    assert sum(p.numel() for p in network.parameters()) < 1e6


def test_nothing_that_integers_cannot_do() -> None:
    allowed = (nn.Conv2d, nn.BatchNorm2d, nn.ReLU6)
    leaves = [m for m in LiveRetoucher.compact().modules() if not list(m.children())]
    assert {type(leaf) for leaf in leaves} <= set(allowed)
    kernels = {leaf.kernel_size for leaf in leaves if isinstance(leaf, nn.Conv2d)}
    assert kernels == {(1, 1), (3, 3)}


def test_ranges_and_exact_zeros() -> None:
    network = _lively(widths=(4, 8), blocks=(1,), head=4)
    with torch.inference_mode():
        delta, mask = network(torch.rand(2, 3, 16, 24))
    assert delta.shape == (2, 3, 16, 24)
    assert mask.shape == (2, 1, 16, 24)
    assert float(delta.abs().max()) <= 1
    assert float(mask.min()) == 0.0  # untouched pixels are untouched to the bit
    assert float(mask.max()) <= 1
    raw = torch.tensor([-9.0, -3.0, -1.5, 0.0, 1.5, 3.0, 9.0]).reshape(1, 1, 1, 7)
    delta, mask = network.ranged(raw.expand(1, 4, 1, 7))
    torch.testing.assert_close(mask.flatten(), torch.tensor([0, 0, 0.25, 0.5, 0.75, 1, 1]))
    torch.testing.assert_close(delta[0, 0, 0], torch.tensor([-1, -1, -0.5, 0, 0.5, 1, 1]))


def test_before_training_nothing_changes() -> None:
    image = torch.rand(1, 3, 32, 32)
    with torch.inference_mode():
        delta, mask = LiveRetoucher.compact().eval()(image)
    torch.testing.assert_close(image + mask * delta, image, atol=0, rtol=0)


def test_batch_norms_fold() -> None:
    """Convolution and norm as one convolution give the same numbers: ready for integers."""
    network = _lively(widths=(4, 8), blocks=(1,), head=4)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 2.0)  # type: ignore[arg-type]
    image = torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        before = network.raw(image)
        for module in [m for m in network.modules() if isinstance(m, nn.Sequential)]:
            for index in range(len(module) - 1):
                conv, norm = module[index], module[index + 1]
                if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                    module[index] = nn.utils.fuse_conv_bn_eval(conv, norm)
                    module[index + 1] = nn.Identity()
        assert not any(isinstance(m, nn.BatchNorm2d) for m in network.modules())
        torch.testing.assert_close(network.raw(image), before, atol=1e-5, rtol=1e-5)


def test_sizes_that_do_not_fit_are_errors() -> None:
    with pytest.raises(ValueError, match="multiples of 16"):
        LiveRetoucher.compact()(torch.zeros(1, 3, 24, 32))
    with pytest.raises(ValueError, match="number of blocks"):
        LiveRetoucher((8, 8), (1, 1))


# -- its lessons ----------------------------------------------------------------------------------


class _Dark(nn.Module):
    """Finds pixels darker than 1/4."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return 0.25 - image.mean(dim=1, keepdim=True)


class _Paint(nn.Module):
    def forward(self, image: torch.Tensor, hole: torch.Tensor) -> torch.Tensor:
        return torch.where(hole > 0, torch.full_like(image, 0.75), image)


def test_teachers_change_blemishes_and_wrinkles_and_nothing_else() -> None:
    teachers = Teachers(_Dark(), _Paint())
    assert not teachers.train().training
    clean = torch.full((1, 3, 64, 64), 0.5)
    clean[:, :, 40, 10:20] = 0.1  # a wrinkle on skin
    clean[:, :, 50, 10:20] = 0.1  # and one elsewhere
    skin = torch.ones(1, 1, 64, 64)
    skin[:, :, 46:] = 0
    image, blemish = clean.clone(), torch.zeros(1, 1, 64, 64)
    image[:, :, 5:8, 5:8] = 0.3
    blemish[:, :, 5:8, 5:8] = 0.4
    target, where = teachers(image, clean, blemish, skin)
    wanted = torch.zeros(1, 1, 64, 64)
    wanted[:, :, 5:8, 5:8] = 1
    wanted[:, :, 39:42, 9:21] = 1  # with its shoulders
    torch.testing.assert_close(where, wanted)
    torch.testing.assert_close(target[..., 5:8, 5:8], torch.full((1, 3, 3, 3), 0.5))
    torch.testing.assert_close(target[..., 39:42, 9:21], torch.full((1, 3, 3, 12), 0.75))
    same = (where == 0).expand_as(image)
    assert torch.equal(target[same], image[same])
    with pytest.raises(ValueError, match="belong together"):
        Teachers(_Dark())


@pytest.mark.parametrize("blend", BLENDS)
def test_a_retoucher_comes_back_from_its_weights(blend: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = StyleRetoucher(StyleGAN2(32, 8, 2, 1, largest_width=8), blend).eval()
    path = tmp_path / "weights.safetensors"
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, path)
    again = load_retoucher(str(path))
    assert again.blend == blend
    image = torch.rand(1, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(again(image), network(image), atol=0, rtol=0)


def test_a_retoucher_teaches_where_it_changes(tmp_path: Path, portraits_folder: Path) -> None:
    torch.manual_seed(0)
    network = StyleRetoucher(StyleGAN2(32, 8, 2, 1, largest_width=8))
    path = tmp_path / "weights.safetensors"
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, path)
    task = _task(portraits_folder, model={"blemish_teacher": str(path)})
    assert isinstance(task.teachers.retoucher, StyleRetoucher)
    assert task.notes["blemish teacher"] == file_record(path)

    class Left(nn.Module):
        """Brightens the left half, at its own size."""

        size = 32

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return image + 0.1 * (torch.arange(32) < 16)

    batch = task.sample(np.random.default_rng(0), 2)
    image = 0.8 * batch["image"]
    blemish, skin = batch["blemish"], batch["skin"]
    target, where = Teachers(retoucher=Left())(image, image, blemish, skin)  # type: ignore[arg-type]
    assert bool((where[..., :32] == 1).all())
    assert bool((where[..., 33:] == 0).all())
    torch.testing.assert_close(target[..., :30], image[..., :30] + 0.1)
    assert torch.equal(target[..., 33:], image[..., 33:])


def test_the_wrinkle_teachers_that_ship(portraits_folder: Path) -> None:
    files = {
        "segmenter": str(WEIGHTS / "wrinkle_segmenter.safetensors"),
        "filler": str(WEIGHTS / "wrinkle_filler.safetensors"),
    }
    data = {"size": 256, "live_size": 64, "wrinkle_share": 1.0, "wrinkle_amount": 3.0}
    task = _task(portraits_folder, model=files, data=data)
    assert task.notes["wrinkle teacher"].count("sha256") == 2
    batch = task.sample(np.random.default_rng(1), 2)
    names = ("image", "clean", "blemish", "skin")
    target, where = task.teachers(*(batch[name] for name in names))
    wrinkles = where * (batch["blemish"] == 0)
    assert int(wrinkles.sum()) > 50
    assert int((wrinkles * (1 - batch["skin"])).sum()) == 0
    image, small, mask = task._lesson(batch)
    assert image.shape == small.shape == (2, 3, 64, 64)
    assert mask.shape == (2, 1, 64, 64)
    assert bool(((mask > 0) & (mask < 1)).any())  # edges are soft
    assert target.shape == (2, 3, 256, 256)


def test_a_perfect_student_has_no_loss(portraits_folder: Path) -> None:
    task = _task(portraits_folder, loss={"temporal": 0.0})
    batch = task.sample(np.random.default_rng(0), 2)
    image, target, where = task._lesson(batch)
    change = target - image
    perfect = torch.cat([3 * change / where.clamp(min=1e-6), 60 * where - 30], dim=1)
    perfect[:, 3:] = torch.where((where > 0) & (where < 1), 6 * where - 3, perfect[:, 3:])

    class Student(nn.Module):
        ranged = staticmethod(LiveRetoucher.ranged)

        def raw(self, x: torch.Tensor) -> torch.Tensor:
            return perfect

    task.live = Student()  # type: ignore[assignment]
    _, parts = task.loss(batch)
    assert parts["delta"] < 1e-6
    assert parts["composite"] < 1e-6


def test_steadiness_is_of_the_moved_picture(portraits_folder: Path) -> None:
    task = _task(portraits_folder, loss={"noise": 0.0, "shift": 2})

    class Steady(nn.Module):
        """Moves with the picture, or not."""

        fixed = False

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            delta = torch.zeros_like(x) if self.fixed else x / 2
            delta[..., ::2] += 0.25 * self.fixed
            return delta, torch.ones_like(x[:, :1])

    student = Steady()
    task.live = student  # type: ignore[assignment]
    image = torch.rand(1, 3, 32, 32)
    torch.manual_seed(1)  # moves by an odd number of columns
    delta, mask = student(image)
    assert task._unsteadiness(image, mask * delta).item() == 0
    student.fixed = True
    delta, mask = student(image)
    found = []
    for seed in range(8):
        torch.manual_seed(seed)
        found.append(task._unsteadiness(image, mask * delta).item())
    assert sorted({round(value, 6) for value in found}) == [0.0, 0.25]


def test_samples_are_functions_of_the_generator(portraits_folder: Path) -> None:
    task = _task(portraits_folder)
    one, two = (task.sample(np.random.default_rng(5), 3) for _ in range(2))
    for name in ("image", "clean", "blemish", "skin"):
        torch.testing.assert_close(one[name], two[name], atol=0, rtol=0)
    outside = (one["blemish"] == 0).expand_as(one["image"])
    # Only rounding to 8 bits and what it does to drawn wrinkles differs where no blemish is.
    assert float((one["image"] - one["clean"]).abs()[outside].max()) < 0.02
    clean = _task(portraits_folder, data={"lambda_clean": 1.0})
    assert not bool(clean.sample(np.random.default_rng(5), 3)["blemish"].any())


def test_figures(portraits_folder: Path, tmp_path: Path) -> None:
    task = _task(portraits_folder)
    figures = task.validate(task.networks, tmp_path, 0)
    assert figures["psnr"] == pytest.approx(figures["input_psnr"])  # an untrained one does nothing
    assert figures["flicker"] == pytest.approx(0.0, abs=1e-6)
    assert 0 <= figures["iou"] <= 1


def test_what_cannot_be_built_is_a_recipe_error(portraits_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "text.safetensors").write_text("nothing")
    wrong = tmp_path / "wrong.safetensors"
    save_file({"weight": torch.zeros(2)}, wrong)
    filler = {"filler": str(WEIGHTS / "wrinkle_filler.safetensors")}
    cases: tuple[tuple[dict[str, Any], str], ...] = (
        ({"model": {"segmenter": "x"}}, "belong together"),
        ({"model": {**filler, "segmenter": str(wrong)}}, "not of this network"),
        ({"model": {**filler, "segmenter": "nowhere"}}, "cannot be read"),
        ({"model": {"blemish_teacher": str(tmp_path / "text.safetensors")}}, "cannot be read"),
        ({"model": {"blemish_teacher": str(wrong)}}, "not a StyleRetoucher"),
        ({"model": {"blocks": (1, 1)}}, "number of blocks"),
        ({"data": {"live_size": 48}}, "must divide"),
        ({"data": {"size": 40, "live_size": 20}}, "multiples of"),
        ({"loss": {"shift": 8}}, "below a quarter"),
    )
    for changes, words in cases:
        with pytest.raises(RecipeError, match=words):
            _task(portraits_folder, **changes)
    assert {field.name for field in dataclasses.fields(live.Data)} >= {"portraits", "live_size"}
