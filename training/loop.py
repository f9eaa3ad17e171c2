"""The training loop: one optimiser step after another, resumable at any kill.

A task knows its networks, data and losses; the loop knows optimisation, averaging, precision,
checkpoints and logs. `fit` can be killed at any time: it resumes from the last checkpoint, which is
replaced atomically.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import os
import queue
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors.torch import save_file

from revisage.training.recipe import Run

__all__ = ["Task", "fit"]

Batch = Mapping[str, torch.Tensor]


class Task(Protocol):
    """What the loop needs to know about a task."""

    network: torch.nn.Module  # the network that is trained, averaged and saved

    def batches(self, rng: np.random.Generator, batch: int) -> Iterator[Batch]:
        """Endless seeded batches."""

    def loss(self, batch: Batch) -> tuple[torch.Tensor, dict[str, float]]:
        """Scalar loss of `network` on a batch, and parts to log. Runs under autocast for bf16."""

    def validate(self, network: torch.nn.Module, out: Path, step: int) -> dict[str, float]:
        """Figures of the averaged network on held-out data; may write pictures into `out`."""


def _learning_rate(run: Run, step: int) -> float:
    if step < run.warmup_steps:
        return run.learning_rate * (step + 1) / run.warmup_steps
    done = (step - run.warmup_steps) / max(1, run.steps - run.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    return run.final_learning_rate + (run.learning_rate - run.final_learning_rate) * cosine


def _prefetched(batches: Iterator[Batch], depth: int) -> Iterator[Batch]:
    """Make batches in one background thread (synthesis releases the GIL in numba and cv2)."""
    ready: queue.Queue[Batch | BaseException] = queue.Queue(maxsize=max(1, depth))

    def produce() -> None:
        try:
            for batch in batches:
                ready.put(batch)
        except BaseException as error:
            ready.put(error)

    threading.Thread(target=produce, daemon=True, name="batches").start()
    while True:
        item = ready.get()
        if isinstance(item, BaseException):
            raise item
        yield item


def _atomic_torch_save(value: Any, path: Path) -> None:
    partial = path.with_suffix(path.suffix + ".partial")
    torch.save(value, partial)
    os.replace(partial, path)


def fit(task: Task, run: Run, out: Path, *, device: str = "cpu") -> dict[str, float]:
    """Train `task` and leave `weights.safetensors` (averaged), `log.jsonl`, `state.pt` in `out`.

    Returns the last validation figures. Run again with the same `out` to resume.
    """
    out.mkdir(parents=True, exist_ok=True)
    if run.threads:
        torch.set_num_threads(run.threads)
    torch.manual_seed(run.seed)
    network = task.network.to(device).train()
    average = copy.deepcopy(network).eval().requires_grad_(False)
    parameters = [p for p in network.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(
        parameters, lr=run.learning_rate, betas=run.betas, weight_decay=run.weight_decay
    )
    first = 0
    state_path = out / "state.pt"
    if state_path.exists():
        state = torch.load(state_path, map_location=device, weights_only=True)
        network.load_state_dict(state["network"])
        average.load_state_dict(state["average"])
        optimiser.load_state_dict(state["optimiser"])
        first = int(state["step"])
    (out / "run.json").write_text(json.dumps(dataclasses.asdict(run), indent=2) + "\n")

    # A resumed run draws other samples than the first part did, and never the same ones again.
    rng = np.random.default_rng([run.seed, first])
    batches = _prefetched(task.batches(rng, run.batch), run.prefetch)
    figures: dict[str, float] = {}
    sums: dict[str, float] = {}
    counted, clock = 0, time.monotonic()

    def save(step: int) -> None:
        _atomic_torch_save(
            {
                "network": network.state_dict(),
                "average": average.state_dict(),
                "optimiser": optimiser.state_dict(),
                "step": step,
            },
            state_path,
        )
        weights = {k: v.detach().cpu().contiguous() for k, v in average.state_dict().items()}
        partial = out / "weights.safetensors.partial"
        save_file(weights, partial)
        os.replace(partial, out / "weights.safetensors")

    with (out / "log.jsonl").open("a", encoding="utf-8") as log:
        for step in range(first, run.steps):
            rate = _learning_rate(run, step)
            for group in optimiser.param_groups:
                group["lr"] = rate
            batch = {k: v.to(device) for k, v in next(batches).items()}
            with torch.autocast(device, dtype=torch.bfloat16, enabled=run.precision == "bf16"):
                loss, parts = task.loss(batch)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            norm = torch.nn.utils.clip_grad_norm_(parameters, run.clip_norm)
            if torch.isfinite(norm):  # a bad batch must not poison the weights
                optimiser.step()
            decay = min(run.ema_decay, (1 + step) / (10 + step))
            with torch.no_grad():
                for kept, new in zip(average.parameters(), network.parameters(), strict=True):
                    kept.lerp_(new, 1 - decay)
                for buffer, latest in zip(average.buffers(), network.buffers(), strict=True):
                    buffer.copy_(latest)
            for key, value in {"loss": loss.item(), "norm": norm.item(), **parts}.items():
                sums[key] = sums.get(key, 0.0) + value
            counted += 1
            done = step + 1
            if done % run.log_every == 0 or done == run.steps:
                seconds = time.monotonic() - clock
                line: dict[str, float] = {k: v / counted for k, v in sums.items()}
                line |= {"step": done, "rate": rate, "samples_s": counted * run.batch / seconds}
                log.write(json.dumps(line) + "\n")
                log.flush()
                sums, counted, clock = {}, 0, time.monotonic()
            if done % run.save_every == 0 or done == run.steps:
                save(done)
            if done % run.validate_every == 0 or done == run.steps:
                with torch.no_grad():
                    figures = task.validate(average, out, done)
                log.write(json.dumps({"step": done, "validation": figures}) + "\n")
                log.flush()
                clock = time.monotonic()
    return figures
