"""StyleGAN2 in both published layouts: same keys, same numbers; its importers, its training."""

from __future__ import annotations

import pickle
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from revisage.errors import CheckpointError, RecipeError
from revisage.training.importers import from_checkpoint, from_state_dict, read_network
from revisage.training.importers import save_imported as save
from revisage.training.loop import fit
from revisage.training.models.stylegan2 import (
    ModulatedConv2d,
    StyleGAN2,
    StyleGAN2Discriminator,
    level_widths,
    modulated_conv2d,
    upsample_by_two,
    use_modulation,
)
from revisage.training.models.stylegan2_ada import NvStyleGAN2, as_stylegan2
from revisage.training.recipe import Run, overridden, read_recipe, recipe_path, section
from revisage.training.tasks import stylegan2 as task_module
from tests.training.parity import close, fixtures

TOLERANCE = 1e-3  # pictures reach 10; the fixtures' float32 noise is below 1e-5


def small_generator(**changes: Any) -> StyleGAN2:
    settings: dict[str, Any] = {"size": 16, "style_dim": 8, "n_mlp": 2, "largest_width": 8}
    torch.manual_seed(1)
    network = StyleGAN2(**{**settings, **changes}).eval()
    for name, parameter in network.named_parameters():  # what begins at 0 must count too
        if name.endswith(("noise.weight", "bias")):
            torch.nn.init.normal_(parameter, 0.5, 0.3)
    return network


def test_rosinality_fixtures() -> None:
    for fill, meta, arrays in fixtures("sg2_*.json"):
        state = fill.state_dict_torch(meta)
        network = from_state_dict(state)
        assert isinstance(network, StyleGAN2)
        assert list(network.state_dict()) == list(state)
        assert network.size == meta["ctor"]["size"]
        given = {name: torch.from_numpy(array) for name, array in arrays.items()}
        seed = next(iter(meta["networks"].values()))["seed"]
        noise = [
            torch.from_numpy(
                fill.rng_for(seed, f"input:noise{index}")
                .standard_normal(tuple(plane.shape))
                .astype(np.float32)
            )
            for index, plane in enumerate(network.stored_noise())
        ]
        with torch.inference_mode():
            close(network.get_latent(given["z"]), arrays["w"], TOLERANCE)
            image, latents = network([given["z"]], return_latents=True, randomize_noise=False)
            close(image, arrays["image_z"], TOLERANCE)
            assert latents is not None
            again, none = network([latents], input_is_latent=True, randomize_noise=False)
            close(again, arrays["image_z"], TOLERANCE)
            assert none is None
            image, _ = network([given["wplus"]], input_is_latent=True, randomize_noise=False)
            close(image, arrays["image_wplus"], TOLERANCE)
            image, _ = network(
                [given["z"], given["z2"]],
                inject_index=3,
                truncation=0.7,
                truncation_latent=given["latent_avg"],
                randomize_noise=False,
            )
            wanted = arrays["image_mix_trunc"]
            stride = image.shape[-1] // wanted.shape[-1]  # large fixtures keep every second pixel
            close(image[..., ::stride, ::stride], wanted, TOLERANCE)
            image, _ = network([given["wplus"]], input_is_latent=True, noise=noise)
            close(image, arrays["image_wplus_noise"], TOLERANCE)
            use_modulation(network, "weights")
            image, _ = network([given["wplus"]], input_is_latent=True, noise=noise)
            close(image, arrays["image_wplus_noise"], TOLERANCE)


def test_nvlabs_fixtures() -> None:
    for fill, meta, arrays in fixtures("sg2ada_*.json"):
        state = fill.state_dict_torch(meta)
        network = from_state_dict(state)
        assert isinstance(network, NvStyleGAN2)
        assert list(network.state_dict()) == list(state)
        assert (network.c_dim, network.z_dim) == (meta["ctor"]["c_dim"], meta["ctor"]["z_dim"])
        z, ws = torch.from_numpy(arrays["z"]), torch.from_numpy(arrays["ws"])
        c = torch.from_numpy(arrays["c"]) if "c" in arrays else None
        cut: dict[str, Any] = {"truncation_psi": 0.7, "truncation_cutoff": 4}
        with torch.inference_mode():
            close(network.mapping(z, c), arrays["w_mapped"], TOLERANCE)
            close(network.mapping(z, c, **cut), arrays["w_trunc"], TOLERANCE)
            close(network(z, c, noise_mode="const"), arrays["image_z"], TOLERANCE)
            close(network(z, c, noise_mode="const", **cut), arrays["image_z_trunc"], TOLERANCE)
            close(network.synthesis(ws, noise_mode="const"), arrays["image_ws"], TOLERANCE)
            found = network.synthesis(ws, noise_mode="none", force_fp32=True)
            close(found, arrays["image_ws_no_noise"], TOLERANCE)


@pytest.mark.parametrize("demodulate", [True, False])
@pytest.mark.parametrize(("kernel", "up"), [(3, False), (3, True), (1, False)])
def test_scaling_activations_is_modulating_weights(kernel: int, up: bool, demodulate: bool) -> None:
    torch.manual_seed(0)
    x, style = torch.randn(3, 5, 6, 7), torch.randn(3, 5)
    weight = torch.randn(4, 5, kernel, kernel)
    one, two = (
        modulated_conv2d(x, weight, style, demodulate=demodulate, up=up, form=form)
        for form in ("activations", "weights")
    )
    assert one.shape == ((3, 4, 13, 15) if up else (3, 4, 6, 7))
    torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-5)
    if demodulate:  # the length of a style does not matter
        scaled = modulated_conv2d(x, weight, 3 * style, up=up)
        torch.testing.assert_close(scaled, one, atol=1e-5, rtol=1e-5)


def test_all_modulated_layers_change_their_form() -> None:
    network = small_generator()
    use_modulation(network, "weights")
    forms = {m.form for m in network.modules() if isinstance(m, ModulatedConv2d)}
    assert forms == {"weights"}
    with pytest.raises(ValueError, match="activations, weights"):
        use_modulation(network, "groups")


def test_upsampling_keeps_a_constant_and_doubles_the_side() -> None:
    kernel = torch.outer(torch.tensor([1.0, 3, 3, 1]), torch.tensor([1.0, 3, 3, 1])) / 16
    out = upsample_by_two(torch.ones(1, 2, 6, 6), kernel)
    assert out.shape == (1, 2, 12, 12)
    torch.testing.assert_close(out[..., 1:-1, 1:-1], torch.ones(1, 2, 10, 10))


def test_features_of_every_level_can_be_read_and_replaced() -> None:
    network = small_generator()
    latent = torch.randn(2, network.n_latent, network.style_dim)
    with torch.inference_mode():
        image, features = network.synthesise(latent, network.stored_noise())
        assert [tuple(f.shape) for f in features] == [(2, 8, s, s) for s in (4, 8, 16)]
        seen: list[int] = []

        def edit(level: int, x: torch.Tensor) -> torch.Tensor:
            seen.append(level)
            return features[level] if level == 2 else torch.zeros_like(x)

        edited, _ = network.synthesise(latent, network.stored_noise(), edit)
    assert seen == [0, 1, 2]
    # Only the last level's colours are those of the first run.
    assert not torch.allclose(edited, image)
    with torch.inference_mode():
        same, _ = network.synthesise(latent, network.stored_noise(), lambda _, x: x)
    torch.testing.assert_close(same, image)


def test_noise_is_drawn_only_where_asked() -> None:
    network = small_generator()
    z = torch.randn(1, 8)
    with torch.inference_mode():
        one, two = network([z])[0], network([z])[0]
        stored = [network([z], randomize_noise=False)[0] for _ in range(2)]
        fresh = network([z], noise=network.make_noise())[0]
    assert not torch.allclose(one, two)
    assert not torch.allclose(fresh, stored[0])
    torch.testing.assert_close(stored[0], stored[1], atol=0, rtol=0)


def test_mixing_takes_the_second_latent_from_its_layer() -> None:
    network = small_generator()
    z = [torch.randn(2, 8), torch.randn(2, 8)]
    with torch.inference_mode():
        _, latents = network(z, return_latents=True, inject_index=2)
        w = [network.get_latent(part) for part in z]
        _, random = network(z, return_latents=True)
    assert latents is not None
    assert random is not None
    assert random.shape == latents.shape
    for layer in range(network.n_latent):
        torch.testing.assert_close(latents[:, layer], w[0 if layer < 2 else 1])


def test_wrong_use_is_one_clear_error() -> None:
    network = small_generator()
    with pytest.raises(ValueError, match="power of two"):
        level_widths(48)
    with pytest.raises(ValueError, match="no channel"):
        level_widths(1024, 1, 8)
    with pytest.raises(ValueError, match="3 levels"):
        StyleGAN2(16, channels=[8, 8])
    with pytest.raises(ValueError, match="truncation_latent"):
        network([torch.zeros(1, 8)], truncation=0.5)
    with pytest.raises(ValueError, match=r"latents \[N, 6, 8\]"):
        network([torch.zeros(1, 3, 8)], input_is_latent=True)
    with pytest.raises(ValueError, match="groups of 4"):
        StyleGAN2Discriminator(8, largest_width=4)(torch.zeros(5, 3, 8, 8))
    ada = NvStyleGAN2(4, 2, 4, 8, channels=[4, 4], num_layers=1)
    with pytest.raises(ValueError, match="labels c"):
        ada(torch.zeros(1, 4))
    with pytest.raises(ValueError, match="random, const, none"):
        ada(torch.zeros(1, 4), torch.zeros(1, 2), noise_mode="fixed")


def test_paper_sizes() -> None:
    with torch.device("meta"):
        generator, discriminator = StyleGAN2.paper(), StyleGAN2Discriminator.paper()
    assert generator.widths == [512, 512, 512, 512, 512, 256, 128, 64, 32]
    assert generator.n_latent == 18
    assert round(sum(p.numel() for p in generator.parameters()) / 1e6, 2) == 30.37
    assert round(sum(p.numel() for p in discriminator.parameters()) / 1e6, 2) == 29.01


def test_discriminator_tells_a_batch_of_equal_pictures() -> None:
    torch.manual_seed(0)
    critic = StyleGAN2Discriminator(16, largest_width=8).eval()
    pictures = torch.randn(4, 3, 16, 16)
    with torch.inference_mode():
        apart = torch.cat([critic(p[None]) for p in pictures])
        together = critic(pictures)
    assert together.shape == (4, 1)
    assert not torch.allclose(apart, together)  # the standard deviation over the batch is seen


@pytest.mark.parametrize("layout", ["g_ema", "g", "plain", "training", "module"])
def test_rosinality_files(layout: str, tmp_path: Path) -> None:
    generator = small_generator(size=64, channel_multiplier=1)
    other = small_generator(size=64, channel_multiplier=1)
    torch.nn.init.zeros_(other.input.input)
    critic = StyleGAN2Discriminator(64, 1, largest_width=8)
    state = generator.state_dict()
    content: dict[str, Any] = {
        "g_ema": {"g_ema": state, "latent_avg": torch.zeros(8)},
        "g": {"g": state},
        "plain": dict(state),
        "training": {"g": other.state_dict(), "d": critic.state_dict(), "g_ema": state},
        "module": {f"module.{key}": value for key, value in state.items()},
    }[layout]
    path = tmp_path / "file.pt"
    torch.save(content, path)
    found = from_checkpoint(path)
    assert isinstance(found, StyleGAN2)
    assert found.widths == [8, 8, 8, 8, 4]
    z = torch.randn(1, 8)
    with torch.inference_mode():
        wanted, got = (net([z], randomize_noise=False)[0] for net in (generator, found))
    torch.testing.assert_close(got, wanted)
    if layout == "training":
        judge = from_checkpoint(path, "stylegan2_discriminator")
        with torch.inference_mode():
            torch.testing.assert_close(judge(wanted), critic(wanted))


def test_imported_weights_come_back_from_our_file(tmp_path: Path) -> None:
    torch.save({"g_ema": small_generator().state_dict()}, tmp_path / "in.pt")
    imported = read_network(tmp_path / "in.pt")
    again = from_checkpoint(save(imported, tmp_path / "out.safetensors"))
    for (key, one), two in zip(
        again.state_dict().items(), imported.network.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(one, two, atol=0, rtol=0, msg=key)


@pytest.mark.parametrize(
    "settings",
    [
        {"c_dim": 0, "num_layers": 2},
        {"c_dim": 3, "num_layers": 2},
        {"c_dim": 3, "num_layers": 3, "embed_features": 5, "layer_features": 7},
        {"c_dim": 2, "num_layers": 1, "img_channels": 1},
    ],
)
def test_nvlabs_sizes_are_told_from_the_tensors(settings: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = NvStyleGAN2(
        z_dim=6, w_dim=4, img_resolution=16, channels=[5, 4, 3], **settings
    ).eval()
    torch.save(network.state_dict(), tmp_path / "file.pt")
    found = from_checkpoint(tmp_path / "file.pt")
    z, c = torch.randn(2, 6), torch.randn(2, settings["c_dim"])
    with torch.inference_mode():
        torch.testing.assert_close(
            found(z, c, noise_mode="const"), network(z, c, noise_mode="const")
        )


def test_nvlabs_clamp_limits_every_activation() -> None:
    torch.manual_seed(0)
    settings: dict[str, Any] = {"channels": [4, 4], "num_layers": 1}
    free = NvStyleGAN2(4, 0, 4, 8, **settings)
    tight = NvStyleGAN2(4, 0, 4, 8, conv_clamp=0.1, **settings)
    tight.load_state_dict(free.state_dict())
    z = torch.randn(2, 4)
    with torch.inference_mode():
        assert free(z, noise_mode="none").abs().max() > 0.4
        # Colours are clamped before the levels are added: at most one clamp per level.
        assert tight(z, noise_mode="none").abs().max() <= 0.2 * 1.001


def test_nvlabs_clamp_is_set_afterwards() -> None:
    torch.manual_seed(0)
    settings: dict[str, Any] = {"channels": [4, 4], "num_layers": 1}
    tight = NvStyleGAN2(4, 0, 4, 8, conv_clamp=0.1, **settings).eval()
    imported = from_state_dict(tight.state_dict())
    assert isinstance(imported, NvStyleGAN2)
    z = torch.randn(2, 4)
    wanted = tight(z, noise_mode="const")
    assert not torch.equal(imported(z, noise_mode="const"), wanted)
    assert torch.equal(imported.use_clamp(0.1)(z, noise_mode="const"), wanted)


def test_nvlabs_weights_as_stylegan2() -> None:
    torch.manual_seed(0)
    network = NvStyleGAN2(8, 0, 8, 16, channels=[6, 5, 4], num_layers=3).eval()
    for parameter in network.parameters():
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    ours = as_stylegan2(network)
    z = torch.randn(2, 8)
    with torch.inference_mode():
        found, _ = ours([z], randomize_noise=False)
        wanted = network(z, noise_mode="const")
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="unconditional"):
        as_stylegan2(NvStyleGAN2(8, 2, 8, 8, channels=[4, 4]))


def test_a_pickle_of_modules_is_refused_with_the_way_out(tmp_path: Path) -> None:
    path = tmp_path / "ffhq.pkl"
    path.write_bytes(pickle.dumps({"G_ema": small_generator(), "D": None}))
    with pytest.raises(CheckpointError, match="state_dict"):
        from_checkpoint(path)


def test_missing_keys_are_named() -> None:
    state = small_generator().state_dict()
    del state["convs.1.noise.weight"]
    with pytest.raises(CheckpointError, match=r"missing keys: convs\.1\.noise\.weight"):
        from_state_dict(state)


# --- training ------------------------------------------------------------------------------------


def tiny(portraits: Path, name: str = "stylegan2", **loss: Any) -> dict[str, dict[str, Any]]:
    recipe = overridden(read_recipe(recipe_path(name)), task_module.TINY)
    return overridden(recipe, {"data": {"portraits": [str(portraits)]}, "loss": loss})


@pytest.mark.parametrize("name", ["stylegan2_paper", "stylegan2"])
def test_lazy_rates_are_those_of_the_paper(name: str) -> None:
    recipe = tomllib.loads(recipe_path(name).read_text())
    for player, every in (
        ("generator", recipe["loss"]["path_every"]),
        ("critic", recipe["loss"]["r1_every"]),
    ):
        share = every / (every + 1)
        table = recipe["optimiser"][player]
        assert table["learning_rate"] == pytest.approx(
            recipe["run"]["learning_rate"] * share, rel=1e-4
        )
        wanted = [beta**share for beta in recipe["run"]["betas"]]
        assert table["betas"] == pytest.approx(wanted, rel=1e-4)


def test_task_learns_to_judge(portraits_folder: Path, tmp_path: Path) -> None:
    recipe = overridden(
        tiny(portraits_folder), {"run": {"same_batch": True, "log_every": 1, "threads": 1}}
    )
    task = task_module.build(recipe)
    lines: list[dict[str, float]] = []
    fit(
        task,
        section(recipe, "run", Run),
        tmp_path,
        optimisers=recipe["optimiser"],
        progress=lambda line: lines.append(dict(line)),
    )
    assert lines[-1][task.watch] < 0.7 * lines[0][task.watch]
    # Lazy turns: the penalty on real pictures at step 0 only, that on paths at 0, 4 and 8.
    assert ["critic_r1/r1" in line for line in lines] == [True] + [False] * 9
    assert [i for i, line in enumerate(lines) if "generator_path/length" in line] == [0, 4, 8]
    assert float(task.path.mean) > 0
    sheet = task.pictures(task.networks)["generator"]
    assert sheet.shape == (4 * 32, 8 * 32, 3)


def test_penalties_count_for_the_steps_between(portraits_folder: Path) -> None:
    task = task_module.build(tiny(portraits_folder, ada=False, r1=3.0, r1_every=5, mixing=0.0))
    batch = task.sample(np.random.default_rng(0), 4)
    assert batch["image"].shape == (4, 3, 32, 32)
    loss, parts = task.r1_loss(dict(batch))
    assert loss.item() == pytest.approx(3.0 / 2 * 5 * parts["r1"])
    assert not batch["image"].requires_grad  # the other turns of the step see it too
    loss, parts = task.path_loss(batch)
    assert loss.item() == pytest.approx(2.0 * 4 * parts["penalty"])
    latents = task.latents(3)
    assert bool((latents == latents[:, :1]).all())  # nothing is mixed


def test_the_distance_is_to_as_many_faces_as_were_asked_for(
    portraits_folder: Path, tmp_path: Path
) -> None:
    recipe = tiny(portraits_folder)
    recipe["data"].update(judged=8, compared=1)
    task = task_module.build(recipe)
    figures = task.validate(task.networks, tmp_path, 1)
    assert figures["fid_stand_in"] > 0
    assert task.real_features is not None
    assert len(task.real_features) == 2  # one of each split
    assert task.validate(task.networks, tmp_path, 2) == figures


def test_mixing_regularisation_mixes(portraits_folder: Path) -> None:
    task = task_module.build(tiny(portraits_folder, mixing=1.0))
    torch.manual_seed(0)
    latents = task.latents(2)
    changes = (latents[:, 1:] != latents[:, :-1]).any(dim=2)
    assert changes.sum(dim=1).tolist() == [1, 1]


def test_impossible_sizes_are_recipe_errors(portraits_folder: Path) -> None:
    recipe = overridden(tiny(portraits_folder), {"data": {"size": 48}})
    with pytest.raises(RecipeError, match="power of two"):
        task_module.build(recipe)
