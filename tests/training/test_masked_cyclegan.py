"""The unmask system: generators with every body and head, critics, and both of its tasks."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from revisage.errors import RecipeError
from revisage.training.data.portraits import read_portraits
from revisage.training.loop import fit
from revisage.training.losses.gan import ADVERSARIAL, wasserstein_penalty
from revisage.training.models.critics import (
    DEPTHS,
    RegionEnsembleCritic,
    StarGANCritic,
    make_critic,
)
from revisage.training.models.masked_cyclegan import BODIES, HEADS, UnmaskGenerator
from revisage.training.models.stargan import StarGANDiscriminator
from revisage.training.recipe import Run, read_recipe, recipe_path, section
from revisage.training.tasks import completion, unmask


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def picture(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(11)
    return 2 * torch.rand(shape, generator=generator) - 1


# --- generators ----------------------------------------------------------------------------------


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("body", BODIES)
def test_every_head_on_every_body(body: Any, head: Any) -> None:
    torch.manual_seed(1)
    network, x = UnmaskGenerator(body, head, 4, 1), picture(2, 3, 16, 24)
    image, mask = network(x)
    assert image.shape == x.shape
    assert mask.shape == (2, 1, 16, 24)
    assert bool(((mask >= 0) & (mask <= 1)).all())
    (image.square().mean() + mask.mean()).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert bool(torch.isfinite(parameter.grad).all()), name
    drawn = [parameter.grad for parameter in network.draw.parameters()]
    assert all(gradient is not None and bool(gradient.abs().max() > 0) for gradient in drawn)


def _biased(head: Any, drawn: float, chosen: float) -> UnmaskGenerator:
    """A generator that draws one colour everywhere and chooses one mask value."""
    network = UnmaskGenerator("dmfn", head, 4, 1).eval()
    with torch.no_grad():
        for layer, bias in ((network.draw, drawn), (network.choose, chosen)):
            if layer is not None:
                assert isinstance(layer, nn.Conv2d)
                assert layer.bias is not None
                layer.weight.zero_()
                layer.bias.fill_(bias)
    return network


def test_what_each_head_does_with_its_drawing() -> None:
    x = picture(1, 3, 8, 8)
    colour, share = float(np.tanh(0.7)), 1 / (1 + np.exp(-1.2))
    with torch.inference_mode():
        image, mask = _biased("normal", 0.7, 0)(x)
        torch.testing.assert_close(image, torch.full_like(x, colour))
        assert bool((mask == 1).all())
        image, mask = _biased("residual", 0.7, 0)(x)
        torch.testing.assert_close(image, x + 2 * colour)
        assert bool((mask == 1).all())
        image, mask = _biased("mask", 0.7, 1.2)(x)
        torch.testing.assert_close(image, share * colour + (1 - share) * x)
        torch.testing.assert_close(mask, torch.full_like(mask, share))
        image, mask = _biased("binary_mask", 0.7, 1.2)(x)
        torch.testing.assert_close(image, torch.full_like(x, colour))
        image, mask = _biased("binary_mask", 0.7, -1.2)(x)
        assert torch.equal(image, x)  # where nothing is drawn, every value stays as it is
        assert bool((mask == 0).all())


def test_binary_mask_is_straight_through() -> None:
    torch.manual_seed(3)
    network, x = UnmaskGenerator("stargan", "binary_mask", 4, 1), picture(1, 3, 16, 16)
    soft_network = UnmaskGenerator("stargan", "mask", 4, 1)
    soft_network.load_state_dict(network.state_dict())
    hard, soft = network(x).mask, soft_network(x).mask
    assert set(hard.round(decimals=5).unique().tolist()) == {0.0, 1.0}
    torch.testing.assert_close(hard, (soft > 0.5).float())
    weight = picture(1, 1, 16, 16)
    assert isinstance(network.choose, nn.Conv2d)
    assert isinstance(soft_network.choose, nn.Conv2d)
    (one,) = torch.autograd.grad((hard * weight).sum(), network.choose.weight)
    (two,) = torch.autograd.grad((soft * weight).sum(), soft_network.choose.weight)
    torch.testing.assert_close(one, two)


def test_one_generator_for_both_domains() -> None:
    torch.manual_seed(4)
    network, x = UnmaskGenerator("stargan", "mask", 4, 1, domains=2).eval(), picture(1, 3, 16, 16)
    with torch.inference_mode():
        bare, masked = network(x, 0).image, network(x, 1).image
        assert torch.equal(network(x).image, bare)
    assert bool((bare != masked).any())
    with pytest.raises(ValueError, match="domain 2 is not one of 0 to 1"):
        network(x, 2)


def test_dilated_blocks_look_further() -> None:
    def reach(body: Any) -> int:
        torch.manual_seed(5)
        network = UnmaskGenerator(body, "normal", 2, 2)
        for name, module in list(network.body.named_modules()):
            if isinstance(module, nn.InstanceNorm2d):  # it would look at the whole picture
                network.body.set_submodule(name, nn.Identity())
        with torch.no_grad():
            for weight in network.parameters():
                weight.abs_()  # no ReLU is ever shut
        x = torch.ones(1, 3, 128, 128, requires_grad=True)
        (gradient,) = torch.autograd.grad(network.body(x)[..., 64, 64].sum(), x)
        rows = gradient[0].abs().sum((0, 2)).nonzero().flatten()
        return int(rows.max() - rows.min())

    # Two blocks of dilation 2 and 4 in place of 1: (1 + 3) more on both sides, of 4 px each.
    assert reach("dilated") - reach("stargan") == 2 * 4 * (1 + 3)


def test_sizes() -> None:
    with torch.device("meta"):
        assert round(parameters(UnmaskGenerator.paper("dmfn")) / 1e6, 1) == 9.0
        assert round(parameters(UnmaskGenerator.paper("resnet")) / 1e6, 1) == 11.4
        assert round(parameters(UnmaskGenerator.compact()) / 1e6, 2) == 1.13


def test_unknown_parts_are_refused() -> None:
    with pytest.raises(ValueError, match="no body 'unet'"):
        UnmaskGenerator("unet")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no head 'alpha'"):
        UnmaskGenerator("dmfn", "alpha")  # type: ignore[arg-type]


# --- critics -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", DEPTHS)
def test_critics_score_places_and_can_be_penalised(kind: str) -> None:
    torch.manual_seed(6)
    critic = make_critic(kind, 32, 4, 3)
    scores = critic(picture(2, 3, 32, 32))
    assert scores.shape[:2] == (2, 1)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in critic.modules())
    penalty = wasserstein_penalty(critic, picture(2, 3, 32, 32), picture(2, 3, 32, 32).flip(0))
    penalty.backward()
    gradients = [p.grad for p in critic.parameters() if p.grad is not None]
    assert all(bool(torch.isfinite(g).all()) for g in gradients)
    assert any(bool(g.abs().max() > 0) for g in gradients)


def test_stargan_critic_is_stargans_discriminator() -> None:
    critic = StarGANCritic(64, 4, 4, classes=2)
    published = StarGANDiscriminator(64, 4, 2, 4)
    assert list(critic.state_dict()) == list(published.state_dict())
    published.load_state_dict(critic.state_dict())
    x = picture(2, 3, 64, 64)
    with torch.inference_mode():
        for one, two in zip(critic.judge(x), published(x), strict=True):
            torch.testing.assert_close(one, two)
        torch.testing.assert_close(critic(x), published(x)[0])
    with pytest.raises(ValueError, match="without classes"):
        StarGANCritic(64, 4, 4).judge(x)


def test_region_ensemble_critic() -> None:
    torch.manual_seed(7)
    critic = RegionEnsembleCritic(64, 4, 3).eval()
    widths = [m.weight.shape[0] for m in critic.main if isinstance(m, nn.Conv2d)]
    assert widths == [4, 8, 32]
    with torch.device("meta"):
        published = RegionEnsembleCritic(256)
    widths = [m.weight.shape[0] for m in published.main if isinstance(m, nn.Conv2d)]
    assert widths == [64, 128, 256, 256, 256, 512]
    assert published.judges.shape == (512, 4, 4)
    x = picture(1, 3, 64, 64)
    with torch.no_grad():
        before = critic(x)
        assert before.shape == (1, 1, 8, 8)
        critic.judges[:, 2, 5] *= 7  # the spectral norm takes its length away
        torch.testing.assert_close(critic(x), before)
        critic.judges[:, 2, 5] = -critic.judges[:, 2, 5]  # each region has its own judge
        changed = (critic(x) != before)[0, 0].nonzero().tolist()
    assert changed == [[2, 5]]
    with pytest.raises(ValueError, match="regions"):
        critic(picture(1, 3, 32, 32))


def test_convolutions_of_red_have_spectral_norm_one() -> None:
    torch.manual_seed(8)
    critic = RegionEnsembleCritic(32, 4, 2)
    for _ in range(50):  # the power iteration converges in train mode
        critic(picture(1, 3, 32, 32))
    for layer in critic.main:
        if isinstance(layer, nn.Conv2d):
            largest = torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2)
            assert largest.item() == pytest.approx(1, abs=0.02)


def test_unknown_critics_are_refused() -> None:
    with pytest.raises(ValueError, match="no critic 'vit'"):
        make_critic("vit", 64)
    with pytest.raises(ValueError, match="class head"):
        make_critic("red", 64, classes=2)
    with pytest.raises(ValueError, match="64 px or more"):
        make_critic("stargan", 32)


# --- tasks ---------------------------------------------------------------------------------------


def recipe(name: str, portraits: Path, **changes: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """A recipe at the tiny scale of its task."""
    made: dict[str, dict[str, Any]] = copy.deepcopy(read_recipe(recipe_path(name)))
    tiny = unmask.TINY if made["run"]["task"] == "unmask" else completion.TINY
    for overrides in (tiny, changes, {"data": {"portraits": (str(portraits),)}}):
        for table, content in overrides.items():
            made.setdefault(table, {}).update(copy.deepcopy(content))
    made["run"].update({"log_every": 1, "threads": 1, "prefetch": 0, "same_batch": True})
    return made


def trained(made: dict[str, dict[str, Any]], out: Path) -> tuple[list[float], dict[str, float]]:
    """The watched part over the steps, and the figures of the validation."""
    module = unmask if made["run"]["task"] == "unmask" else completion
    torch.manual_seed(10)
    task = module.build(made)
    run = section(made, "run", Run)
    figures = fit(task, run, out, optimisers=made.get("optimiser"))
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [line[task.watch] for line in lines if task.watch in line], figures


@pytest.mark.parametrize("name", ["unmask_paper", "unmask", "completion_paper", "completion"])
def test_recipes_learn(name: str, portraits_folder: Path, tmp_path: Path) -> None:
    watched, figures = trained(recipe(name, portraits_folder), tmp_path)
    assert len(watched) == 10
    assert watched[-1] < 0.95 * watched[0]
    assert {"psnr", "ssim", "l1", "picture_psnr"} <= set(figures)
    assert all(np.isfinite(value) for value in figures.values())
    product = "unmask" if name.startswith("unmask") else "filler"
    sheets = unmask.build if product == "unmask" else completion.build
    task = sheets(recipe(name, portraits_folder))
    (sheet,) = task.pictures({product: task.networks[product].eval()}).values()
    assert sheet.dtype == np.uint8
    assert sheet.shape[2] == 3
    assert (tmp_path / "weights.safetensors").exists()


VARIANTS: list[dict[str, dict[str, Any]]] = [
    *({"model": {"head": head}} for head in HEADS if head != "mask"),
    *({"model": {"generator": body}} for body in BODIES if body != "dmfn"),
    *({"model": {"critic": kind}} for kind in DEPTHS if kind != "stargan"),
    *({"loss": {"adversarial": kind}} for kind in ADVERSARIAL if kind != "wasserstein"),
    {"model": {"single": True}},
    {"loss": {"critic_steps": 2, "identity": 0.0, "smoothness": 1.0}},
]


@pytest.mark.parametrize("changes", VARIANTS, ids=lambda c: json.dumps(c))
def test_variants_of_the_tables_train(
    changes: dict[str, dict[str, Any]], portraits_folder: Path, tmp_path: Path
) -> None:
    made = recipe("unmask_paper", portraits_folder)
    for table, content in changes.items():
        made[table].update(content)
    made["run"]["steps"] = 4
    watched, figures = trained(made, tmp_path)
    assert watched[-1] < watched[0]
    assert np.isfinite(figures["psnr"])
    has_mask = made["model"]["head"] in {"mask", "binary_mask"}
    assert ("iou" in figures) == has_mask


def test_no_pair_is_ever_shown(portraits_folder: Path) -> None:
    task = unmask.build(recipe("unmask_paper", portraits_folder))
    batch = task.sample(np.random.default_rng(3), 8)
    same = [bool(torch.equal(a, b)) for a, b in zip(batch["bare"], batch["truth"], strict=True)]
    flipped = [
        bool(torch.equal(a.flip(-1), b)) for a, b in zip(batch["bare"], batch["truth"], strict=True)
    ]
    assert not any(same + flipped)
    # Where the mask covers nothing, the masked picture is the true one (but for shadows).
    far = batch["coverage"].expand(-1, 3, -1, -1) == 0
    close = (batch["masked"] - batch["truth"]).abs()[far] < 0.02
    assert close.float().mean() > 0.8
    covered = batch["coverage"].mean((1, 2, 3))
    assert bool((covered > 0.01).all())
    again = task.sample(np.random.default_rng(3), 8)
    assert all(torch.equal(batch[name], again[name]) for name in batch)


def test_masked_face_net_in_place_of_drawn_masks(portraits_folder: Path, tmp_path: Path) -> None:
    entries: dict[str, Any] = {}
    for number, portrait in zip(
        (2, 5, 60007, 60008), read_portraits(portraits_folder), strict=False
    ):
        file = f"images1024x1024/{number // 1000 * 1000:05d}/{number:05d}.png"
        clean = portrait.image()
        worn = clean.copy()
        left, top = portrait.landmarks[2:15].min(0).astype(int)
        right, bottom = portrait.landmarks[2:15].max(0).astype(int)
        worn[top:bottom, left:right] = (40, 220, 250)
        masked = f"CMFD/{number // 1000 * 1000:05d}/{number:05d}_Mask.jpg"
        for place, image in ((file, clean), (masked, worn)):
            if place == masked and number == 5:
                continue  # a face without a masked picture
            (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(tmp_path / place), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        entries[str(number)] = {
            "category": "training" if number < 60000 else "validation",
            "image": {"file_path": file, "face_landmarks": portrait.landmarks.tolist()},
        }
    (tmp_path / "ffhq-dataset-v2.json").write_text(json.dumps(entries), encoding="utf-8")
    made = recipe("unmask_paper", tmp_path)
    made["data"].update({"masked_faces": str(tmp_path), "size": 64})
    task = unmask.build(made)
    batch = task.sample(np.random.default_rng(1), 4)
    assert not bool((batch["bare"] == batch["truth"]).flatten(1).all(1).any())
    covered = batch["coverage"].expand(-1, 3, -1, -1) > 0
    assert 0.1 < float(covered.float().mean()) < 0.7
    colour = batch["masked"].permute(0, 2, 3, 1)[covered[:, 0]].median(0).values
    expected = torch.tensor([40.0, 220.0, 250.0]) / 127.5 - 1
    torch.testing.assert_close(colour, expected, atol=0.05, rtol=0)
    assert float((batch["masked"] - batch["truth"])[~covered].abs().mean()) < 0.03
    figures = task.validate({"unmask": task.networks["unmask"].eval()}, tmp_path, 0)
    assert figures["masked_psnr"] < figures["masked_picture_psnr"]
    made["data"]["portraits"] = (str(tmp_path), str(tmp_path))
    with pytest.raises(RecipeError, match="one folder in portraits"):
        unmask.build(made)


def test_paired_losses_use_the_truth(portraits_folder: Path) -> None:
    made = recipe("unmask", portraits_folder)
    made["loss"].update({"perceptual": 0.2})
    task = unmask.build(made)
    assert "perceptual" in task.notes
    _, parts = task.generator_loss(task.sample(np.random.default_rng(1), 2))
    assert set(parts) == {"paired", "log_mse", "coverage", "perceptual"}
    assert set(task.networks) == {"unmask"}
    task = unmask.build(recipe("unmask_paper", portraits_folder))
    _, parts = task.generator_loss(task.sample(np.random.default_rng(1), 2))
    assert not {"paired", "coverage", "perceptual"} & set(parts)


def test_bare_faces_among_the_masked(portraits_folder: Path) -> None:
    made = recipe("unmask", portraits_folder)
    made["data"].update({"unmasked": 1.0, "jitter": 1.0})
    task = unmask.build(made)
    batch = task.sample(np.random.default_rng(1), 4)
    assert torch.equal(batch["masked"], batch["truth"])
    assert not batch["coverage"].any()
    assert "bare" not in batch
    made["data"].update({"unmasked": 0.0})
    batch = unmask.build(made).sample(np.random.default_rng(1), 4)
    assert bool((batch["coverage"].mean((1, 2, 3)) > 0.01).all())


def test_recipes_that_cannot_be_built(portraits_folder: Path) -> None:
    made = recipe("unmask", portraits_folder)
    made["loss"].update({"paired": 0.0, "log_mse": 0.0})
    with pytest.raises(RecipeError, match="what a bare face looks like"):
        unmask.build(made)
    made = recipe("unmask", portraits_folder)
    made["model"]["single"] = True
    with pytest.raises(RecipeError, match="adversarial_weight or cycle above 0"):
        unmask.build(made)
    made = recipe("unmask_paper", portraits_folder)
    made["model"].update({"single": True, "critic": "red"})
    with pytest.raises(RecipeError, match="domain head"):
        unmask.build(made)
    made = recipe("unmask_paper", portraits_folder)
    made["model"]["generator"] = "vit"
    with pytest.raises(RecipeError, match="no body 'vit'"):
        unmask.build(made)
    made = recipe("completion_paper", portraits_folder)
    made["data"]["holes"] = "stars"
    with pytest.raises(RecipeError, match="no 'stars'"):
        completion.build(made)
    made = recipe("completion_paper", portraits_folder)
    made["loss"].update({"perceptual_network": "vgg19", "perceptual_weights": "nowhere.pth"})
    with pytest.raises(RecipeError, match=r"nowhere\.pth"):
        completion.build(made)


def test_a_network_that_is_not_named_is_stood_in_for_and_the_run_says_so(
    portraits_folder: Path,
) -> None:
    made = recipe("completion_paper", portraits_folder)
    made["loss"].update({"perceptual_network": "vgg19", "perceptual_weights": ""})
    assert completion.build(made).notes["perceptual"].startswith("stand-in")


@pytest.mark.parametrize("kind", completion.HOLES)
def test_holes_lie_in_their_box(kind: str) -> None:
    rng = np.random.default_rng(9)
    for _ in range(20):
        hole, (top, left) = completion.hole_in_box(64, rng, kind)
        inside = hole[top : top + 32, left : left + 32]
        assert inside.shape == (32, 32)
        assert hole.any()
        if kind != "strokes":
            assert inside.sum() == hole.sum()
            assert inside.mean() >= 0.5
