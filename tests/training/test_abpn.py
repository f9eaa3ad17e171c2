"""ABPN: the blend and its inverse, and the pyramid."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from revisage.training.models.abpn import ABPN, AdaptiveBlend
from revisage.training.models.skin_retouching import soft_light


def _small(levels: int = 2) -> ABPN:
    torch.manual_seed(0)
    return ABPN(levels, (4, 6, 8), (1, 2), 4).eval()


def test_it_begins_as_soft_light() -> None:
    blend = AdaptiveBlend()
    x = torch.linspace(0.05, 0.95, 40).reshape(1, 1, 5, 8)  # where the gain is not bounded
    layer = torch.rand(1, 1, 5, 8)
    torch.testing.assert_close(blend(x, layer), soft_light(x, layer))


@pytest.mark.parametrize("scalars", [(2.0, 2.0), (1.3, 0.4), (2.5, 3.5)])
def test_the_reverse_is_exact_from_black_to_white(scalars: tuple[float, float]) -> None:
    blend = AdaptiveBlend().double()
    with torch.no_grad():
        blend.linear.fill_(scalars[0])
        blend.quadratic.fill_(scalars[1])
        x = torch.linspace(0, 1, 101, dtype=torch.float64)
        result = torch.rand(101, dtype=torch.float64)
        layer = blend.reverse(x, result)
        torch.testing.assert_close(blend(x, layer), result)
        assert float(layer.abs().max()) <= 16.5
        half = torch.full_like(x, 0.5)
        torch.testing.assert_close(blend(x, half), x)
        torch.testing.assert_close(blend.reverse(x, x), half)


def test_gradients_of_the_blend() -> None:
    blend = AdaptiveBlend().double()
    x = torch.rand(6, dtype=torch.float64) * 0.8 + 0.1
    layer = torch.rand(6, dtype=torch.float64)

    def both(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        state = {"linear": a, "quadratic": b}
        forward: torch.Tensor = torch.func.functional_call(blend, state, (x, layer))
        return forward

    scalars = tuple(torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (2.1, 1.8))
    assert torch.autograd.gradcheck(both, scalars)


def test_the_scalars_are_shared() -> None:
    names = [name for name, _ in _small().named_parameters() if name.startswith("blend")]
    assert names == ["blend.linear", "blend.quadratic"]


def test_an_empty_edit_leaves_the_picture() -> None:
    network = _small()
    image = torch.rand(1, 3, 32, 48)
    with torch.no_grad():
        assert not torch.equal(network(image), image)
        network.local.edit_head.weight.zero_()
        network.local.edit_head.bias.zero_()  # type: ignore[union-attr]
        torch.testing.assert_close(network(image), image)


def test_a_low_resolution_edit_reaches_full_resolution_and_keeps_texture() -> None:
    network = _small(1)
    torch.manual_seed(1)
    image = 0.4 + 0.1 * torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        network.local.edit_head.weight.zero_()
        network.local.edit_head.bias.fill_(0.1)  # type: ignore[union-attr]
        network.local.mask_head.weight.zero_()
        network.local.mask_head.bias.fill_(20.0)  # type: ignore[union-attr]
        result, low, mask = network.retouch(image)
    torch.testing.assert_close(low, functional.avg_pool2d(image, 2) + 0.1)
    torch.testing.assert_close(mask, torch.ones(1, 1, 16, 16))
    # All is brighter by about as much, and pixels differ from their neighbours as before.
    assert float((result - image - 0.1).abs().max()) < 0.02
    before, after = image.diff(dim=3).flatten(), result.diff(dim=3).flatten()
    assert float(torch.corrcoef(torch.stack([before, after]))[0, 1]) > 0.99
    with torch.no_grad():
        network.local.mask_head.bias.fill_(-40.0)  # type: ignore[union-attr]
        torch.testing.assert_close(network(image), image)


def test_everything_learns() -> None:
    network = _small(2).train()
    with torch.no_grad():
        for refine in network.pyramid.refine:
            refine[-1].weight.normal_(0, 0.1)  # type: ignore[index]
    image, target = torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 32)
    functional.mse_loss(network(image), target).backward()
    silent = [
        name
        for name, parameter in network.named_parameters()
        if parameter.grad is None or not bool(parameter.grad.any())
    ]
    assert silent == []


def test_sizes_that_do_not_fit_are_errors() -> None:
    assert _small(2).multiple_of == 16
    with pytest.raises(ValueError, match="multiples of 16"):
        _small(2)(torch.zeros(1, 3, 32, 40))
    with pytest.raises(ValueError, match="levels"):
        ABPN(0)
    with pytest.raises(ValueError, match="two levels"):
        ABPN(1, (4,))
