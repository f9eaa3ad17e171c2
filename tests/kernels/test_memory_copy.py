"""The copy that benchmarks take as the roof."""

from __future__ import annotations

import re

import numpy as np
import pytest

from revisage.errors import ShapeError
from revisage.kernels import _dispatch
from tests.kernels.fuzzing import Block


@pytest.mark.parametrize("size", [1, 63, 64, 65, 1000, 5_000_003])
@pytest.mark.parametrize("skips", [(0, 0), (1, 0), (0, 1), (17, 40)])
def test_copies_at_any_alignment(
    native: str, size: int, skips: tuple[int, int], random: np.random.Generator
) -> None:
    """Between guard pages: not a byte too much is read or written."""
    source_block, out_block = (Block(size + skip, at_end=True) for skip in skips)
    source = source_block.view(np.dtype(np.uint8), (size,), skips[0])
    out = out_block.view(np.dtype(np.uint8), (size,), skips[1])
    source[:] = random.integers(0, 256, size, np.uint8)
    for threads, prefetch in ((1, True), (2, False), (3, True)):
        out[:] = 0
        _dispatch._native.copy_nontemporal(out, source, threads, prefetch)
        assert np.array_equal(out, source)


def test_refuses_what_is_no_copy(native: str) -> None:
    array, read_only = np.zeros((4, 4), np.float32), np.zeros((4, 4), np.float32)
    read_only.flags.writeable = False
    for out, message in [
        (np.zeros(16, np.float32), "out must be float32 of shape [4, 4]"),
        (array, "out overlaps source"),
        (read_only, "read-only"),
    ]:
        with pytest.raises(ShapeError, match=re.escape(message)):
            _dispatch._native.copy_nontemporal(out, array, 1)
