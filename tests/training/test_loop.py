"""The training loop around a toy GAN: what it promises, to the bit where it promises bits."""

from __future__ import annotations

import dataclasses
import errno
import json
import math
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from revisage.errors import (
    CheckpointError,
    DeviceError,
    MissingExtraError,
    OutputError,
    RecipeError,
)
from revisage.training.journal import read_log
from revisage.training.loop import Batch, Turn, fit
from revisage.training.optimisers import learning_rate, make_optimiser
from revisage.training.prefetch import Prefetched
from revisage.training.recipe import Optimiser
from tests.support import ROOT
from tests.training.toy_gan import StoppedError, ToyGan, toy_run

CRITIC = {"critic": {"kind": "adam", "learning_rate": 3e-3, "betas": [0.0, 0.99]}}


def outcome(out: Path) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]]]:
    """All weights, averages and optimiser states of a run, flat, and its log without the clock."""
    flat: dict[str, torch.Tensor] = {}

    def add(name: str, value: object) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                add(f"{name}/{key}", inner)
        elif isinstance(value, (list, tuple)):
            for index, inner in enumerate(value):
                add(f"{name}/{index}", inner)
        elif isinstance(value, torch.Tensor):
            flat[name] = value
        elif isinstance(value, (int, float)):
            flat[name] = torch.tensor(value, dtype=torch.float64)

    add("state", torch.load(out / "state.pt", weights_only=True))
    for path in sorted(out.glob("*.safetensors")):
        add(path.stem, load_file(path))
    log = [{k: v for k, v in line.items() if k != "samples_s"} for line in _log(out)]
    return flat, log


def _log(out: Path) -> list[dict[str, Any]]:
    return read_log(out / "log.jsonl")


def assert_same_outcome(one: Path, other: Path) -> None:
    (weights, log), (weights_too, log_too) = outcome(one), outcome(other)
    assert log == log_too
    assert weights.keys() == weights_too.keys()
    assert [key for key in weights if not torch.equal(weights[key], weights_too[key])] == []


# -- resuming -------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", [2, 4, 7, 11])
@pytest.mark.parametrize(
    "changes",
    [{}, {"accumulate": 2, "precision": "bf16", "prefetch": 0}],
    ids=["plain", "accumulate, bf16, no thread"],
)
def test_a_killed_run_goes_on_to_the_bit(
    tmp_path: Path, stop: int, changes: dict[str, object]
) -> None:
    run = toy_run(**changes)
    whole = fit(ToyGan(), run, tmp_path / "whole", optimisers=CRITIC)
    calls = stop * run.accumulate
    with pytest.raises(StoppedError):
        fit(ToyGan(stop=calls), run, tmp_path / "parts", optimisers=CRITIC)
    assert fit(ToyGan(), run, tmp_path / "parts", optimisers=CRITIC) == whole
    assert_same_outcome(tmp_path / "whole", tmp_path / "parts")


def test_a_process_that_was_killed_goes_on_to_the_bit(tmp_path: Path) -> None:
    fit(ToyGan(), toy_run(), tmp_path / "whole")
    program = _program(tmp_path / "parts", "--stop", "6", "--kill", "--batch-norm")
    done = subprocess.run(program, env=_environment(), check=False, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert (tmp_path / "parts" / "state.pt").exists()
    with (tmp_path / "parts" / "log.jsonl").open("a") as log:
        log.write('{"step": 5, "generator/l1": 0.')  # a line that was being written
    fit(ToyGan(), toy_run(), tmp_path / "parts")
    assert_same_outcome(tmp_path / "whole", tmp_path / "parts")


def test_a_finished_run_is_left_alone(tmp_path: Path) -> None:
    figures = fit(ToyGan(), toy_run(), tmp_path)
    before = (tmp_path / "weights.safetensors").read_bytes()
    task = ToyGan()
    assert fit(task, toy_run(), tmp_path) == figures
    assert task.calls == []
    assert (tmp_path / "weights.safetensors").read_bytes() == before


def _damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "bit":  # of a weight, which torch would read as another number
        with zipfile.ZipFile(path) as archive:
            place = content.index(archive.read("archive/data/0"))
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    elif how == "text":
        path.write_text("weights")
    elif how == "pickle":
        path.write_bytes(pickle.dumps({"format": Path("/"), "step": 1}))
    elif how == "other file":
        torch.save({"weights": torch.zeros(3)}, path)
    elif how == "no means":
        state = torch.load(path, weights_only=True)
        del state["means"]
        torch.save(state, path)


@pytest.mark.parametrize("how", ["cut", "empty", "bit", "text", "pickle", "other file", "no means"])
def test_a_damaged_state_is_one_clear_error(tmp_path: Path, how: str) -> None:
    fit(ToyGan(), toy_run(steps=2), tmp_path)
    _damage(tmp_path / "state.pt", how)
    with pytest.raises(CheckpointError, match=r"state\.pt: .*move it away") as caught:
        fit(ToyGan(), toy_run(), tmp_path)
    assert "\n" not in str(caught.value)


def test_a_full_disk_is_one_clear_error_and_nothing_is_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fit(ToyGan(), toy_run(), tmp_path / "whole")
    out = tmp_path / "parts"
    with pytest.raises(StoppedError):
        fit(ToyGan(stop=6), toy_run(), out)

    def full(state: object, file: Any) -> None:
        file.write(b"half of it")
        raise RuntimeError("unexpected pos 640 vs 534")  # what torch.save makes of it

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(OutputError, match=r"state\.pt: cannot be written; is the disk full"):
            fit(ToyGan(), toy_run(), out)
    assert not list(out.glob("*.partial"))
    assert torch.load(out / "state.pt", weights_only=True)["step"] == 4

    def refused(file: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refused)
        with pytest.raises(OutputError, match=r"cannot be written \(No space left on device\)"):
            fit(ToyGan(), toy_run(), out)
    assert not list(out.glob("*.partial"))
    assert fit(ToyGan(), toy_run(), out) == whole
    assert_same_outcome(tmp_path / "whole", out)


def test_the_state_of_another_run_is_refused(tmp_path: Path) -> None:
    fit(ToyGan(), toy_run(steps=2), tmp_path)
    other = ToyGan()
    other.networks = {**other.networks, "third": nn.Linear(1, 1)}
    with pytest.raises(CheckpointError, match="networks are drawer, critic"):
        fit(other, toy_run(), tmp_path)
    with pytest.raises(CheckpointError, match="belongs to another run"):
        fit(ToyGan(batch_norm=False), toy_run(), tmp_path)
    with pytest.raises(CheckpointError, match="optimiser critic was adamw"):
        fit(ToyGan(), toy_run(), tmp_path, optimisers=CRITIC)


# -- turns ----------------------------------------------------------------------------------------


def test_repeats_draw_fresh_batches_and_lazy_turns_wait(tmp_path: Path) -> None:
    task = ToyGan(repeats=2, every=2)
    fit(task, toy_run(steps=4), tmp_path)
    names = [name for name, _ in task.calls]
    lazy, plain = ["critic", "critic", "smooth", "generator"], ["critic", "critic", "generator"]
    assert names == lazy + plain + lazy + plain
    marks = [mark for name, mark in task.calls if name == "critic"]
    assert len(set(marks)) == 8  # no batch twice
    # The n-th batch of a step is the same for all turns.
    assert [mark for name, mark in task.calls if name == "generator"] == marks[::2]


class Straight:
    """One weight; the loss is its product with the mean of the batch: gradients are known."""

    product, averaged, watch = "weight", ("weight",), "turn/loss"

    def __init__(self) -> None:
        self.networks = {"weight": nn.Linear(1, 1, bias=False), "other": nn.Linear(1, 1)}
        nn.init.zeros_(self.networks["weight"].weight)
        self.turns: tuple[Turn, ...] = (Turn("turn", ("weight",), self.loss),)
        self.notes: dict[str, str] = {}
        self.trace: list[float] = []  # the weight before each loss

    def sample(self, rng: np.random.Generator, size: int) -> Batch:
        return {"x": torch.from_numpy(rng.random((size, 1), dtype=np.float32))}

    def loss(self, batch: Batch) -> tuple[torch.Tensor, dict[str, float]]:
        self.trace.append(self.networks["weight"].weight.item())
        return self.networks["weight"](batch["x"]).mean(), {}

    def validate(self, networks: object, out: Path, step: int) -> dict[str, float]:
        return {}

    def pictures(self, networks: object) -> dict[str, Any]:
        return {}


def _drawn(draw: int, number: int, size: int = 4, seed: int = 0) -> float:
    rng = np.random.default_rng([seed, draw, number])
    return float(rng.random((size, 1), dtype=np.float32).mean())


PLAIN = {"kind": "sgd", "schedule": "constant", "warmup_steps": 0, "clip_norm": 0.0}


def test_accumulated_gradients_are_those_of_the_larger_batch(tmp_path: Path) -> None:
    task = Straight()
    fit(task, toy_run(steps=2, accumulate=3, learning_rate=1.0, **PLAIN), tmp_path)
    gradients = [np.mean([_drawn(draw, micro) for micro in range(3)]) for draw in range(2)]
    weight = task.networks["weight"].weight.item()
    assert weight == pytest.approx(-sum(gradients), rel=1e-6)


def test_each_optimiser_has_a_rate_and_a_kind_of_its_own(tmp_path: Path) -> None:
    task = ToyGan()
    lines: list[Any] = []
    tables = {"critic": {**PLAIN, "learning_rate": 4e-4}, "generator": {"schedule": "linear"}}
    run = toy_run(log_every=1, learning_rate=1e-4, warmup_steps=0)
    fit(task, run, tmp_path, optimisers=tables, progress=lines.append)
    assert [line["critic/rate"] for line in lines] == [4e-4] * 12
    assert [line["generator/rate"] for line in lines] == pytest.approx(
        [1e-4 * (1 - step / 12) for step in range(12)]
    )
    state = torch.load(tmp_path / "state.pt", weights_only=True)["players"]
    assert {name: player["kind"] for name, player in state.items()} == {
        "critic": "sgd",
        "generator": "adamw",
    }
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["optimisers"]["critic"]["learning_rate"] == 4e-4


def test_a_name_that_is_no_turn_lists_the_turns(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"discriminator: no such .* critic, generator"):
        fit(ToyGan(), toy_run(), tmp_path, optimisers={"discriminator": {}})
    with pytest.raises(RecipeError, match=r"\[optimiser.critic\]: unknown rate"):
        fit(ToyGan(), toy_run(), tmp_path, optimisers={"critic": {"rate": 1.0}})


def test_only_the_networks_of_the_turn_learn(tmp_path: Path) -> None:
    task = ToyGan()
    frozen = task.networks["drawer"].body[0].weight  # type: ignore[index, union-attr]
    frozen.requires_grad_(False)  # frozen by the task: stays so
    kept = frozen.clone()
    seen: dict[str, set[tuple[bool, bool]]] = {}

    def watched(turn: Turn) -> Turn:
        def loss(batch: Batch) -> tuple[torch.Tensor, dict[str, float]]:
            flags = tuple(
                any(p.requires_grad for p in network.parameters())
                for network in task.networks.values()
            )
            seen.setdefault(turn.name, set()).add(flags)  # type: ignore[arg-type]
            return turn.loss(batch)

        return dataclasses.replace(turn, loss=loss)

    task.turns = tuple(watched(turn) for turn in task.turns)  # type: ignore[assignment]
    fit(task, toy_run(), tmp_path)
    assert seen == {
        "critic": {(False, True)},
        "smooth": {(False, True)},
        "generator": {(True, False)},
    }
    assert torch.equal(frozen, kept)
    learners = [p.requires_grad for n in task.networks.values() for p in n.parameters()]
    assert learners.count(False) == 1  # all others can learn again


def test_the_average_follows_its_formula_and_copies_buffers(tmp_path: Path) -> None:
    task = Straight()
    task.networks["weight"].register_buffer("count", torch.zeros(()))
    run = toy_run(steps=30, ema_decay=0.6, learning_rate=0.1, **PLAIN)

    def counting(batch: Batch) -> tuple[torch.Tensor, dict[str, float]]:
        task.networks["weight"].count += 1  # type: ignore[operator]
        return task.loss(batch)

    task.turns = (Turn("turn", ("weight",), counting),)
    fit(task, run, tmp_path)
    average = 0.0
    for step, weight in enumerate([*task.trace[1:], task.networks["weight"].weight.item()]):
        decay = min(0.6, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * weight
    saved = load_file(tmp_path / "weights.safetensors")
    assert float(saved["weight"]) == pytest.approx(average, rel=1e-5)
    assert float(saved["count"]) == 30


def test_what_ships_is_saved_under_its_name(tmp_path: Path) -> None:
    task = ToyGan()
    task.networks["memory"] = nn.BatchNorm1d(2, affine=False)  # state, but never trained
    fit(task, toy_run(), tmp_path)
    assert {path.name for path in tmp_path.glob("*.safetensors")} == {
        "weights.safetensors",
        "critic.safetensors",
    }
    critic = load_file(tmp_path / "critic.safetensors")
    assert torch.equal(critic["0.weight"], task.networks["critic"][0].weight)  # type: ignore[index]
    drawer = load_file(tmp_path / "weights.safetensors")
    last = task.networks["drawer"].body[0].weight  # type: ignore[index, union-attr]
    assert not torch.equal(drawer["body.0.weight"], last)  # the average, not the last
    assert task.networks["drawer"].training


def test_a_loss_that_teaches_nobody_is_an_error(tmp_path: Path) -> None:
    task = Straight()
    task.turns = (Turn("turn", ("other",), task.loss),)
    with pytest.raises(ValueError, match="does not depend on other"):
        fit(task, toy_run(), tmp_path)
    task.turns = (Turn("turn", ("nobody",), task.loss),)
    with pytest.raises(ValueError, match="nobody: not among the networks"):
        fit(task, toy_run(), tmp_path)
    with pytest.raises(ValueError, match="at least 1"):
        Turn("turn", ("weight",), task.loss, every=0)
    task.turns = (Turn("turn", ("weight",), task.loss),) * 2
    with pytest.raises(ValueError, match="a name of its own"):
        fit(task, toy_run(), tmp_path)


def test_bad_gradients_are_skipped_and_counted(tmp_path: Path) -> None:
    task = Straight()

    def sometimes(batch: Batch) -> tuple[torch.Tensor, dict[str, float]]:
        loss, parts = task.loss(batch)
        return (loss * math.nan, parts) if len(task.trace) in {2, 3} else (loss, parts)

    task.turns = (Turn("turn", ("weight",), sometimes),)
    fit(task, toy_run(steps=6, learning_rate=1.0, log_every=6, **PLAIN), tmp_path)
    (line,) = [line for line in _log(tmp_path) if "validation" not in line]
    assert line["turn/skipped"] == 2
    assert math.isfinite(line["turn/loss"])
    kept = [_drawn(draw, 0) for draw in (0, 3, 4, 5)]
    assert task.networks["weight"].weight.item() == pytest.approx(-sum(kept), rel=1e-6)

    # The statistics of a batch norm that saw the bad batch are those from before it.
    task.networks["norm"] = nn.BatchNorm1d(1)

    def spoilt(batch: Batch) -> tuple[torch.Tensor, dict[str, float]]:
        task.networks["norm"](batch["x"])
        before = task.networks["norm"].running_mean.clone()
        kept_means.append(before)
        if len(kept_means) == 2:
            task.networks["norm"](batch["x"] * math.nan)
        return task.loss(batch)[0] * (math.nan if len(kept_means) == 2 else 1), {}

    kept_means: list[torch.Tensor] = []
    task.turns = (Turn("turn", ("weight",), spoilt),)
    fit(task, toy_run(steps=3, **PLAIN), tmp_path / "spoilt")
    assert bool(torch.isfinite(kept_means[-1]).all())

    task.turns = (Turn("turn", ("weight",), lambda batch: (task.loss(batch)[0] * math.nan, {})),)
    with pytest.raises(RecipeError, match="lower its learning rate"):
        fit(task, toy_run(steps=1000), tmp_path / "hopeless")


def test_gradients_are_clipped_and_the_norm_is_logged_before(tmp_path: Path) -> None:
    task = Straight()
    lines: list[Any] = []
    run = toy_run(steps=1, learning_rate=1.0, **{**PLAIN, "clip_norm": 0.125})
    fit(task, run, tmp_path, progress=lines.append)
    assert lines[0]["turn/norm"] == pytest.approx(_drawn(0, 0), rel=1e-6)
    assert task.networks["weight"].weight.item() == pytest.approx(-0.125, rel=1e-4)


def test_the_same_batch_is_seen_again_and_again(tmp_path: Path) -> None:
    task = ToyGan(repeats=2)
    fit(task, toy_run(steps=40, same_batch=True, log_every=1), tmp_path)
    assert len({mark for _, mark in task.calls}) == 1
    watched = [line[task.watch] for line in _log(tmp_path) if task.watch in line]
    assert watched[-1] < 0.7 * watched[0]


# -- schedules and kinds --------------------------------------------------------------------------


def test_schedules() -> None:
    def rates(steps: int = 10, **settings: Any) -> list[float]:
        chosen = Optimiser(learning_rate=1.0, **{"warmup_steps": 0, **settings})
        return [learning_rate(chosen, step, steps) for step in range(steps + 1)]

    assert rates(schedule="constant", warmup_steps=4)[:6] == [0.25, 0.5, 0.75, 1, 1, 1]
    linear = rates(schedule="linear", decay_from=5, final_learning_rate=0.5)
    assert linear == pytest.approx([1] * 6 + [0.9, 0.8, 0.7, 0.6, 0.5])
    falls = rates(schedule="step", milestones=(3, 7), gamma=0.5)
    assert falls == pytest.approx([1] * 3 + [0.5] * 4 + [0.25] * 4)
    cosine = rates(final_learning_rate=0.2)
    assert cosine[0] == 1
    assert cosine[5] == pytest.approx(0.6)
    assert cosine[10] == pytest.approx(0.2)
    assert cosine == sorted(cosine, reverse=True)
    with pytest.raises(RecipeError, match="schedule: no 'stairs'; known: cosine"):
        Optimiser(learning_rate=1.0, schedule="stairs")


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("adamw", torch.optim.AdamW), ("adam", torch.optim.Adam), ("sgd", torch.optim.SGD),
     ("rmsprop", torch.optim.RMSprop)],
)  # fmt: skip
def test_kinds(kind: str, expected: type[torch.optim.Optimizer]) -> None:
    settings = Optimiser(
        learning_rate=0.3, kind=kind, betas=(0.1, 0.2), momentum=0.4, smoothing=0.6,
        epsilon=0.7, weight_decay=0.8,
    )  # fmt: skip
    made = make_optimiser(settings, [nn.Parameter(torch.zeros(1))])
    assert type(made) is expected
    group = made.param_groups[0]
    wanted = {"lr": 0.3, "betas": (0.1, 0.2), "momentum": 0.4, "alpha": 0.6, "eps": 0.7}
    wanted["weight_decay"] = 0.8
    assert {k: v for k, v in group.items() if k in wanted} == {
        k: v for k, v in wanted.items() if k in group
    }


# -- several processes ----------------------------------------------------------------------------


def _program(out: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "tests.training.toy_gan", str(out), *arguments]


def _environment(**more: str) -> dict[str, str]:
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "OMP_NUM_THREADS": "1",
        **more,
    }


def _pair(out: Path, *arguments: str) -> list[int]:
    """Run the program in two processes that train together; their exit codes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    processes = [
        subprocess.Popen(
            _program(out, *arguments),
            env=_environment(**shared, RANK=rank, LOCAL_RANK=rank),
            stderr=subprocess.DEVNULL,
        )
        for rank in ("0", "1")
    ]
    try:
        return [process.wait(timeout=300) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def test_two_processes_see_what_one_sees_that_accumulates(tmp_path: Path) -> None:
    two, one = tmp_path / "two", tmp_path / "one"
    assert 0 not in _pair(two, "--stop", "6", "--kill")  # and on the way they are killed
    assert torch.load(two / "state.pt", weights_only=True)["step"] == 4
    assert _pair(two) == [0, 0]
    fit(ToyGan(batch_norm=False), toy_run(accumulate=2), one)

    ranks = [json.loads((two / f"rank{rank}.json").read_text()) for rank in range(2)]
    assert ranks[0]["state"] == ranks[1]["state"]  # buffers too
    assert ranks[0]["calls"] != ranks[1]["calls"]  # each saw batches of its own
    for name in ("weights", "critic"):
        together, alone = (load_file(out / f"{name}.safetensors") for out in (two, one))
        for key in set(alone) - {"level"}:  # a mean over processes is no sequence of updates
            torch.testing.assert_close(together[key], alone[key], rtol=1e-5, atol=1e-6)
    for line, other in zip(_log(two), _log(one), strict=True):
        assert line.keys() == other.keys()
        for key in set(line) - {"samples_s", "validation"}:
            assert line[key] == pytest.approx(other[key], rel=1e-4), key
    assert json.loads((two / "run.json").read_text())["processes"] == 2


# -- what a run tells -----------------------------------------------------------------------------


def test_pictures_and_the_record(tmp_path: Path) -> None:
    task = ToyGan()
    fit(task, toy_run(pictures_every=5), tmp_path)
    pictures = sorted((tmp_path / "pictures").iterdir())
    assert [path.name for path in pictures] == [
        "step-000005.png",
        "step-000010.png",
        "step-000012.png",
    ]
    read = cv2.imread(str(pictures[0]))
    assert read is not None
    assert read[0, 0].tolist() == [0, 0, 255]  # red, in OpenCV's order
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["notes"] == {"what": "a toy"}
    assert record["run"]["steps"] == 12
    assert record["revisage"]

    two = {"a": np.zeros((2, 2, 3), np.uint8), "b": np.zeros((2, 2, 3), np.uint8)}
    task.pictures = lambda networks: two  # type: ignore[method-assign]
    fit(task, toy_run(steps=1, pictures_every=1), tmp_path / "named")
    names = {path.name for path in (tmp_path / "named" / "pictures").iterdir()}
    assert names == {"step-000001-a.png", "step-000001-b.png"}


def test_tensorboard(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    fit(ToyGan(), toy_run(tensorboard=True, pictures_every=12), tmp_path)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    read = {event.step: event.value for event in events.Scalars("generator/l1")}
    logged = {line["step"]: line["generator/l1"] for line in _log(tmp_path) if len(line) > 2}
    assert read == pytest.approx(logged)
    assert [event.step for event in events.Scalars("validation/l1")] == [6, 12]
    assert [event.step for event in events.Images("toy")] == [12]


def test_tensorboard_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingExtraError, match=r"tensorboard = true.*revisage\[train\]"):
        fit(ToyGan(), toy_run(tensorboard=True), tmp_path)


def test_a_device_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match="use cpu"):
        fit(ToyGan(), toy_run(), tmp_path, device="cuda")


# -- prefetching ----------------------------------------------------------------------------------


def _threads() -> int:
    return sum(thread.name == "batches" for thread in threading.enumerate())


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_batches_keep_their_order_and_the_thread_ends(depth: int) -> None:
    def endless() -> Iterator[int]:
        number = 0
        while True:
            yield number
            number += 1

    with Prefetched(endless(), depth) as items:
        assert [next(items) for _ in range(20)] == list(range(20))
        assert _threads() == min(1, depth)
    assert _threads() == 0
    with Prefetched(iter([1, 2]), depth) as items:
        assert list(items) == [1, 2]
        assert list(items) == []


def test_an_error_in_the_thread_comes_out_and_none_is_left(tmp_path: Path) -> None:
    class Broken(Straight):
        def sample(self, rng: np.random.Generator, size: int) -> Batch:
            raise RecipeError("no such folder")

    with pytest.raises(RecipeError, match="no such folder"):
        fit(Broken(), toy_run(), tmp_path)
    with pytest.raises(StoppedError):
        fit(ToyGan(stop=1), toy_run(prefetch=2), tmp_path / "stopped")
    assert _threads() == 0
