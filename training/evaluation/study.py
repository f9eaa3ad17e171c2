"""What every evaluation has in common: faces one after another, figures, intervals, contact sheets.

An evaluation (`Evaluation`) says which kinds of cases there are and judges one face at a time; here
its figures are collected, and what stays in memory is numbers and the few pictures that are shown.
Every way of doing the job (the network, and what it is compared with) is judged in one place on the
same pixels.

A figure is a number, or a pair (part, whole) where the figure of many is the ratio of the sums, as
for the intersection over union of masks. Gains are differences in the same case, and intervals are
95 % of a bootstrap over faces: what is measured twice in one face is not independent.
"""

from __future__ import annotations

import dataclasses
import heapq
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from revisage.errors import MediaError
from revisage.training.data.aligned_faces import AlignedFace, aligned_faces
from revisage.training.data.folders import read_faces
from revisage.training.evaluation.people import age_group, skin_tone
from revisage.training.evaluation.report import Section, Sheet, Table, sheet

__all__ = [
    "NOTHING",
    "OURS",
    "Case",
    "Evaluation",
    "Figure",
    "Findings",
    "Goal",
    "Kind",
    "LeftOut",
    "Measure",
    "Result",
    "judge",
    "unreadable",
]

Image = npt.NDArray[np.uint8]
Figure = float | tuple[float, float]
Say = Callable[[str], None]

OURS, NOTHING = "network", "doing nothing"
SHOWN = 8  # rows of a contact sheet
DRAWS = 2000  # of a bootstrap


@dataclasses.dataclass(frozen=True)
class Measure:
    """What is measured: its key in `Case.figures`, and how it is printed."""

    key: str
    title: str  # with the unit: "PSNR in the hole, dB"
    digits: int = 2
    better: str = "higher"  # or "lower"


@dataclasses.dataclass(frozen=True)
class Kind:
    """One sort of case of an evaluation: its tables and its two contact sheets.

    Attributes:
        size: side of the aligned square in pixels.
        over: the way that contact sheets and groups of people compare the network with, by the
            first measure; "" looks at the network's own figure.
        best_of: ways that stand for one, such as filters with other parameters: the one with the
            best mean of the first measure is shown, under the name of the key.
        smallest_face: width in the original photo in pixels below which a face is left out.
    """

    title: str
    size: int
    measures: tuple[Measure, ...]
    shows: str  # what the columns of the contact sheets show
    over: str = ""
    best_of: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    smallest_face: float = 0.0
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Case:
    """One face judged once.

    Attributes:
        figures: measure -> way -> figure.
        pictures: a row of the contact sheet, squares of one size.
        tags: other groups that the case belongs to, "guide: another photo".
    """

    figures: Mapping[str, Mapping[str, Figure]]
    pictures: tuple[Image, ...]
    tags: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class LeftOut:
    """Why a face has no case of a kind."""

    reason: str


@dataclasses.dataclass(frozen=True)
class Goal:
    """What has to be reached.

    A gain over another way is at least `bound`; a figure itself (`over` = "") is at least `bound`
    where higher is better and below it where lower is. With a group, of its cases alone.
    """

    kind: str
    measure: str
    bound: float
    over: str = ""
    group: str = ""


class Evaluation(Protocol):
    """How one operation is judged."""

    name: str
    text: str  # what is measured, for the report
    kinds: Mapping[str, Kind]
    goals: Sequence[Goal]
    weights: Mapping[str, str]  # of the networks: name -> file and its SHA-256

    def prepare(
        self, kind: str, folders: Sequence[str], faces: Sequence[AlignedFace]
    ) -> Sequence[str]:
        """Get ready for a kind, such as making the mean face; returns remarks for the report."""
        return ()

    def case(
        self, kind: str, faces: Sequence[AlignedFace], index: int, rng: np.random.Generator
    ) -> Case | LeftOut:
        """Judge `faces[index]`; a function of the arguments alone."""


@dataclasses.dataclass(frozen=True)
class _Row:
    face: str
    groups: tuple[str, ...]
    figures: Mapping[str, Mapping[str, Figure]]


@dataclasses.dataclass(frozen=True)
class Result:
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float
    faces: int

    def text(self, digits: int, *, signed: bool = False) -> str:
        """ "3.12 [2.90, 3.35]"."""
        sign = "+" if signed else ""
        one, low, high = (f"{v:{sign}.{digits}f}" for v in (self.value, self.low, self.high))
        return f"{one} [{low}, {high}]"


def _result(parts: Sequence[tuple[str, float, float]]) -> Result:
    """Ratio of the sums of (face, part, whole), with a bootstrap over faces."""
    sums: dict[str, npt.NDArray[np.float64]] = {}
    for face, part, whole in parts:
        sums[face] = sums.get(face, np.zeros(2)) + np.array([part, whole])
    table = np.array(list(sums.values()))
    places = np.random.default_rng(1979).integers(len(table), size=(DRAWS, len(table)))
    drawn = table[places].sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        low, high = np.nanpercentile(drawn[:, 0] / drawn[:, 1], (2.5, 97.5))
        value = table[:, 0].sum() / table[:, 1].sum()
    return Result(float(value), float(low), float(high), len(table))


class Tally:
    """The figures of one kind."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.rows: list[_Row] = []
        self.left_out: dict[str, int] = {}  # reason -> faces
        self._worst: list[tuple[float, int, tuple[Image, ...]]] = []  # the best of them first
        self._sample: list[tuple[Image, ...]] = []
        self._count = itertools.count()

    def add(self, face: str, groups: tuple[str, ...], case: Case, *, sampled: bool) -> None:
        """Count a case; of its pictures only those of the worst and of a sample are kept."""
        self.rows.append(_Row(face, (*groups, *case.tags), case.figures))
        if sampled and len(self._sample) < SHOWN:
            self._sample.append(case.pictures)
        # A heap of the worst, of which the best goes first.
        entry = (self._badness(case), next(self._count), case.pictures)
        if len(self._worst) < SHOWN:
            heapq.heappush(self._worst, entry)
        else:
            heapq.heappushpop(self._worst, entry)

    def _badness(self, case: Case) -> float:
        measure = self.kind.measures[0]
        figures = case.figures[measure.key]
        value = _single(figures[OURS])
        rivals = self.kind.best_of.get(self.kind.over, (self.kind.over,))
        beaten = [_single(figures[name]) for name in rivals if name in figures]
        sign = 1 if measure.better == "higher" else -1
        if beaten:
            value -= sign * max(sign * one for one in beaten)
        return -sign * value if math.isfinite(value) else -math.inf

    def ways(self) -> list[str]:
        """Names of the ways in the order in which they are shown."""
        hidden = {name for names in self.kind.best_of.values() for name in names}
        found = dict.fromkeys(
            way
            for measure in self.kind.measures
            for row in self.rows[:1]
            for way in row.figures.get(measure.key, {})
        )
        return [way for way in found if way not in hidden] + list(self.kind.best_of)

    def chosen(self, way: str) -> str:
        """The way behind a name of `Kind.best_of`; else the way itself."""
        if way not in self.kind.best_of:
            return way
        first = self.kind.measures[0]
        sign = 1 if first.better == "higher" else -1
        return max(self.kind.best_of[way], key=lambda one: sign * self.figure(first.key, one).value)

    def has(self, measure: str, way: str) -> bool:
        """Whether there is such a figure."""
        name = self.kind.best_of.get(way, (way,))[0]
        return any(name in row.figures.get(measure, {}) for row in self.rows)

    def figure(self, measure: str, way: str = OURS, group: str = "") -> Result:
        """The figure of a way, of all faces or of a group."""
        name = self.chosen(way)
        return _result(
            [
                (row.face, *_pair(row.figures[measure][name]))
                for row in self._of(group)
                if name in row.figures.get(measure, {})
            ]
        )

    def gain(self, measure: str, over: str, group: str = "") -> Result:
        """How much better the network is than another way in the same cases."""
        name = self.chosen(over)
        better = {one.key: one.better for one in self.kind.measures}[measure]
        sign = 1 if better == "higher" else -1
        parts = []
        for row in self._of(group):
            ours, others = (_pair(row.figures[measure][way]) for way in (OURS, name))
            if ours[1] == others[1]:  # shares of the same whole are pooled, as they are shown
                parts.append((row.face, sign * (ours[0] - others[0]), ours[1]))
            else:
                gain = sign * (_single(ours) - _single(others))
                parts.append((row.face, gain, 1.0))
        return _result(parts)

    def groups(self) -> list[str]:
        """Names of the groups that have a case."""
        return sorted({group for row in self.rows for group in row.groups})

    def _of(self, group: str) -> list[_Row]:
        return [row for row in self.rows if not group or group in row.groups]

    def worst(self) -> list[tuple[Image, ...]]:
        """Pictures of the worst cases, the worst first."""
        return [pictures for _, _, pictures in sorted(self._worst, reverse=True)]

    def sample(self) -> list[tuple[Image, ...]]:
        """Pictures of cases that nobody chose: evenly spaced in the folder."""
        return self._sample


def _pair(figure: Figure) -> tuple[float, float]:
    return figure if isinstance(figure, tuple) else (figure, 1.0)


def _single(figure: Figure) -> float:
    part, whole = _pair(figure)
    return part / whole if whole else math.nan


@dataclasses.dataclass
class Findings:
    """What `judge` found."""

    evaluation: Evaluation
    tallies: dict[str, Tally]
    skipped: dict[str, str]  # face -> what is wrong with its picture
    remarks: list[str]

    def goals(self) -> list[tuple[Goal, Result, bool]]:
        """Every goal with what was found, and whether it is reached."""
        rows = []
        for goal in self.evaluation.goals:
            tally = self.tallies[goal.kind]
            if not tally.rows or (goal.group and goal.group not in tally.groups()):
                continue
            if goal.over:
                found = tally.gain(goal.measure, goal.over, goal.group)
                reached = found.value >= goal.bound
            else:
                found = tally.figure(goal.measure, group=goal.group)
                higher = self.measure(goal).better == "higher"
                reached = found.value >= goal.bound if higher else found.value < goal.bound
            rows.append((goal, found, reached))
        return rows

    def measure(self, goal: Goal) -> Measure:
        """The measure of a goal."""
        return next(m for m in self.tallies[goal.kind].kind.measures if m.key == goal.measure)

    def section(self) -> Section:
        """Tables and contact sheets of the report."""
        name = self.evaluation.name
        section = Section(name, self.evaluation.text)
        for key, tally in self.tallies.items():
            if not tally.rows:
                why = "; ".join(f"{reason}: {n}" for reason, n in tally.left_out.items())
                section.remarks.append(f"{tally.kind.title}: no case. {why}")
                continue
            section.tables.append(_table(tally))
            shows = tally.kind.shows
            section.sheets += [
                Sheet(f"{name}_{key}_worst", f"{key}, the worst first: {shows}",
                      sheet(tally.worst())),
                Sheet(f"{name}_{key}_sample", f"{key}, as they come: {shows}",
                      sheet(tally.sample())),
            ]  # fmt: skip
        section.tables += _group_tables([t for t in self.tallies.values() if t.rows])
        section.remarks += self.remarks
        if self.skipped:
            named = "; ".join(f"{face}: {why}" for face, why in self.skipped.items())
            section.remarks.append(f"{len(self.skipped)} pictures skipped. {named}")
        for role, file in self.evaluation.weights.items():
            section.remarks.append(f"Weights of {role}: {file}")
        return section

    def figures(self) -> dict[str, Any]:
        """Everything as numbers, for figures.json."""
        kinds = {}
        for key, tally in self.tallies.items():
            measures: dict[str, Any] = {}
            for measure in tally.kind.measures:
                entries = {}
                for way in tally.ways():
                    if tally.has(measure.key, way):
                        entry: dict[str, Any] = dict(_numbers(tally.figure(measure.key, way)))
                        if way != OURS and tally.has(measure.key, OURS):
                            entry["gain"] = _numbers(tally.gain(measure.key, way))
                        entries[way] = entry
                measures[measure.key] = entries
            groups = {
                group: {
                    measure.key: _numbers(tally.figure(measure.key, OURS, group))
                    for measure in tally.kind.measures
                }
                for group in tally.groups()
            }
            kinds[key] = {
                "cases": len(tally.rows), "left_out": tally.left_out, "measures": measures,
                "groups": groups,
                "chosen": {name: tally.chosen(name) for name in tally.kind.best_of if tally.rows},
            }  # fmt: skip
        goals = [
            {**dataclasses.asdict(goal), "found": _numbers(found), "reached": reached}
            for goal, found, reached in self.goals()
        ]
        return {
            "weights": dict(self.evaluation.weights),
            "kinds": kinds,
            "goals": goals,
            "skipped": self.skipped,
        }


def _table(tally: Tally) -> Table:
    kind = tally.kind
    columns = ["way"]
    for measure in kind.measures:
        columns.append(measure.title)
        if len(tally.ways()) > 1:
            columns.append("the network is better by")
    rows = []
    for way in tally.ways():
        chosen = tally.chosen(way)
        row = [way if chosen == way else f"{way}: {chosen}"]
        for measure in kind.measures:
            there = tally.has(measure.key, way)
            row.append(tally.figure(measure.key, way).text(measure.digits) if there else "")
            if len(tally.ways()) > 1:
                compared = there and way != OURS and tally.has(measure.key, OURS)
                gain = tally.gain(measure.key, way) if compared else None
                row.append(gain.text(measure.digits, signed=True) if gain else "")
        rows.append(row)
    faces = len({row.face for row in tally.rows})
    note = f"{len(tally.rows)} cases in {faces} faces; 95 % intervals of a bootstrap over faces."
    for reason, count in tally.left_out.items():
        note += f" Left out, {reason}: {count}."
    return Table(f"{kind.title}, {kind.size} px", columns, rows, f"{note} {kind.note}".strip())


def _group_tables(tallies: Sequence[Tally]) -> list[Table]:
    groups = sorted({group for tally in tallies for group in tally.groups()})
    if not groups:
        return []
    columns, cells = ["group", "faces"], {group: [group, ""] for group in groups}
    for tally in tallies:
        measure, over = tally.kind.measures[0], tally.kind.over
        over = f", better than {over} by" if over else ""
        columns.append(f"{tally.kind.title}: {measure.title}{over}")
        for group in groups:
            if group not in tally.groups():
                cells[group].append("")
                continue
            found = (
                tally.gain(measure.key, tally.kind.over, group)
                if over
                else tally.figure(measure.key, OURS, group)
            )
            cells[group].append(found.text(measure.digits, signed=bool(over)))
            cells[group][1] = str(max(found.faces, int(cells[group][1] or 0)))
    note = "Skin tone is measured in the photo, light included; age is what the data set states."
    return [Table("By group", columns, list(cells.values()), note)]


def unreadable(folders: Sequence[str], split: str | None, limit: int = 0) -> dict[str, str]:
    """Faces whose picture is broken, also where a part of it can be decoded: id -> reason."""
    from PIL import Image as Pillow

    found = {}
    records = (record for folder in folders for record in read_faces(folder, split))
    for record in itertools.islice(records, limit or None):
        try:
            with Pillow.open(record.path) as picture:
                picture.load()
        except (OSError, SyntaxError, ValueError, Pillow.DecompressionBombError) as error:
            found[record.id] = f"{record.path}: not a readable picture ({error})"
    return found


def _numbers(result: Result) -> dict[str, float | None]:
    """For JSON, which has no number for "none"."""
    given = dataclasses.asdict(result)
    return {key: value if math.isfinite(value) else None for key, value in given.items()}


def judge(
    evaluation: Evaluation,
    folders: Sequence[str | Path],
    *,
    split: str | None = "val",
    seeds: int = 1,
    limit: int = 0,
    say: Say = lambda line: None,
) -> Findings:
    """Judge an operation on the faces of annotated folders, one after another.

    Args:
        split: "val", "train", "test"; None for all faces.
        seeds: how often each face is judged, with other random draws.
        limit: look at the first faces only; 0 at all.
        say: is told what goes on, a line at a time.

    Raises:
        RecipeError: no face there, or a folder of no known layout.
        MediaError: not one picture can be read.
    """
    names = [str(folder) for folder in folders]
    broken = unreadable(names, split, limit)
    tallies = {key: Tally(kind) for key, kind in evaluation.kinds.items()}
    findings = Findings(evaluation, tallies, broken, [])
    for name, reason in broken.items():
        say(f"{evaluation.name}: skipped {name}: {reason}")
    people: dict[str, tuple[str, ...]] = {}
    sizes = sorted({kind.size for kind in evaluation.kinds.values()}, reverse=True)
    for size in sizes:
        faces = aligned_faces(names, split, size, limit=limit)
        keys = [key for key, kind in evaluation.kinds.items() if kind.size == size]
        for key in keys:
            findings.remarks += evaluation.prepare(key, names, faces)
        sampled = set(np.linspace(0, len(faces) - 1, min(SHOWN, len(faces))).round().astype(int))
        for index, face in enumerate(faces):
            if face.id in findings.skipped:
                continue
            try:
                if face.id not in people:
                    people[face.id] = (f"skin: {skin_tone(face)}", f"age: {age_group(face)}")
                for key, seed in itertools.product(keys, range(seeds)):
                    tally = tallies[key]
                    if face.native_face_px < tally.kind.smallest_face:
                        case: Case | LeftOut = LeftOut(
                            f"narrower than {tally.kind.smallest_face:g} px in the photo"
                        )
                    else:
                        rng = np.random.default_rng([1000 + seed, index])
                        case = evaluation.case(key, faces, index, rng)
                    if isinstance(case, LeftOut):
                        tally.left_out[case.reason] = tally.left_out.get(case.reason, 0) + 1
                    else:
                        shown = index in sampled and seed == 0
                        tally.add(face.id, people[face.id], case, sampled=shown)
            except MediaError as error:
                findings.skipped[face.id] = str(error)
                say(f"{evaluation.name}: skipped {face.id}: {error}")
            if (index + 1) % 20 == 0 or index + 1 == len(faces):
                say(f"{evaluation.name} at {size} px: {index + 1} of {len(faces)} faces")
        if len(findings.skipped) == len(faces):
            raise MediaError(
                f"{', '.join(names)}: none of {len(faces)} pictures can be judged; the first: "
                f"{next(iter(findings.skipped.values()))}"
            )
    return findings
