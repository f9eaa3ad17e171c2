"""Every recipe that ships: resolves, takes steps, resumes to the bit, and its loss falls."""

from __future__ import annotations

import copy
import dataclasses
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from revisage.cli import main
from revisage.errors import CheckpointError, RecipeError
from revisage.training import loop
from revisage.training.journal import read_log
from revisage.training.recipe import (
    Optimiser,
    Run,
    optimiser,
    overridden,
    read_recipe,
    recipe_names,
    recipe_path,
    section,
)
from revisage.training.train import main as train_main
from revisage.training.train import resolve, task_module, write_toml
from tests.training.test_loop import assert_same_outcome
from tests.training.toy_gan import StoppedError

RECIPES = recipe_names()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small networks are slower on several threads, and recipes may set their own number."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tiny(name: str, portraits: Path, run: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The recipe of a name at its task's TINY scale, on the drawn portraits."""
    recipe = read_recipe(recipe_path(name))
    module = task_module(recipe["run"]["task"])
    changes = {"run": {**run, "threads": 1}}
    if "portraits" in {field.name for field in dataclasses.fields(module.Data)}:
        changes["data"] = {"portraits": [str(portraits)]}
    return resolve(overridden(overridden(recipe, module.TINY), changes))


def built(recipe: dict[str, dict[str, Any]]) -> loop.Task:
    torch.manual_seed(recipe["run"]["seed"])
    task: loop.Task = task_module(recipe["run"]["task"]).build(recipe)
    return task


def fit(task: loop.Task, recipe: dict[str, dict[str, Any]], out: Path) -> dict[str, float]:
    run = section(recipe, "run", Run)
    return loop.fit(task, run, out, optimisers=recipe.get("optimiser"))


def stopping(task: loop.Task, steps: int) -> loop.Task:
    """The same task, killed when it has drawn for `steps` steps (loss of its first turn)."""
    first = task.turns[0]
    taken: list[int] = []

    def loss(batch: loop.Batch) -> tuple[torch.Tensor, dict[str, float]]:
        if len(taken) == steps * first.repeats:
            raise StoppedError
        taken.append(1)
        return first.loss(batch)

    turns = (dataclasses.replace(first, loss=loss), *task.turns[1:])
    task.turns = turns  # type: ignore[misc]
    return task


def looking_changes_nothing(task: loop.Task) -> list[str]:
    """Let validation and pictures fail where they change a weight or a buffer; which were made."""
    made: list[str] = []

    def guarded(name: str) -> Callable[..., Any]:
        look = getattr(task, name)

        def looked(networks: dict[str, torch.nn.Module], *place: Any) -> Any:
            every = {**{f"own {n}": m for n, m in task.networks.items()}, **networks}
            before = {n: copy.deepcopy(m.state_dict()) for n, m in every.items()}
            result = look(networks, *place)
            for n, module in every.items():
                now = module.state_dict()
                assert [k for k in now if not torch.equal(now[k], before[n][k])] == [], n
            made.append(name)
            return result

        return looked

    for name in ("validate", "pictures"):
        setattr(task, name, guarded(name))
    return made


@pytest.mark.parametrize("name", RECIPES)
def test_it_learns_and_resumes_to_the_bit(
    name: str, portraits_folder: Path, tmp_path: Path
) -> None:
    settings = {
        "same_batch": True,
        "log_every": 1,
        "accumulate": 1,
        "save_every": 5,
        "validate_every": 100_000,  # the last step validates
        "pictures_every": 100_000,
        "tensorboard": False,
    }
    recipe = tiny(name, portraits_folder, settings)
    steps = recipe["run"]["steps"]
    assert steps >= 10
    task = built(recipe)
    judged = looking_changes_nothing(task)
    figures = fit(task, recipe, tmp_path / "whole")
    assert judged == ["pictures", "validate"]
    assert figures
    assert all(np.isfinite(value) for value in figures.values())
    assert (tmp_path / "whole" / "weights.safetensors").exists()

    lines = read_log(tmp_path / "whole" / "log.jsonl")
    watched = [line[task.watch] for line in lines if "validation" not in line]
    assert len(watched) == steps
    assert watched[-1] < watched[0]

    with pytest.raises(StoppedError):
        fit(stopping(built(recipe), 7), recipe, tmp_path / "parts")
    resumed = built(recipe)
    fit(resumed, recipe, tmp_path / "parts")
    assert_same_outcome(tmp_path / "whole", tmp_path / "parts")
    for out in (tmp_path / "whole", tmp_path / "parts"):
        pictures = sorted((out / "pictures").glob(f"step-{steps:06d}*.png"))
        assert all(cv2.imread(str(path)) is not None for path in pictures)
        assert pictures

    # With batches that change, resuming is exact only if they are functions of their seed.
    task.sample(np.random.default_rng(4), 2)
    batch, again = (one.sample(np.random.default_rng(3), 2) for one in (task, resumed))
    assert batch.keys() == again.keys()
    assert [key for key in batch if not torch.equal(batch[key], again[key])] == []


@pytest.mark.parametrize("name", RECIPES)
def test_it_resolves_and_says_what_it_is(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", name, "--dry-run"]) == 0
    resolved = tomllib.loads(capsys.readouterr().out)
    assert write_toml(resolve(resolved)) == write_toml(resolved)  # nothing is left to fill in
    text = recipe_path(name).read_text(encoding="utf-8")
    assert text.startswith("# ")
    module = task_module(resolved["run"]["task"])
    resolve(overridden(read_recipe(recipe_path(name)), module.SMALL))


# -- the files themselves -------------------------------------------------------------------------


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    return path


RUN = '[run]\ntask = "wrinkle_filler"\nsteps = 5\nbatch = 1\nlearning_rate = 1e-3\n'
DATA = '[data]\nportraits = ["portraits"]\n'


def test_nested_tables_and_overrides(tmp_path: Path) -> None:
    path = write(tmp_path, RUN + "betas = [0, 0.9]\n[optimiser.filler]\nclip_norm = 2\n" + DATA)
    recipe = read_recipe(
        path,
        ["optimiser.filler.kind=adam", "optimiser.critic.learning_rate=4e-4", "run.steps=7"],
    )
    resolved = resolve(recipe)
    assert resolved["run"]["steps"] == 7
    filler, critic = resolved["optimiser"]["filler"], resolved["optimiser"]["critic"]
    assert filler["kind"] == "adam"
    assert filler["clip_norm"] == 2.0
    assert filler["betas"] == (0.0, 0.9)  # as [run] says
    assert critic["learning_rate"] == 4e-4
    assert critic["kind"] == "adamw"
    again = resolve(tomllib.loads(write_toml(resolved)))
    assert again == resolved
    assert read_recipe(path, ["run.steps=9"], start=resolved)["run"]["steps"] == 9


def test_overridden_leaves_the_original_alone() -> None:
    recipe = {"run": {"steps": 1}, "optimiser": {"a": {"gamma": 0.5}}}
    changed = overridden(recipe, {"optimiser": {"a": {"gamma": 0.1}, "b": {}}})
    assert changed == {"run": {"steps": 1}, "optimiser": {"a": {"gamma": 0.1}, "b": {}}}
    assert recipe["optimiser"] == {"a": {"gamma": 0.5}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (RUN + "[los]\n", "unknown table los; known: run, optimiser, model, data, loss"),
        (RUN + "speed = 1\n", r"\[run\]: unknown speed"),
        (RUN + 'kind = "lion"\n', r"\[run\] kind: no 'lion'; known: adamw"),
        (RUN + 'precision = "fp8"\n', r"\[run\] precision: no 'fp8'"),
        (RUN + "accumulate = 0\n", r"\[run\] accumulate: expected at least 1, got 0"),
        (RUN + "betas = 0.9\n", r"\[run\] betas: expected a list"),
        (RUN + "betas = [0.9]\n", r"\[run\] betas: expected 2 values"),
        (RUN + 'milestones = [1, "2"]\n', r"\[run\] milestones: expected int, got '2'"),
        (RUN + "seed = 1.5\n", r"\[run\] seed: expected int, got 1.5"),
        (RUN + "same_batch = 1\n", r"\[run\] same_batch: expected bool"),
        (RUN.replace("steps = 5\n", ""), r"\[run\]: missing steps"),
        (RUN.replace("wrinkle_filler", "nothing"), "no task 'nothing'; known: "),
        (RUN + "[optimiser]\nfiller = 1\n", r"expected a table \[optimiser.filler\]"),
        (RUN + "[optimiser.filler]\nsteps = 1\n", r"\[optimiser.filler\]: unknown steps"),
        (RUN, r"\[data\]: missing portraits"),
    ],
)
def test_mistakes_are_one_clear_error(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        resolve(read_recipe(write(tmp_path, text)))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("steps=3", "is not of the form"),
        ("run.steps", "is not of the form"),
        ("run..x=3", "is not of the form"),
        ("run.steps.x=3", "'steps' is a value, not a table"),
    ],
)
def test_overrides_that_cannot_be_understood(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        read_recipe(write(tmp_path, RUN), [override])


def test_every_setting_of_an_optimiser_can_come_from_the_run() -> None:
    assert {f.name for f in dataclasses.fields(Optimiser)} < {
        f.name for f in dataclasses.fields(Run)
    }
    run = Run(task="t", steps=1, batch=1, learning_rate=0.5, kind="sgd", momentum=0.25)
    assert optimiser(run, "any", {}) == Optimiser(learning_rate=0.5, kind="sgd", momentum=0.25)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("face_finder", "model.weights"),
        ("face_landmarks", "model.weights"),
        ("gfrnet_warp", "model.weights"),
        ("gfrnet", "model.warpnet_weights"),
        ("wrinkle_filler", "model.weights"),
        ("wrinkle_filler", "loss.segmenter"),
    ],
)
def test_weights_to_start_from_that_cannot_be_read(name: str, key: str, tmp_path: Path) -> None:
    missing, damaged = tmp_path / "missing.safetensors", tmp_path / "damaged.safetensors"
    damaged.write_bytes(b"weights")
    for path, message in ((missing, "cannot be read"), (damaged, "not a checkpoint")):
        recipe = resolve(read_recipe(recipe_path(name), [f"{key}={path}"]))
        with pytest.raises(CheckpointError, match=f"{path.name}: .*{message}"):
            built(recipe)


# -- the command ----------------------------------------------------------------------------------


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(recipe_names())
    assert all(len(line.split()) > 2 for line in lines)
    assert main(["train"]) == 2
    assert "train --list" in capsys.readouterr().err
    assert main(["train", "no_such_recipe"]) == 2
    assert "wrinkle_filler" in capsys.readouterr().err


def test_the_command_trains_and_tells(
    tmp_path: Path, portraits_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = tiny("wrinkle_filler", portraits_folder, {"steps": 4, "log_every": 2})
    path = write(tmp_path, write_toml(changes))
    command: Callable[..., int] = main
    assert command(["train", str(path), "--out", str(tmp_path / "run")]) == 0
    said = capsys.readouterr().out
    assert "4/4  filler/l1 " in said
    assert "ours: " in said
    kept = tomllib.loads((tmp_path / "run" / "recipe.toml").read_text(encoding="utf-8"))
    assert kept == tomllib.loads(write_toml(changes))


def test_a_run_that_cannot_go_on_leaves_the_folder_as_it_was(
    tmp_path: Path, portraits_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = tiny("skip_inpainting", portraits_folder, {"steps": 2})
    path, out = write(tmp_path, write_toml(changes)), tmp_path / "run"
    assert main(["train", str(path), "--out", str(out)]) == 0
    before = {file.name: file.read_bytes() for file in out.iterdir() if file.is_file()}
    wider = ["train", str(path), "--out", str(out), "--set", "model.ngf=6"]
    assert main(wider) == 2
    assert "belongs to another run" in capsys.readouterr().err
    assert {file.name: file.read_bytes() for file in out.iterdir() if file.is_file()} == before
    fresh = tmp_path / "fresh"
    nowhere = ["train", str(path), "--out", str(fresh), "--set", 'data.portraits=["nowhere"]']
    assert main(nowhere) == 2
    assert not fresh.exists()
    assert main(["train", str(path), "--out", str(fresh), "--device", "abacus"]) == 2
    assert "not a device" in capsys.readouterr().err
    assert not fresh.exists()


def test_recipes_are_listed_by_their_first_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(RECIPES)
    assert all(line.endswith((".", "...")) and len(line.split()) > 3 for line in lines)


def test_control_c_says_where_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def pressed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("revisage.training.train.run_recipe", pressed)
    command = ["train", "wrinkle_filler", "--out", str(tmp_path)]
    assert main(command) == 130
    assert capsys.readouterr().err == "revisage: interrupted; nothing was saved yet\n"
    (tmp_path / "state.pt").write_bytes(b"")
    assert main(command) == 130
    assert capsys.readouterr().err == (
        f"revisage: interrupted; the same command goes on from {tmp_path / 'state.pt'}\n"
    )


def test_what_torchrun_starts_says_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert train_main(["no_such_recipe"]) == 2
    assert capsys.readouterr().err.startswith("revisage: error: no recipe 'no_such_recipe'")
    assert train_main(["--list"]) == 0


def test_torchrun_can_start_it() -> None:
    """`python -m revisage.training.train` is what torchrun starts."""
    done = subprocess.run(
        [sys.executable, "-m", "revisage.training.train", "wrinkle_filler", "--dry-run"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert tomllib.loads(done.stdout)["run"]["task"] == "wrinkle_filler"
