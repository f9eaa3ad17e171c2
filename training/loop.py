"""The training loop of all systems: turns of several players, resumable at any kill.

A task knows its networks, data and losses; the loop knows optimisation, averaging, precision,
several processes, checkpoints and logs. At every step each player takes its turn: a loss, its
gradients for the networks of that turn, one optimiser step. A network with one loss is the case of
one turn, a GAN has two, lazy regularisation is one more with `every` above 1.

A run can be killed at any time and resumes from its last checkpoint. Every random draw is a
function of the seed and the step, so the resumed run gives the same weights, bit for bit, and the
same log as one that was never stopped (on CPU; on CUDA as far as PyTorch's kernels repeat
themselves).
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from revisage.errors import CheckpointError, OutputError, RecipeError
from revisage.training.checkpoint import (
    foreign_state,
    origin,
    read_state,
    replaced,
    save_state,
    save_weights,
)
from revisage.training.distributed import (
    World,
    average_buffers,
    broadcast,
    everyone,
    joined,
    sum_gradients,
    wait,
)
from revisage.training.journal import Journal
from revisage.training.optimisers import learning_rate, make_optimiser
from revisage.training.prefetch import Prefetched
from revisage.training.recipe import Optimiser, Run, optimiser

__all__ = ["Batch", "Task", "Turn", "fit"]

Batch = Mapping[str, torch.Tensor]

PATIENCE = 100  # optimiser steps in a row that may be skipped before the run gives up


@dataclasses.dataclass(frozen=True)
class Turn:
    """One player's optimiser step."""

    name: str  # "generator", "critic": names the recipe table [optimiser.<name>]
    networks: tuple[str, ...]  # whose parameters it updates; all others are frozen meanwhile
    # Scalar, and parts to log (as "<turn>/<part>"). Runs under autocast where precision is bf16.
    loss: Callable[[Batch], tuple[torch.Tensor, dict[str, float]]]
    every: int = 1  # taken at steps (from 0) divisible by it: lazy regularisation
    # Optimiser steps per step, each with a batch of its own: n_critic of WGAN-GP. The n-th batch of
    # a step is the same for all turns, as in most published loops.
    repeats: int = 1
    optimiser: str = ""  # optimiser to share ("critic" for a lazy R1 turn); "" = own name

    def __post_init__(self) -> None:
        if self.every < 1 or self.repeats < 1:
            raise ValueError(f"turn {self.name!r}: every and repeats must be at least 1")


class Task(Protocol):
    """What the loop needs to know about a task.

    The loop moves `networks`, and every other module that is an attribute of the task (a frozen
    perceptual network), to its device. State that must outlive a kill belongs into persistent
    buffers of `networks`; `distributed.average_buffers` says what several processes do with them.
    """

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        """All that has trained weights or state."""

    @property
    def product(self) -> str:
        """The network that ships, saved as weights.safetensors; others as <name>.safetensors."""

    @property
    def averaged(self) -> tuple[str, ...]:
        """Networks of which a moving average is kept; it is what is validated and saved."""

    @property
    def turns(self) -> Sequence[Turn]:
        """The players' turns, in this order at every step."""

    @property
    def watch(self) -> str:
        """The logged part that falls when the task learns, such as "generator/l1"."""

    @property
    def notes(self) -> Mapping[str, str]:
        """Facts to record with the run, such as which perceptual network was used."""

    def sample(self, rng: np.random.Generator, size: int) -> Batch:
        """One batch of `size` samples: a function of `rng` alone. Runs in a background thread."""

    def validate(self, networks: Mapping[str, nn.Module], out: Path, step: int) -> dict[str, float]:
        """Figures of the (averaged) networks on held-out data; may write files into `out`."""

    def pictures(self, networks: Mapping[str, nn.Module]) -> Mapping[str, npt.NDArray[np.uint8]]:
        """Contact sheets [H, W, 3] RGB by name; may be empty."""


def fit(
    task: Task,
    run: Run,
    out: Path,
    *,
    optimisers: Mapping[str, Mapping[str, Any]] | None = None,
    device: str = "cpu",
    progress: Callable[[Mapping[str, float]], None] | None = None,
    beside: Mapping[str, str] | None = None,
) -> dict[str, float]:
    """Train `task`; run again with the same `out` to resume.

    Leaves in `out`: weights.safetensors (the product) and <name>.safetensors of the other trained
    networks, averaged where the task says so; log.jsonl, run.json, pictures, and state.pt to
    resume from.

    Args:
        optimisers: tables [optimiser.NAME] of the recipe, by the optimiser's name.
        device: torch device; with several processes (torchrun) "cuda" is each one's own GPU.
        progress: called with each line of means that is logged.
        beside: texts to write into `out` by file name, such as the recipe. Like everything else,
            they are written once the state is read and a first sample drawn: a run that cannot go
            on leaves a folder as it was.

    Returns:
        The last validation figures.

    Raises:
        RecipeError: an optimiser that the task does not have, or steps that cannot be taken.
        CheckpointError: state.pt is damaged or belongs to another run.
        OutputError: a file of the run cannot be written; the ones before it are whole.
        DeviceError: no such device here.
        MissingExtraError: TensorBoard is asked for and not installed.
    """
    if run.threads:
        torch.set_num_threads(run.threads)
    with joined(device) as world:
        training = _Training(task, run, out, optimisers or {}, world)
        try:
            return training.go(progress or (lambda line: None), beside or {})
        finally:
            training.release()


@dataclasses.dataclass
class _Player:
    """An optimiser and what it optimises."""

    settings: Optimiser
    parameters: list[nn.Parameter]
    optimiser: torch.optim.Optimizer
    skipped: int = 0  # steps whose gradients were not finite
    skipped_in_a_row: int = 0


class _Means:
    """Sums and counts of what is logged."""

    def __init__(self) -> None:
        self.totals: dict[str, tuple[float, int]] = {}

    def add(self, name: str, value: float) -> None:
        # One bad batch must not hide what the others say; the loop counts the steps it skips.
        if math.isfinite(value):
            total, count = self.totals.get(name, (0.0, 0))
            self.totals[name] = (total + value, count + 1)

    def gather(self, world: World) -> None:
        """Move what the other processes counted to the first."""
        if world.size == 1:
            return
        gathered = everyone(world, self.totals)
        self.totals = {}
        for totals in gathered if world.rank == 0 else ():
            for name, (total, count) in totals.items():
                before, counted = self.totals.get(name, (0.0, 0))
                self.totals[name] = (before + total, counted + count)

    def take(self) -> dict[str, float]:
        means = {name: total / count for name, (total, count) in self.totals.items()}
        self.totals = {}
        return means


class _Training:
    """The state of a run: all of it is in `state`, or a function of the recipe and the step."""

    def __init__(
        self,
        task: Task,
        run: Run,
        out: Path,
        tables: Mapping[str, Mapping[str, Any]],
        world: World,
    ) -> None:
        self.task, self.run, self.out, self.world = task, run, out, world
        self.networks, self.turns = dict(task.networks), tuple(task.turns)
        _check(task)
        for module in (*self.networks.values(), *_helpers(task)):
            module.to(world.device)
        for network in self.networks.values():
            network.train()
        broadcast(world, self.networks.values())
        self.trainable = [
            p for network in self.networks.values() for p in network.parameters() if p.requires_grad
        ]
        self.parameters = {turn.name: self._parameters([turn]) for turn in self.turns}
        self.players = self._players(tables)
        self.averages = {
            name: copy.deepcopy(self.networks[name]).eval().requires_grad_(False)
            for name in task.averaged
        }
        self.means = _Means()
        self.step = 0  # steps done
        self.draws = 0  # batches drawn, by every process alike

    def _parameters(self, turns: Sequence[Turn]) -> list[nn.Parameter]:
        """What these turns update, each parameter once, in a fixed order."""
        trainable = {id(parameter) for parameter in self.trainable}
        found: dict[int, nn.Parameter] = {}
        for turn in turns:
            for name in turn.networks:
                for parameter in self.networks[name].parameters():
                    if id(parameter) in trainable:
                        found[id(parameter)] = parameter
        return list(found.values())

    def _players(self, tables: Mapping[str, Mapping[str, Any]]) -> dict[str, _Player]:
        shared: dict[str, list[Turn]] = {}
        for turn in self.turns:
            shared.setdefault(turn.optimiser or turn.name, []).append(turn)
        unknown = sorted(set(tables) - set(shared))
        if unknown:
            raise RecipeError(
                f"[optimiser] {', '.join(unknown)}: no such optimiser; "
                f"the turns of this task have: {', '.join(shared)}"
            )
        players = {}
        for name, turns in shared.items():
            settings = optimiser(self.run, name, tables.get(name, {}))
            parameters = self._parameters(turns)
            if not parameters:
                raise RecipeError(f"optimiser {name!r} has no parameters to train")
            players[name] = _Player(settings, parameters, make_optimiser(settings, parameters))
        return players

    # -- one step ---------------------------------------------------------------------------------

    def _batches(self) -> Iterator[Batch]:
        """The micro-batches of this process, from the next draw on.

        Micro-batch i of rank r has the number i * world + r, and each number its own generator: two
        processes with one micro-batch each see what one process with two sees.
        """
        run, world = self.run, self.world
        draw = 0 if run.same_batch else self.draws
        while True:
            drawn = []
            for micro in range(run.accumulate):
                rng = np.random.default_rng([run.seed, draw, micro * world.size + world.rank])
                batch = self.task.sample(rng, run.batch)
                if world.device.type == "cuda":
                    batch = {name: tensor.pin_memory() for name, tensor in batch.items()}
                drawn.append(batch)
                yield batch
            while run.same_batch:
                yield from drawn
            draw += 1

    def _take_step(self, batches: Iterator[Batch]) -> None:
        run = self.run
        for player in self.players.values():
            rate = learning_rate(player.settings, self.step, run.steps)
            for group in player.optimiser.param_groups:
                group["lr"] = rate
        drawn: list[list[Batch]] = []
        for number, turn in enumerate(self.turns):
            if self.step % turn.every:
                continue
            for repeat in range(turn.repeats):
                if repeat == len(drawn):
                    drawn.append([next(batches) for _ in range(run.accumulate)])
                    self.draws += 1
                self._take_turn(turn, [number, repeat], drawn[repeat])
        average_buffers(self.world, self.networks.values())
        self._average()
        self.step += 1

    def _take_turn(self, turn: Turn, place: list[int], batches: Sequence[Batch]) -> None:
        """One optimiser step of one player on the micro-batches of this process."""
        run, world = self.run, self.world
        player = self.players[turn.optimiser or turn.name]
        parameters = self.parameters[turn.name]
        for parameter in self.trainable:
            parameter.requires_grad_(False)
        for parameter in parameters:
            parameter.requires_grad_(True)
        player.optimiser.zero_grad(set_to_none=True)
        buffers = [
            (buffer, buffer.clone())
            for network in self.networks.values()
            for buffer in network.buffers()
            if buffer.is_floating_point()
        ]
        for micro, batch in enumerate(batches):
            step = 0 if run.same_batch else self.step
            number = micro * world.size + world.rank
            torch.manual_seed(_seed([run.seed, step, *place, number]))
            moved = {k: v.to(world.device, non_blocking=True) for k, v in batch.items()}
            with torch.autocast(
                world.device.type, dtype=torch.bfloat16, enabled=run.precision == "bf16"
            ):
                loss, parts = turn.loss(moved)
            if not loss.requires_grad:
                raise ValueError(
                    f"turn {turn.name!r}: its loss does not depend on {', '.join(turn.networks)}"
                )
            (loss / (len(batches) * world.size)).backward()  # type: ignore[no-untyped-call]
            for name, value in {"loss": loss.item(), **parts}.items():
                self.means.add(f"{turn.name}/{name}", value)
        sum_gradients(world, parameters)
        limit = player.settings.clip_norm or math.inf
        norm = torch.nn.utils.clip_grad_norm_(parameters, limit).item()
        self.means.add(f"{turn.name}/norm", norm)
        if math.isfinite(norm):
            player.optimiser.step()
            player.skipped_in_a_row = 0
            return
        # A bad batch must not poison the weights, nor the statistics of batch norms.
        for buffer, before in buffers:
            buffer.copy_(before)
        player.skipped += 1
        player.skipped_in_a_row += 1
        if player.skipped_in_a_row >= PATIENCE:
            raise RecipeError(
                f"step {self.step}: {PATIENCE} gradients of turn {turn.name!r} in a row were not "
                'finite; lower its learning rate, or train with precision = "fp32"'
            )

    @torch.no_grad()
    def _average(self) -> None:
        decay = min(self.run.ema_decay, (1 + self.step) / (10 + self.step))
        for name, average in self.averages.items():
            network = self.networks[name]
            for kept, new in zip(average.parameters(), network.parameters(), strict=True):
                kept.lerp_(new, 1 - decay)
            for buffer, latest in zip(average.buffers(), network.buffers(), strict=True):
                buffer.copy_(latest)

    # -- the run ----------------------------------------------------------------------------------

    def go(
        self, progress: Callable[[Mapping[str, float]], None], beside: Mapping[str, str]
    ) -> dict[str, float]:
        """Train from the last checkpoint to the last step; returns the last validation figures."""
        run, world = self.run, self.world
        self._resume()
        if self.step < run.steps:  # data that is not there shows before anything is written
            self.task.sample(np.random.default_rng(run.seed), 1)
        journal = None
        if world.writes:
            _make_folder(self.out)
            journal = Journal(self.out, self.step, tensorboard=run.tensorboard)
            self._record(beside)
        wait(world)
        try:
            with Prefetched(self._batches(), run.prefetch) as batches:
                clock, timed = time.monotonic(), self.step
                while self.step < run.steps:
                    self._take_step(batches)
                    if self._due(run.log_every):
                        self.means.gather(world)
                        samples = (self.step - timed) * run.batch * run.accumulate * world.size
                        speed = samples / (time.monotonic() - clock)
                        if journal is not None:
                            line = self._line(speed)
                            journal.means(self.step, line)
                            progress({"step": self.step, **line})
                        clock, timed = time.monotonic(), self.step
                    paused = time.monotonic()
                    self._show(journal)
                    if self._due(run.save_every):
                        self._save()
                    clock += time.monotonic() - paused
            figures: dict[str, float] = journal.last_figures if journal is not None else {}
        finally:
            if journal is not None:
                journal.close()
        return dict(everyone(world, figures)[0])

    def _due(self, every: int) -> bool:
        return every > 0 and (self.step % every == 0 or self.step == self.run.steps)

    def _line(self, speed: float) -> dict[str, float]:
        line = self.means.take()
        for name, player in self.players.items():
            rate = learning_rate(player.settings, self.step - 1, self.run.steps)
            line[f"{name}/rate"] = rate
            if player.skipped:
                line[f"{name}/skipped"] = player.skipped
        return {**line, "samples_s": speed}

    def _show(self, journal: Journal | None) -> None:
        """Pictures and validation where they are due, by the first process."""
        run = self.run
        show, validate = self._due(run.pictures_every), self._due(run.validate_every)
        if journal is not None and (show or validate):
            torch.manual_seed(_seed([run.seed, self.step]))
            with self._evaluated() as networks:
                if show:
                    journal.pictures(self.step, self.task.pictures(networks))
                if validate:
                    figures = self.task.validate(networks, self.out, self.step)
                    journal.validation(self.step, figures)
        if show or validate:
            wait(self.world)

    @contextlib.contextmanager
    def _evaluated(self) -> Iterator[Mapping[str, nn.Module]]:
        """The networks as they would ship: averaged, in eval mode, without gradients."""
        modes = [(m, m.training) for network in self.networks.values() for m in network.modules()]
        networks = {**self.networks, **self.averages}
        try:
            for network in networks.values():
                network.eval()
            with torch.no_grad():
                yield networks
        finally:
            for module, mode in modes:
                module.training = mode

    def release(self) -> None:
        """Leave the networks able to learn, as they came."""
        for parameter in self.trainable:
            parameter.requires_grad_(True)

    # -- files ------------------------------------------------------------------------------------

    def _record(self, beside: Mapping[str, str]) -> None:
        for name, text in beside.items():
            with replaced(self.out / name) as file:
                file.write(text.encode())
        record = {
            "run": dataclasses.asdict(self.run),
            "optimisers": {n: dataclasses.asdict(p.settings) for n, p in self.players.items()},
            "processes": self.world.size,
            "notes": dict(self.task.notes),
            **origin(),
        }
        with replaced(self.out / "run.json") as file:
            file.write((json.dumps(record, indent=2) + "\n").encode())

    def _save(self) -> None:
        self.means.gather(self.world)
        if self.world.writes:
            trained = {p for turn in self.turns for p in turn.networks}
            for name, network in self.networks.items():
                if name in trained or name == self.task.product:
                    file = "weights" if name == self.task.product else name
                    save_weights(self.averages.get(name, network), self.out / f"{file}.safetensors")
            # Last: where the state is that of the last step, everything else is there too.
            save_state(
                {
                    "step": self.step,
                    "draws": self.draws,
                    "networks": {n: m.state_dict() for n, m in self.networks.items()},
                    "averages": {n: m.state_dict() for n, m in self.averages.items()},
                    "players": {
                        name: {
                            "kind": player.settings.kind,
                            "optimiser": player.optimiser.state_dict(),
                            "skipped": player.skipped,
                            "skipped_in_a_row": player.skipped_in_a_row,
                        }
                        for name, player in self.players.items()
                    },
                    "means": self.means.totals,
                },
                self.out / "state.pt",
            )
        wait(self.world)

    def _resume(self) -> None:
        path = self.out / "state.pt"
        if path.exists():
            self._load(read_state(path, self.world.device), path)
        steps = everyone(self.world, self.step)
        if len(set(steps)) > 1:
            raise RecipeError(f"{path}: must be on a disk that every process sees; found {steps}")

    def _load(self, state: Mapping[str, Any], path: Path) -> None:
        for part, have in (
            ("networks", self.networks),
            ("averages", self.averages),
            ("players", self.players),
        ):
            kept = state.get(part)
            if not isinstance(kept, dict) or set(kept) != set(have):
                raise foreign_state(path, f"its {part} are {', '.join(map(str, kept or ()))}")
        try:
            for name, network in self.networks.items():
                network.load_state_dict(state["networks"][name])
            for name, average in self.averages.items():
                average.load_state_dict(state["averages"][name])
            for name, player in self.players.items():
                kept = state["players"][name]
                if kept["kind"] != player.settings.kind:
                    raise foreign_state(path, f"optimiser {name} was {kept['kind']}")
                player.optimiser.load_state_dict(kept["optimiser"])
                player.skipped = int(kept["skipped"])
                player.skipped_in_a_row = int(kept["skipped_in_a_row"])
            if self.world.writes:
                self.means.totals = dict(state["means"])
            self.step, self.draws = int(state["step"]), int(state["draws"])
        except CheckpointError:
            raise
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise foreign_state(path, error) from error


def _seed(entropy: Sequence[int]) -> int:
    """A seed for torch from a list of numbers, well mixed."""
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0])


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written ({error.strerror})") from error


def _check(task: Task) -> None:
    """Raise ValueError where a task names networks that it does not have."""
    names = [turn.name for turn in task.turns]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"a task needs turns, each with a name of its own; got {names}")
    used = {name for turn in task.turns for name in turn.networks}
    missing = sorted(({task.product, *task.averaged} | used) - set(task.networks))
    if missing:
        raise ValueError(f"{', '.join(missing)}: not among the networks {list(task.networks)}")


def _helpers(task: Task) -> list[nn.Module]:
    """Modules that are attributes of a task."""
    return [value for value in vars(task).values() if isinstance(value, nn.Module)]
