"""GFRNet: the authors' WarpNets to the number, and RecNet, discriminators and variants by rule."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from revisage.errors import CheckpointError, RecipeError
from revisage.kernels import flow_warp
from revisage.training.data.guided_pairs import GuidedPairs
from revisage.training.importers import from_checkpoint, from_state_dict, read_network
from revisage.training.models.crop import crop_resized
from revisage.training.models.folded_unet import FoldedRecNet
from revisage.training.models.gfrnet import (
    PARTS,
    VARIANTS,
    GFRNet,
    RecNet,
    RestorationDiscriminator,
    face_boxes,
    make_warpnet,
    part_boxes,
    predicted_grid,
)
from revisage.training.models.gfrnet_warpnet import (
    PyramidWarpNet,
    WarpNet,
    grid_of_flow,
    identity_grid,
    warp,
)
from revisage.training.tasks import restore as restore_task
from revisage.training.tasks import warp as warp_task
from tests.training.parity import close, fixtures

TOLERANCE = 5e-3  # of the fixtures; their float32 noise reaches 3e-4


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def test_warpnet_fixtures() -> None:
    for fill, meta, arrays in fixtures("gfr_warpnet*.json"):
        state = fill.state_dict_torch(meta, "net")
        network = from_state_dict(state)
        assert list(network.state_dict()) == list(state)
        degraded, guide = (torch.from_numpy(arrays[f"in_{name}"]) for name in ("degraded", "guide"))
        with torch.inference_mode():
            found = network(degraded, guide)
        if isinstance(network, WarpNet):
            grid = found
            close(grid, arrays["out_grid"], TOLERANCE)
        else:
            grid = found[0]
            for scale, grid_there in enumerate(found):
                close(grid_there, arrays[f"out_flow{scale}"], TOLERANCE)
        close(warp(guide, grid), arrays["out_warp_align_true"], TOLERANCE)
        default = warp(guide, grid, align_corners=False)
        close(default, arrays["out_warp_default"], TOLERANCE)


@pytest.mark.parametrize(
    "network",
    [
        WarpNet(ngf=2, levels=3),
        WarpNet(ngf=3, levels=5),
        PyramidWarpNet(ngf=7),
        PyramidWarpNet(ngf=8, norm="instance"),
    ],
)
def test_importer_tells_sizes_from_keys(network: nn.Module, tmp_path: Path) -> None:
    network.eval()
    path = tmp_path / "latest.pth"
    torch.save({"module." + key: value for key, value in network.state_dict().items()}, path)
    found = from_checkpoint(path)
    assert type(found) is type(network)
    assert not found.training
    pair = torch.rand(2, 1, 3, 128, 128).unbind()
    with torch.inference_mode():
        one, two = network(*pair), found(*pair)
    one, two = (x if isinstance(x, torch.Tensor) else x[0] for x in (one, two))
    torch.testing.assert_close(one, two, rtol=0, atol=0)


def test_importer_refuses_another_input(tmp_path: Path) -> None:
    state = WarpNet(ngf=2, levels=3).state_dict()
    state["warpNet.0.0.weight"] = torch.zeros(2, 8, 4, 4)
    torch.save(state, tmp_path / "net.pth")
    with pytest.raises(CheckpointError, match="8 channels"):
        read_network(tmp_path / "net.pth")


def test_sides_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="multiples of 8"):
        WarpNet(ngf=2, levels=3)(torch.rand(1, 3, 12, 16), torch.rand(1, 3, 12, 16))
    with pytest.raises(ValueError, match="multiples of 64"):
        PyramidWarpNet(ngf=4)(torch.rand(1, 3, 32, 64), torch.rand(1, 3, 32, 64))


def test_each_version_sees_its_range() -> None:
    pair = torch.rand(2, 1, 3, 64, 64).unbind()
    paper, later = WarpNet(ngf=2, levels=4).eval(), PyramidWarpNet(ngf=4).eval()
    with torch.inference_mode():
        torch.testing.assert_close(predicted_grid(paper, *pair), paper(*pair))
        signed = (2 * picture - 1 for picture in pair)
        torch.testing.assert_close(predicted_grid(later, *pair), later(*signed)[0])


def test_a_reduced_warpnet_sees_means_and_moves_pixels_as_far() -> None:
    torch.manual_seed(3)
    network = make_warpnet("pyramid", 4, at_rest=True).eval()
    small = torch.rand(2, 1, 3, 64, 128).unbind()
    large = [picture.repeat_interleave(2, 2).repeat_interleave(2, 3) for picture in small]
    with torch.inference_mode():
        narrow = predicted_grid(network, *small, 0.25) - identity_grid(64, 128)
        wide = predicted_grid(network, *large, 0.25, 2) - identity_grid(128, 256)
    assert narrow.abs().max() > 1e-3
    nodes = nn.functional.avg_pool2d(narrow, 2)
    torch.testing.assert_close(nn.functional.avg_pool2d(wide, 4)[..., 1:-1, 1:-1].mean(),
                               nodes[..., 1:-1, 1:-1].mean(), atol=1e-4, rtol=0)  # fmt: skip
    steps = (wide[..., 1:] - wide[..., :-1]).abs().max()
    assert steps < 0.3 * (nodes[..., 1:] - nodes[..., :-1]).abs().max()
    with pytest.raises(ValueError, match="multiples of 64"):
        predicted_grid(network, *small, 0.25, 2)
    with pytest.raises(ValueError, match="with a reach"):
        GFRNet(reduced=2)


def test_folded_networks_start_at_what_they_correct() -> None:
    torch.manual_seed(4)
    network = FoldedRecNet(width=4)
    x = torch.rand(1, 6, 32, 48)
    torch.testing.assert_close(network(x), x[:, :3])
    nn.init.normal_(network.correct[0].weight, std=0.1)  # type: ignore[arg-type]
    x.requires_grad_(True)
    network(x)[0, :, 16, 16].sum().backward()
    assert x.grad is not None
    # Every pixel matters for one of the result: the deepest map sees all of so small a picture.
    assert bool((x.grad.abs().sum(1) > 0).all())
    with pytest.raises(ValueError, match="multiples of 16"):
        network(torch.rand(1, 6, 24, 32))
    with pytest.raises(ValueError, match="paper or folded"):
        GFRNet(recnet="u")


def test_identity_grid_copies() -> None:
    image = torch.rand(1, 3, 11, 7)
    torch.testing.assert_close(warp(image, identity_grid(11, 7)), image, atol=1e-5, rtol=0)


def test_grid_of_flow_agrees_with_the_kernel() -> None:
    rng = np.random.default_rng(5)
    image = rng.random((20, 24, 3), dtype=np.float32)
    flow = rng.normal(0, 4, (20, 24, 2)).astype(np.float32)
    picture = torch.from_numpy(image).permute(2, 0, 1)[None]
    ours = warp(picture, grid_of_flow(torch.from_numpy(flow)[None]))[0].permute(1, 2, 0)
    kernel = flow_warp(image, flow, padding="zero")
    np.testing.assert_allclose(ours.numpy(), kernel, atol=2e-5)


def test_recnet_is_the_table_of_the_paper_size() -> None:
    with torch.device("meta"):
        network = RecNet()
    widths = [64, 128, 256, 512, 512, 512, 512, 512]
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    assert [m.out_channels for m in convolutions] == widths
    ups = [m for m in network.modules() if isinstance(m, nn.ConvTranspose2d)]
    assert [(m.in_channels, m.out_channels) for m in ups] == [
        (512, 512), (1024, 512), (1024, 512), (1024, 512),
        (1024, 256), (512, 128), (256, 64), (128, 3),
    ]  # fmt: skip
    dropouts = [any(isinstance(m, nn.Dropout) for m in block) for block in network.decoder]  # type: ignore[union-attr, attr-defined]
    assert dropouts == [True, True, True, False, False, False, False, False]
    norms = [m.num_features for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms == [*widths[1:7], 512, 512, 512, 512, 256, 128, 64]


def test_every_pixel_of_the_input_reaches_recnets_output() -> None:
    torch.manual_seed(1)
    network = RecNet(inputs=3, ngf=4, levels=3).eval()
    x = torch.rand(1, 3, 8, 8, requires_grad=True)
    network(x).sum().backward()
    assert x.grad is not None
    assert bool((x.grad != 0).all())


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_each_variant_looks_at(variant: str) -> None:
    torch.manual_seed(2)
    network = GFRNet(variant, warp_ngf=2, rec_ngf=4, levels=4).eval()
    degraded, guide = torch.rand(1, 3, 16, 16), torch.rand(1, 3, 16, 16, requires_grad=True)
    found = network(degraded, guide)
    assert found.restored.shape == (1, 3, 16, 16)
    found.restored.sum().backward()
    warps = variant in {"full", "-F", "R"}
    assert (network.warpnet is not None) == warps
    assert (found.grid is not None) == warps
    assert (guide.grad is not None) == (not variant.startswith("-WG"))
    if not warps:
        torch.testing.assert_close(found.warped, guide)
    twice = GFRNet("full", warp_ngf=2, rec_ngf=8, levels=4).recnet
    if variant == "-W2":
        assert parameters(network.recnet) == parameters(twice)


@pytest.mark.parametrize("detach", [False, True])
def test_detached_guides_keep_losses_from_warpnet(detach: bool) -> None:
    network = GFRNet("full", warp_ngf=2, rec_ngf=2, levels=3, detach_guide=detach)
    network(torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8)).restored.sum().backward()
    assert network.warpnet is not None
    reached = any(p.grad is not None for p in network.warpnet.parameters())
    assert reached != detach


def test_published_and_compact_sizes() -> None:
    with torch.device("meta"):
        full, compact = GFRNet.paper(), GFRNet.compact()
        assert full.warpnet is not None
        assert round(parameters(full.warpnet) / 1e6, 1) == 123.0
        assert round(parameters(full.recnet) / 1e6, 1) == 54.4
        assert parameters(compact) < 3e6
        assert round(parameters(PyramidWarpNet.paper()) / 1e6, 1) == 11.4
        assert round(parameters(RestorationDiscriminator.paper()) / 1e6, 1) == 11.2


def test_compact_takes_256_px() -> None:
    network = GFRNet.compact().eval()
    with torch.inference_mode():
        found = network(torch.rand(1, 3, 256, 256), torch.rand(1, 3, 256, 256))
    assert found.restored.shape == found.warped.shape == (1, 3, 256, 256)
    assert found.restored.min() >= 0
    assert found.restored.max() <= 1


@pytest.mark.parametrize(("levels", "size"), [(5, 256), (3, 64), (1, 16)])
def test_discriminators_give_one_score(levels: int, size: int) -> None:
    network = RestorationDiscriminator(6, 2, levels).eval()
    with torch.inference_mode():
        assert network(torch.rand(3, 6, size, size)).shape == (3,)
    with pytest.raises(ValueError, match=f"judges {size}"):
        network(torch.rand(1, 6, size + 8, size))


def test_crops_are_the_boxes() -> None:
    image = torch.rand(2, 3, 20, 30)
    boxes = torch.tensor([[0.0, 0.0, 29.0, 19.0], [3.0, 4.0, 12.0, 13.0]])
    torch.testing.assert_close(crop_resized(image, boxes, 10)[1], image[1, :, 4:14, 3:13])
    whole = nn.functional.interpolate(image, (10, 10), mode="bilinear", align_corners=True)
    torch.testing.assert_close(crop_resized(image, boxes, 10)[0], whole[0], atol=1e-5, rtol=1e-5)


def test_boxes_of_face_and_parts() -> None:
    points = torch.zeros(1, 68, 2)
    points[0, :, 0] = torch.linspace(10, 50, 68)
    points[0, :, 1] = torch.linspace(20, 60, 68)
    torch.testing.assert_close(face_boxes(points, 0.5), torch.tensor([[-10.0, 0.0, 70.0, 80.0]]))
    for part, (first, last) in PARTS.items():
        x0, y0, x1, y1 = part_boxes(points, part, expand=2.0)[0].tolist()
        extent = (last - 1 - first) * 40 / 67
        assert x1 - x0 == pytest.approx(2 * extent, rel=1e-4)
        assert y1 - y0 == pytest.approx(x1 - x0, rel=1e-4)
    with pytest.raises(ValueError, match="left_eye"):
        part_boxes(points, "ear")


def test_unknown_variants_are_refused() -> None:
    with pytest.raises(ValueError, match="-WG2"):
        GFRNet("-X")
    with pytest.raises(ValueError, match="pyramid"):
        GFRNet(warpnet="flownet")


# --- training ------------------------------------------------------------------------------------


def tiny(module: ModuleType, folder: Path, **changes: Any) -> Any:
    recipe = {table: dict(module.TINY.get(table, {})) for table in ("model", "data", "loss")}
    recipe["data"]["portraits"] = (str(folder),)
    for key, value in changes.items():
        table, _, name = key.partition("_")
        recipe[table][name] = value
    return module.build(recipe)


def assert_everyone_learns(task: Any) -> None:
    """Six steps of each turn on one batch lower its loss, and reach every weight."""
    batch = task.sample(np.random.default_rng(0), 2)
    again = task.sample(np.random.default_rng(0), 2)
    assert all(torch.equal(batch[name], again[name]) for name in batch)
    for turn in task.turns:
        players = [p for name in turn.networks for p in task.networks[name].parameters()]
        optimiser = torch.optim.Adam(players, lr=1e-3)
        values = []
        for _ in range(6):
            torch.manual_seed(0)  # the same dropout and label noise
            loss, parts = turn.loss(batch)
            optimiser.zero_grad()
            loss.backward()
            assert all(p.grad is not None for p in players)
            assert all(np.isfinite(value) for value in parts.values())
            optimiser.step()
            values.append(loss.item())
        assert values[-1] < values[0]


def test_pairs_show_what_their_flow_says(portraits_folder: Path) -> None:
    pairs = GuidedPairs((str(portraits_folder),), 96, flip=1.0)
    faces = pairs.faces("train")
    lonely = [
        n for n, face in enumerate(faces) if [f.identity for f in faces].count(face.identity) == 1
    ]
    batch = pairs.batch(faces, lonely[:1], np.random.default_rng(3), flip=1.0)
    assert bool(batch["known"].all())
    # The field carries the face's landmarks to the guide's.
    last = 95
    places = 2 * batch["landmarks"][:, None] / last - 1
    grid = grid_of_flow(batch["flow"])
    found = nn.functional.grid_sample(grid, places, "bilinear", "border", align_corners=True)
    found = (found[:, :, 0].transpose(1, 2) + 1) * last / 2
    assert (found - batch["guide_landmarks"]).norm(dim=-1).mean() < 1.0
    # And the guide so sampled looks like the face, better than the guide as it is.
    warped = warp(batch["guide"], grid)
    assert (warped - batch["sharp"]).abs().mean() < (batch["guide"] - batch["sharp"]).abs().mean()


def test_strangers_guide_alike_degraded_faces(portraits_folder: Path) -> None:
    folders = (str(portraits_folder),)
    own, other = (
        GuidedPairs(folders, 32, strangers=strangers).held_out(1, 4)[0]
        for strangers in (False, True)
    )
    assert torch.equal(own["degraded"], other["degraded"])
    assert not torch.equal(own["guide"], other["guide"])
    with pytest.raises(RecipeError, match="paper, authors"):
        GuidedPairs(folders, degradation="film")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"loss_flow": 10.0, "loss_symmetry": 1.0, "loss_minus_identity": True},
        {"model_warpnet": "pyramid", "data_size": 64},
    ],
)
def test_warp_task(portraits_folder: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    torch.manual_seed(0)
    task = tiny(warp_task, portraits_folder, **changes)
    assert_everyone_learns(task)
    networks = {name: network.eval() for name, network in task.networks.items()}
    with torch.no_grad():
        figures = task.validate(networks, tmp_path, 0)
    assert {"landmark_error", "unwarped_landmark_error", "psnr", "ssim", "l1"} <= set(figures)
    side = task.data.size
    assert task.pictures(networks)["warp"].shape == (4 * side, 2 * side, 3)


@pytest.mark.parametrize(
    "changes",
    [
        *({"model_variant": variant} for variant in VARIANTS),
        {"model_detach_guide": True, "model_global_inputs": 9},
        {"loss_adversarial_parts": 1.0, "model_global_inputs": 6, "loss_symmetry": 1.0},
        {"loss_adversarial_global": 0.0, "loss_adversarial_local": 0.0, "loss_stand_in": 0.1},
    ],
)
def test_restore_task(portraits_folder: Path, changes: dict[str, Any]) -> None:
    torch.manual_seed(0)
    task = tiny(restore_task, portraits_folder, **changes)
    assert_everyone_learns(task)
    _, parts = task.generator_loss(task.sample(np.random.default_rng(1), 2))
    variant = changes.get("model_variant", "full")
    assert ("landmark" in parts) == (variant in {"full", "-F", "R"})
    assert ("perceptual" in parts) == ("perceptual" in task.notes) == ("loss_stand_in" in changes)


def test_the_landmark_loss_of_minus_f_has_no_weight(portraits_folder: Path) -> None:
    full, without = (
        tiny(restore_task, portraits_folder, model_variant=variant) for variant in ("full", "-F")
    )
    assert full.field_weights.landmark == 10.0
    assert without.field_weights.landmark == 0.0
    assert without.field_weights.total_variation == full.field_weights.total_variation


def test_restore_validates_at_both_scales(portraits_folder: Path, tmp_path: Path) -> None:
    task = tiny(restore_task, portraits_folder)
    networks = {name: network.eval() for name, network in task.networks.items()}
    with torch.no_grad():
        figures = task.validate(networks, tmp_path, 0)
    assert figures["bicubic_psnr_4x"] > figures["bicubic_psnr_8x"]
    assert figures["psnr"] == pytest.approx((figures["psnr_4x"] + figures["psnr_8x"]) / 2)
    assert task.pictures(networks)["restore"].shape == (5 * 32, 2 * 32, 3)


def test_a_trained_warpnet_is_taken_over(portraits_folder: Path, tmp_path: Path) -> None:
    warper = tiny(warp_task, portraits_folder).networks["warpnet"]
    save_file(warper.state_dict(), tmp_path / "weights.safetensors")
    task = tiny(
        restore_task,
        portraits_folder,
        model_warpnet_weights=str(tmp_path / "weights.safetensors"),
    )
    taken = task.networks["gfrnet"].warpnet.state_dict()
    assert all(torch.equal(taken[key], value) for key, value in warper.state_dict().items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_variant": "-X"}, "variant is one of"),
        ({"data_size": 48}, "multiple of 32"),
        ({"model_global_inputs": 4}, "3, 6 or 9"),
        ({"loss_vgg_face": "nowhere.pth", "loss_perceptual": 1.0}, "nowhere.pth"),
    ],
)
def test_bad_recipes_are_refused(
    portraits_folder: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        tiny(restore_task, portraits_folder, **changes)


def test_offsets_begin_with_a_field_at_rest() -> None:
    """With `reach` an untrained network leaves the guide where it is; as published it does not."""
    torch.manual_seed(3)
    degraded, guide = torch.rand(2, 3, 64, 64), torch.rand(2, 3, 64, 64)
    warpnet = make_warpnet("pyramid", 8).eval()
    rest = identity_grid(64, 64)
    published = predicted_grid(warpnet, degraded, guide)
    offsets = predicted_grid(warpnet, degraded, guide, 0.25)
    torch.testing.assert_close(offsets, rest + 0.25 * published)
    assert (offsets - rest).abs().max() <= 0.25
    assert (offsets - rest).abs().mean() < 0.25 * (published - rest).abs().mean()
    with pytest.raises(ValueError, match="reach"):
        GFRNet(reach=-1.0)
