"""The table of engines in `benchmarks/README.md`, from `results/*.json`.

    python benchmarks/engines/report.py

One row per network, engine and precision; above them what is required, and whether it holds. Rates
are formed within a round (see `harness.py`), so their spread is that of the rounds.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]
from bench_engines import (  # noqa: E402
    CHANNELS_LAST,
    KERNELS,
    NOT_RUN,
    ONNXRUNTIME,
    NetworkReport,
)
from harness import Requirement, Spread, on_threads, require  # noqa: E402
from networks import ROWS  # noqa: E402
from tables import (  # noqa: E402
    machine_text,
    number,
    requirement_rows,
    spread_text,
    write_section,
)

FASTER_THAN_EAGER = 1.5
FASTER_THAN_FP32 = 1.5
SIZES = ("compact", "live", "paper")
COLUMNS = (
    *("operation", "network", "size", "px", "weights", "threads"),
    *("engine", "precision", "builds"),
    *("error", "tolerance", "times as fast as torch eager", "MB", "s to build"),
)


def default_contender(report: NetworkReport, precision: str) -> str:
    """What `open_engine` takes on the measured machine: our kernels where they were built."""
    name = precision + KERNELS
    return name if name in report.case.contenders else precision


def requirements(reports: Sequence[NetworkReport]) -> Iterator[Requirement]:
    """What must be shown, network by network; paper-size ones are shown and not required."""
    for report in reports:
        if report.size == "paper":
            continue
        fp32 = default_contender(report, "fp32")
        yield require(
            f"{report.name}, {on_threads(report.case.threads)}: times as fast as torch eager",
            FASTER_THAN_EAGER,
            report.case.ratios[fp32],
            f"{report.case.name}, {fp32}",
            at_most=False,
        )
        if report.convolutional:
            yield int8_requirement(report)


def int8_requirement(report: NetworkReport) -> Requirement:
    """int8 pays and stays within its tolerance; a network without int8 does not hold.

    Like is compared with like: both graphs run on ONNX Runtime's own operators. Our kernels make
    fp32 faster, sometimes faster than int8: the rows of the table say so.
    """
    where = f"{report.name}, {on_threads(report.case.threads)}"
    statement = f"{where}: int8, times as fast as fp32 (both without our kernels)"
    rows = [r for r in report.engines if (r.engine, r.precision) == (ONNXRUNTIME, "int8")]
    if not rows:
        return Requirement(statement, FASTER_THAN_FP32, False, None, False, "no int8 graph")
    (row,) = rows
    int8, fp32 = report.case.ratios["int8"], report.case.ratios["fp32"]
    gain = Spread(int8.median / fp32.median, int8.low / fp32.high, int8.high / fp32.low)
    within = row.max_abs is not None and row.max_abs <= (row.tolerance or 0.0)
    errors = f"error {number(row.max_abs or 0.0)}, tolerance {number(row.tolerance or 0.0)}"
    line = require(statement, FASTER_THAN_FP32, gain, errors, at_most=False)
    return line if within else Requirement(**{**line.__dict__, "holds": False})


def rows(report: NetworkReport) -> Iterator[str]:
    """One line per engine and precision; two where the graph runs with and without our kernels."""
    about = (report.operation, report.name, report.size, report.side, report.weights)
    for row in report.engines:
        if row.note == NOT_RUN or (row.engine != ONNXRUNTIME and report.case.threads > 1):
            continue  # what has no threads of ours is told once
        timed = [row.precision]
        if row.engine == ONNXRUNTIME:
            timed = [n for n in report.case.contenders if n.split(",")[0] == row.precision]
        for contender in timed:
            gain = report.case.ratios.get(contender) if row.engine == ONNXRUNTIME else None
            cells = [
                report.case.threads if row.engine == ONNXRUNTIME else "",
                row.engine,
                contender,
                row.note or "yes",
                "" if row.max_abs is None else number(row.max_abs),
                "" if row.tolerance is None else number(row.tolerance),
                "" if gain is None else spread_text(gain),
                "" if row.megabytes is None else number(row.megabytes),
                number(row.seconds) if row.seconds and "built" in row.note else "",
            ]
            yield f"| {' | '.join(map(str, (*about, *cells)))} |"
    if CHANNELS_LAST in report.case.ratios:
        gain = spread_text(report.case.ratios[CHANNELS_LAST])
        about = (*about, report.case.threads)
        yield f"| {' | '.join(map(str, about))} | torch | fp32, channels last | | | | {gain} | | |"


def section(reports: Sequence[NetworkReport]) -> str:
    """Markdown between the markers."""
    measured_on = f"Measured on {machine_text(reports[0].machine)}."
    busy = sorted({report.name for report in reports if not report.case.quiet})
    lines = [
        *textwrap.wrap(measured_on, 100, break_on_hyphens=False),
        "",
        *requirement_rows(requirements(reports)),
        "",
        f"| {' | '.join(COLUMNS)} |",
        "|" + " --- |" * len(COLUMNS),
        *(line for report in reports for line in rows(report)),
    ]
    absent = sorted({r.engine for report in reports for r in report.engines if r.note == NOT_RUN})
    if absent:
        lines += ["", f"Engines that the measured machine cannot run: {', '.join(absent)}."]
    missing = [row.name for row in ROWS if row.name not in {report.name for report in reports}]
    if missing:
        lines += ["", f"Not measured: {', '.join(missing)}."]
    if busy:
        lines += ["", f"Others were busy on the machine during: {', '.join(busy)}."]
    return "\n".join([*lines, ""])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--readme", type=Path, default=HERE.parent / "README.md")
    options = parser.parse_args()
    reports = [NetworkReport.read(path) for path in sorted(options.results.glob("*.json"))]
    reports.sort(key=lambda r: (SIZES.index(r.size), r.operation, r.name, r.case.threads))
    write_section(options.readme, "engines", section(reports))
    return 0


if __name__ == "__main__":
    sys.exit(main())
