"""pSp: the published layout, its pyramid, its mean latent."""

from __future__ import annotations

import pytest
import torch

from revisage.training.models.psp import Psp, PspEncoder
from revisage.training.models.stylegan2 import StyleGAN2


def small_psp() -> Psp:
    torch.manual_seed(0)
    decoder = StyleGAN2(64, style_dim=8, n_mlp=2, largest_width=8, channel_multiplier=1)
    encoder = PspEncoder(decoder.n_latent, 32, (4, 4, 6, 8, 8), (2, 1, 1, 1), 8)
    return Psp(encoder, decoder).eval()


def test_paper_size_has_the_published_layers() -> None:
    with torch.device("meta"):
        network = Psp.paper()
    shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    assert network.encoder.ends == [2, 6, 20, 23]
    assert shapes["encoder.input_layer.0.weight"] == (64, 3, 3, 3)
    assert shapes["encoder.body.3.shortcut_layer.0.weight"] == (128, 64, 1, 1)
    assert shapes["encoder.body.20.res_layer.3.weight"] == (256, 256, 3, 3)
    assert shapes["encoder.body.23.res_layer.5.fc1.weight"] == (32, 512, 1, 1)
    assert shapes["encoder.latlayer1.weight"] == (512, 256, 1, 1)
    # One convolution for every halving from 16, 32 and 64 px to one pixel.
    for style, convolutions in ((0, 4), (2, 4), (3, 5), (6, 5), (7, 6), (17, 6)):
        keys = [key for key in shapes if key.startswith(f"encoder.styles.{style}.convs.")]
        assert len(keys) == 2 * convolutions
    assert shapes["decoder.convs.15.conv.weight"] == (1, 32, 32, 3, 3)
    encoder = sum(p.numel() for p in network.encoder.parameters())
    assert round(encoder / 1e6, 2) == 267.14


def test_latents_are_read_at_their_level() -> None:
    network = small_psp()
    images = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        latents = network.encode(images)
        assert latents.shape == (2, 10, 8)
        network.encoder.latlayer2.weight.zero_()
        network.encoder.latlayer2.bias.fill_(3.0)  # only the finest map changes
        changed = network.encode(images) - latents
    assert bool((changed[:, :7] == 0).all())
    assert bool((changed[:, 7:].abs().sum(dim=2) > 0).all())


def test_the_mean_latent_is_added() -> None:
    network = small_psp()
    images = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        before = network.encode(images)
        network.centre(256)
        after = network.encode(images)
        out, again = network(images), network(images)
    torch.testing.assert_close(after - before, network.latent_avg[None])
    assert float(network.latent_avg.abs().max()) > 0
    assert bool((network.latent_avg == network.latent_avg[0]).all())
    assert out.shape == images.shape
    torch.testing.assert_close(out, again, atol=0, rtol=0)


def test_an_image_of_the_generator_has_its_colours() -> None:
    """Pictures of the generator in [-1, 1] come out in [0, 1]."""
    network = small_psp()
    images = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        picture, _ = network.decoder(
            [network.encode(images)], input_is_latent=True, randomize_noise=False
        )
        torch.testing.assert_close(network(images), (picture + 1) / 2)


def test_wrong_sizes_are_errors() -> None:
    with pytest.raises(ValueError, match="power of two"):
        PspEncoder(size=48)
    with pytest.raises(ValueError, match="style_dim is 8"):
        PspEncoder(4, 32, (4, 4, 4, 4, 4), (1, 1, 1, 1), 8)
    encoder = PspEncoder(4, 32, (4, 4, 4, 4, 8), (1, 1, 1, 1), 8)
    with pytest.raises(ValueError, match="32 x 32"):
        encoder(torch.zeros(1, 3, 64, 64))
    with pytest.raises(ValueError, match="generator takes 4 of 16"):
        Psp(encoder, StyleGAN2(8, 16, 1, 1, largest_width=4))
