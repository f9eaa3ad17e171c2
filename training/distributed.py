"""Several processes that train one network: each makes its own micro-batches, gradients are summed.

Started by torchrun, which sets RANK, LOCAL_RANK and WORLD_SIZE; without these there is one process
and every function here does nothing. Networks are not wrapped: gradients are summed by hand after
the backward pass, as StyleGAN2-ADA (Karras et al. 2020, "Training GANs with limited data") does,
because penalties on gradients need a second backward pass through the plain network.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import distributed, nn

from revisage.errors import DeviceError

__all__ = [
    "World",
    "average_buffers",
    "broadcast",
    "everyone",
    "joined",
    "rows_of_all",
    "sum_gradients",
    "wait",
]

# Rank 0 validates and saves while the others wait.
PATIENCE = datetime.timedelta(hours=2)


@dataclasses.dataclass(frozen=True)
class World:
    """Which of how many processes this one is, and its device."""

    rank: int
    size: int
    device: torch.device

    @property
    def writes(self) -> bool:
        """Only the first process writes files."""
        return self.rank == 0


@contextlib.contextmanager
def joined(device: str) -> Iterator[World]:
    """Join the processes that torchrun started (gloo on CPU, NCCL on CUDA); leave at the end.

    Args:
        device: torch device; of several processes "cuda" is the GPU of the local rank.
    """
    size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    try:
        wanted = torch.device(device)
    except RuntimeError:
        raise DeviceError(f"device {device!r}: not a device of PyTorch; use cpu or cuda") from None
    if wanted.type not in {"cpu", "cuda", "mps", "xpu"}:
        raise DeviceError(f"device {device!r}: training runs on cpu or cuda")
    if wanted.type == "cuda" and not torch.cuda.is_available():
        raise DeviceError(f"device {device!r}: this PyTorch finds no CUDA device; use cpu")
    if size == 1:
        yield World(0, 1, wanted)
        return
    if wanted.type == "cuda":
        wanted = torch.device("cuda", int(os.environ.get("LOCAL_RANK", rank)))
        torch.cuda.set_device(wanted)
    distributed.init_process_group(
        "nccl" if wanted.type == "cuda" else "gloo", timeout=PATIENCE, rank=rank, world_size=size
    )
    try:
        yield World(rank, size, wanted)
        _leave_together(rank, size)
    finally:
        distributed.destroy_process_group()


def _leave_together(rank: int, size: int) -> None:
    """Return when no process is in a collective any more; the first one, host of the store, last.

    A process that closes its connections while another still reads from them can make gloo abort.
    """
    store = distributed.distributed_c10d._get_default_store()
    for phase, waits in (("done", True), ("left", rank == 0)):
        store.set(f"revisage/{phase}/{rank}", "1")
        if waits:
            store.wait([f"revisage/{phase}/{other}" for other in range(size)])


def wait(world: World) -> None:
    """Go on when every process is here."""
    if world.size > 1:
        everyone(world, None)


def everyone(world: World, value: Any) -> list[Any]:
    """`value` of every process, in the order of their ranks (small picklable values)."""
    if world.size == 1:
        return [value]
    values: list[Any] = [None] * world.size
    distributed.all_gather_object(values, value)
    return values


@torch.no_grad()
def broadcast(world: World, networks: Iterable[nn.Module]) -> None:
    """Give every process the weights and buffers of the first."""
    if world.size == 1:
        return
    for network in networks:
        for tensor in (*network.parameters(), *network.buffers()):
            dense = tensor.detach().contiguous()  # broadcast needs dense rows
            distributed.broadcast(dense, src=0)
            tensor.copy_(dense)


@torch.no_grad()
def sum_gradients(world: World, parameters: Sequence[nn.Parameter]) -> None:
    """Sum the gradients over the processes, in one message.

    A parameter without a gradient in every process stays without one, so that its optimiser leaves
    it alone; one that has a gradient in some of them counts as zero in the others.
    """
    if world.size == 1 or not parameters:
        return
    used = [parameter.grad is not None for parameter in parameters]
    pieces = [
        (torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1).float() for p in parameters
    ]
    message = torch.cat([*pieces, torch.tensor(used, dtype=torch.float32, device=world.device)])
    distributed.all_reduce(message)
    used_anywhere = (message[-len(used) :] > 0).tolist()
    offset = 0
    for parameter, present in zip(parameters, used_anywhere, strict=True):
        if present:
            total = message[offset : offset + parameter.numel()].reshape(parameter.shape)
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            parameter.grad.copy_(total)
        offset += parameter.numel()


@torch.no_grad()
def average_buffers(world: World, networks: Iterable[nn.Module]) -> None:
    """Make the floating-point buffers equal: each becomes its mean over the processes.

    So batch statistics and moving averages see the whole batch. The mean is taken in float64, in
    which the mean of equal numbers is exactly that number: constants never drift. Buffers of other
    types stay as they are, because they are equal already: counters count alike in every process,
    and a task that keeps samples adds `rows_of_all`.
    """
    if world.size == 1:
        return
    floating = [
        buffer for network in networks for buffer in network.buffers() if buffer.is_floating_point()
    ]
    if not floating:
        return
    message = torch.cat([buffer.reshape(-1).double() for buffer in floating])
    distributed.all_reduce(message)
    message /= world.size
    sizes = [buffer.numel() for buffer in floating]
    for buffer, mean in zip(floating, torch.split(message, sizes), strict=True):
        buffer.copy_(mean.reshape(buffer.shape))


@torch.no_grad()
def rows_of_all(rows: torch.Tensor) -> torch.Tensor:
    """The rows [N, ...] of every process in the order of their ranks; N may differ between them.

    For state that a task fills in its losses, such as samples to show again. Every process must
    call it equally often; in a run of one process the rows come back as they are.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return rows
    parts: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(parts, rows.detach().cpu())
    return torch.cat(parts).to(rows.device)
