"""State that several processes keep together."""

from __future__ import annotations

import multiprocessing
import os
import socket
from concurrent.futures import ProcessPoolExecutor

import torch

from revisage.training.distributed import average_buffers, joined, rows_of_all
from revisage.training.tasks.face_landmarks import HardNegatives


def _fooled(rank: int, step: int) -> torch.Tensor:
    """Crops that fooled one process: as many as its rank and one, none in the second step."""
    count = rank + 1 if step != 1 else 0
    return torch.full((count, 2, 2, 3), 10 * step + rank + 1, dtype=torch.uint8)


def _process(rank: int, port: int) -> tuple[list[int], int, float]:
    os.environ.update(
        WORLD_SIZE="2", RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    torch.set_num_threads(1)
    kept, norm = HardNegatives(room=8, size=2), torch.nn.BatchNorm1d(1)
    with joined("cpu") as world:
        for step in range(3):
            kept.add(_fooled(rank, step))
            norm(torch.tensor([[float(rank)], [float(rank)]]))
            average_buffers(world, [kept, norm])
    assert norm.running_mean is not None
    return kept.images[:, 0, 0, 0].tolist(), int(kept.seen), float(norm.running_mean)


def test_crops_that_fooled_any_process_are_kept_by_all() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        first, second = [pool.submit(_process, rank, port) for rank in range(2)]
        results = [first.result(timeout=120), second.result(timeout=120)]
    assert results[0] == results[1]
    images, seen, mean = results[0]
    assert images == [1, 2, 2, 21, 22, 22, 0, 0]
    assert seen == 6
    # Three updates by a tenth towards the mean of the ranks, 0.5.
    assert abs(mean - 0.5 * (1 - 0.9**3)) < 1e-6


def test_one_process_has_only_its_own_rows() -> None:
    rows = _fooled(1, 0)
    assert rows_of_all(rows) is rows
