"""`revisage evaluate`: one report of every operation for which weights are at hand."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import cv2

from revisage.errors import CheckpointError, OptionError
from revisage.training.evaluation.report import Report, Section, Table
from revisage.training.evaluation.study import Evaluation, Findings, judge
from revisage.training.evaluation.weights import shipped

__all__ = ["OPERATIONS", "evaluate", "report_of"]

# Operation -> trained weights that it needs, as they are named in `training/weights`. Each has a
# module of its name beside this one with `load(weights, recipe) -> Evaluation`.
OPERATIONS: Mapping[str, tuple[str, ...]] = {
    "wrinkles": ("wrinkle_segmenter", "wrinkle_filler"),
    "blemishes": ("style_retoucher",),
    "unmask": ("unmask",),
    "inpaint": ("inpainting",),
    "restore": ("gfrnet",),
    "live": ("live",),
}


def evaluate(
    folders: Sequence[str | Path],
    operation: str = "",
    *,
    weights: Sequence[Path] = (),
    recipe: str = "",
    split: str | None = "val",
    seeds: int = 1,
    limit: int = 0,
    say: Callable[[str], None] = lambda line: None,
) -> Report:
    """Judge one operation, or all for which the weights that ship are there.

    Args:
        folders: annotated portraits.
        operation: a key of `OPERATIONS`; "" for all.
        weights: files to judge in place of those that ship; only with an operation.
        recipe: of the network in `weights`, see `weights.recipe_of`.
        split, seeds, limit, say: as of `study.judge`.

    Raises:
        OptionError: no such operation, or weights for no operation.
        CheckpointError: the weights are missing or of another network.
        RecipeError, MediaError: as of `study.judge`.
    """
    if operation and operation not in OPERATIONS:
        raise OptionError(f"no evaluation of {operation!r}; there is: {', '.join(OPERATIONS)}")
    if (weights or recipe) and not operation:
        raise OptionError("--weights and --recipe need an operation: name the one they belong to")
    cv2.setNumThreads(1)
    left_out: dict[str, str] = {}
    if not operation:
        for name, needed in OPERATIONS.items():
            missing = [str(shipped(one)) for one in needed if not shipped(one).is_file()]
            if missing:
                left_out[name] = f"no weights at {', '.join(missing)}"
        if len(left_out) == len(OPERATIONS):
            raise CheckpointError(
                "no trained weights here (an installed package has none): name an operation and "
                "its safetensors file with --weights"
            )
    findings = []
    for name in (operation,) if operation else OPERATIONS:
        if name in left_out:
            say(f"{name}: left out, {left_out[name]}")
            continue
        module = importlib.import_module(f"revisage.training.evaluation.{name}")
        evaluation: Evaluation = module.load(weights, recipe)
        findings.append(judge(evaluation, folders, split=split, seeds=seeds, limit=limit, say=say))
    which = f"split {split}" if split else "all faces"
    draws = f"{seeds} draw{'s' if seeds > 1 else ''} of each kind a face"
    return report_of(findings, left_out, f"{', '.join(map(str, folders))}: {which}, {draws}.")


def report_of(findings: Sequence[Findings], left_out: Mapping[str, str], text: str = "") -> Report:
    """The report: an overview of what had to be reached, then a section for each operation."""
    overview = Section("", text)
    rows = []
    for one in findings:
        for goal, found, reached in one.goals():
            measure = one.measure(goal)
            higher = bool(goal.over) or measure.better == "higher"
            needed = f"{goal.bound:{'+' if goal.over else ''}g}"
            rows.append(
                [
                    one.evaluation.name,
                    one.tallies[goal.kind].kind.title + (goal.group and f", {goal.group}"),
                    f"{measure.title}, over {goal.over}" if goal.over else measure.title,
                    f"at least {needed}" if higher else f"below {needed}",
                    found.text(measure.digits, signed=bool(goal.over)),
                    "yes" if reached else "NO",
                ]
            )
    columns = ("operation", "of", "measure", "needed", "found", "reached")
    overview.tables.append(Table("What had to be reached", columns, rows))
    overview.remarks += [f"{name} was left out: {why}" for name, why in left_out.items()]
    skipped = {face for one in findings for face in one.skipped}
    if skipped:
        overview.remarks.append(
            f"{len(skipped)} pictures could not be judged and were skipped: "
            f"{', '.join(sorted(skipped))}"
        )
    figures = {
        "operations": {one.evaluation.name: one.figures() for one in findings},
        "left_out": dict(left_out),
    }
    sections = [overview, *(one.section() for one in findings)]
    return Report("What the networks are worth", sections, figures)
