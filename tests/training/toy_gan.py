"""A GAN so small that the loop around it can be tested to the bit.

Run as a program it trains in a process of its own, which a test can kill or start twice.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from revisage.training.loop import Batch, Turn, fit
from revisage.training.recipe import Run

__all__ = ["StoppedError", "ToyGan", "toy_run"]


class StoppedError(Exception):
    """Stands for a kill."""


class Drawer(nn.Module):
    """Noise [N, 3] -> points [N, 2]; `level` is a moving average that lives in a buffer."""

    def __init__(self, *, batch_norm: bool) -> None:
        super().__init__()
        middle = nn.BatchNorm1d(8) if batch_norm else nn.Identity()
        self.body = nn.Sequential(nn.Linear(3, 8), middle, nn.Tanh(), nn.Linear(8, 2))
        self.level: torch.Tensor
        self.register_buffer("level", torch.zeros(()))

    def forward(self, noise: torch.Tensor) -> torch.Tensor:
        points: torch.Tensor = self.body(noise)
        if self.training:
            self.level.lerp_(points.detach().float().mean(), 0.1)
        return points


class ToyGan:
    """Draw points near a given one; the critic has a lazy R1 turn that shares its optimiser."""

    def __init__(
        self, *, batch_norm: bool = True, repeats: int = 1, every: int = 3, stop: int = -1
    ) -> None:
        torch.manual_seed(5)
        self.networks: dict[str, nn.Module] = {
            "drawer": Drawer(batch_norm=batch_norm),
            "critic": nn.Sequential(nn.Linear(4, 8), nn.Softplus(), nn.Linear(8, 1)),
        }
        self.product, self.averaged = "drawer", ("drawer",)
        self.turns = (
            Turn("critic", ("critic",), self.judge, repeats=repeats),
            Turn("smooth", ("critic",), self.smooth, every=every, optimiser="critic"),
            Turn("generator", ("drawer",), self.draw),
        )
        self.watch = "generator/l1"
        self.notes = {"what": "a toy"}
        self.stop = stop  # the call of `draw` that is killed
        self.kill: Callable[[], None] | None = None
        self.calls: list[tuple[str, float]] = []  # turn, and the sum that marks its batch

    def sample(self, rng: np.random.Generator, size: int) -> Batch:
        place = rng.standard_normal((size, 2)).astype(np.float32)
        return {"place": torch.from_numpy(place)}

    def _drawn(self, batch: Batch, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        place = batch["place"]
        self.calls.append((name, float(place.sum())))
        noise = torch.cat([place, torch.randn(len(place), 1)], dim=1)
        return place, self.networks["drawer"](noise)

    def judge(self, batch: Batch) -> tuple[torch.Tensor, dict[str, float]]:
        place, drawn = self._drawn(batch, "critic")
        critic, softplus = self.networks["critic"], nn.functional.softplus
        real = critic(torch.cat([place, place], dim=1))
        fake = critic(torch.cat([place, drawn.detach()], dim=1))
        loss = softplus(fake).mean() + softplus(-real).mean()
        return loss, {"real": real.mean().item()}

    def smooth(self, batch: Batch) -> tuple[torch.Tensor, dict[str, float]]:
        place = batch["place"]
        self.calls.append(("smooth", float(place.sum())))
        pair = torch.cat([place, place], dim=1).requires_grad_()
        score = self.networks["critic"](pair).sum()
        (slope,) = torch.autograd.grad(score, pair, create_graph=True)
        return slope.square().sum(dim=1).mean(), {}

    def draw(self, batch: Batch) -> tuple[torch.Tensor, dict[str, float]]:
        if sum(name == "generator" for name, _ in self.calls) == self.stop:
            if self.kill is None:
                raise StoppedError
            self.kill()
        place, drawn = self._drawn(batch, "generator")
        score = self.networks["critic"](torch.cat([place, drawn], dim=1))
        l1 = (drawn - place).abs().mean()
        return l1 + 0.1 * nn.functional.softplus(-score).mean(), {"l1": l1.item()}

    def validate(self, networks: Mapping[str, nn.Module], out: Path, step: int) -> dict[str, float]:
        place = self.sample(np.random.default_rng(0), 16)["place"]
        drawn = networks["drawer"](torch.cat([place, torch.zeros(16, 1)], dim=1))
        return {"l1": float((drawn - place).abs().mean())}

    def pictures(self, networks: Mapping[str, nn.Module]) -> Mapping[str, npt.NDArray[np.uint8]]:
        return {"toy": np.full((4, 6, 3), (255, 0, 0), np.uint8)}


def toy_run(**changes: object) -> Run:
    """Settings of twelve steps, with every kind of file due on the way."""
    settings = {
        "task": "toy",
        "steps": 12,
        "batch": 4,
        "learning_rate": 1e-2,
        "warmup_steps": 2,
        "ema_decay": 0.7,
        "log_every": 3,
        "validate_every": 6,
        "save_every": 4,
        "threads": 1,
    }
    return Run(**{**settings, **changes})  # type: ignore[arg-type]


def _main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--stop", type=int, default=-1)
    parser.add_argument("--kill", action="store_true")
    parser.add_argument("--batch-norm", action="store_true")
    args = parser.parse_args()
    task = ToyGan(batch_norm=args.batch_norm, stop=args.stop)
    if args.kill:
        task.kill = lambda: os.kill(os.getpid(), signal.SIGKILL)
    fit(task, toy_run(), args.out)
    rank = os.environ.get("RANK", "0")
    state = {
        f"{name}.{key}": value.tolist()
        for name, network in task.networks.items()
        for key, value in network.state_dict().items()
    }
    (args.out / f"rank{rank}.json").write_text(json.dumps({"state": state, "calls": task.calls}))


if __name__ == "__main__":
    _main()
