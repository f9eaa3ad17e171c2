"""The coarse-to-fine network: what each half may change."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from revisage.training.models.coarse_to_fine import REDUCED, CoarseToFine


def small() -> CoarseToFine:
    torch.manual_seed(0)
    return CoarseToFine(ngf=4, levels=2, stem=8, width=8, blocks=1)


def test_only_the_hole_changes_and_its_content_does_not_matter() -> None:
    network = small().eval()
    nn.init.normal_(network.fine.head.weight, std=0.2)
    image, mask = torch.rand(2, 3, 32, 64), torch.zeros(2, 1, 32, 64)
    mask[:, :, 4:23, 10:50] = 1
    with torch.inference_mode():
        filled = network(image, mask)
        other = network(image * (1 - mask), mask)
        coarse = network.coarse_fill(image, mask)
    assert torch.equal(filled * (1 - mask), image * (1 - mask))
    torch.testing.assert_close(filled, other)
    assert not torch.allclose(filled, coarse)
    assert filled.min() >= 0
    assert filled.max() <= 1


def test_the_coarse_half_sees_a_small_face() -> None:
    network = small().eval()
    seen = []
    network.coarse.encoder[0].register_forward_hook(lambda _, given, __: seen.append(given[0]))
    with torch.inference_mode():
        network(torch.rand(1, 3, 32, 48), torch.ones(1, 1, 32, 48))
    assert seen[0].shape[-2:] == (32 // REDUCED, 48 // REDUCED)


def test_the_coarse_half_stays_as_it_is() -> None:
    network = small().train()
    before = {name: value.clone() for name, value in network.coarse.state_dict().items()}
    image, mask = torch.rand(2, 3, 32, 32), torch.ones(2, 1, 32, 32)
    network(image, mask).mean().backward()
    assert all(p.grad is None for p in network.coarse.parameters())
    assert all(p.grad is not None for p in network.fine.head.parameters())
    for name, value in network.coarse.state_dict().items():
        assert torch.equal(value, before[name])  # batch norms do not follow what they see


def test_sides_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="multiples of 16"):
        small()(torch.rand(1, 3, 40, 32), torch.zeros(1, 1, 40, 32))
