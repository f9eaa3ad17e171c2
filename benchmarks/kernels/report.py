"""The table of `benchmarks/README.md` and the roofline plot, from `results/*.json`.

    python benchmarks/kernels/report.py

A roofline sets what a kernel does (operations a second) against how much it has to do with what it
moves (operations per byte): below the slanted roofs memory decides, below the flat one arithmetic.
Bytes and operations are those of the definition, counted once, for everybody the same. The floor of
a case is the time that the nearest roof would take; the roofs were measured on the same machine.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from bench_fft_conv import LAMA
from harness import Case, Report, on_threads
from tables import machine_name, machine_text, number, requirement_rows, spread_text, write_section

HERE = Path(__file__).resolve().parent
COLOURS = {
    "fft_conv": "#0b6e4f",
    "winograd_conv": "#b08900",
    "flow_warp": "#c1440e",
    "feature_blend": "#3454a4",
    "composite": "#8a3a8f",
    "backward": "#7a6a00",
}
INFORMATION = {  # no alternatives
    "numpy twin",
    "non-temporal copy",
    "non-temporal copy, prefetching",
    "copy of as many bytes",
    "revisage in onnxruntime",
}
MEBIBYTE = 1 << 20


class Roofs:
    """Bytes and operations a second of the machine, by number of threads."""

    def __init__(self, report: Report) -> None:
        cases = {(case.name, case.threads): case for case in report.cases}
        self._seconds = {
            key: next(iter(case.contenders.values())).seconds.median for key, case in cases.items()
        }
        self._cases = cases
        self._cache = int(report.machine.get("last-level cache, MiB", 16)) * MEBIBYTE

    def bandwidth(self, level: str, threads: int) -> float:
        return self._cases[level, threads].bytes / self._seconds[level, threads]

    def arithmetic(self, threads: int) -> float:
        return self._cases["arithmetic", threads].operations / self._seconds["arithmetic", threads]

    def text(self) -> str:
        rates = (
            (level, " and ".join(f"{self.bandwidth(level, t) / 1e9:.0f}" for t in (1, 2)))
            for level in ("memory", "reading", "cache")
        )
        moving = ", ".join(f"{level} {rate} GB/s" for level, rate in rates)
        peak = " and ".join(f"{self.arithmetic(t) / 1e9:.0f}" for t in (1, 2))
        return (
            f"Roofs, 1 and 2 threads: {moving}, convolution {peak} GFLOP/s. `memory` and `cache` "
            "are copies, read and write counted; `reading` writes nothing."
        )

    def floor(self, case: Case) -> float:
        """Seconds below which the case cannot go; what fits half the cache is read from there."""
        level = "cache" if case.bytes < self._cache / 2 else "memory"
        moving = case.bytes / self.bandwidth(level, case.threads)
        return max(moving, case.operations / self.arithmetic(case.threads))


def best_other(case: Case) -> str | None:
    others = [name for name in case.ratios if name not in INFORMATION]
    return case.best_other(others) if others else None


# --- the table -----------------------------------------------------------------------------------


def floor_text(report: Report, roofs: Roofs) -> str:
    """What the first requirement of fft_conv would read with every case at its floor."""
    shapes = {"x".join(map(str, shape)) for shape in LAMA}
    means = []
    for threads in (1, 2):
        cases = [c for c in report.cases if c.threads == threads and c.name in shapes]
        best = [c.contenders[other].seconds.median for c in cases if (other := best_other(c))]
        ratios = [roofs.floor(c) / seconds for c, seconds in zip(cases, best, strict=True)]
        means.append(number(math.exp(statistics.fmean(map(math.log, ratios)))))
    return (
        "With every case at its floor, all its arithmetic at the rate of the convolution, the "
        f"geometric means of fft_conv would be {means[0]} (1 thread) and {means[1]} (2 threads)."
    )


def case_rows(report: Report, roofs: Roofs | None) -> Iterator[str]:
    others = sorted({n for case in report.cases for n in case.ratios}, key=_first_seen(report))
    yield f"| {report.suite} | threads | ms | {' | '.join(others)} | floors |"
    yield "| --- | --- | --- |" + " --- |" * (len(others) + 1)
    for case in report.cases:
        own = case.contenders[case.ours].seconds
        best = best_other(case)
        cells = []
        for other in others:
            ratio = case.ratios.get(other)
            text = "" if ratio is None else spread_text(ratio)
            cells.append(f"**{text}**" if other == best else text)
        busy = "" if case.quiet else f", busy ({case.others_share:.0%} others)"
        floors = number(own.median / roofs.floor(case)) if roofs and case.threads else ""
        yield (
            f"| {case.name}{busy} | {case.threads or 'GPU'} | {number(own.median * 1e3)} "
            f"| {' | '.join(cells)} | {floors} |"
        )


def _first_seen(report: Report):  # type: ignore[no-untyped-def]
    order = [name for case in report.cases for name in case.ratios]
    return order.index


def section(reports: Sequence[Report], roofs: Roofs | None) -> str:
    """Markdown between the markers."""
    lines = [
        *textwrap.wrap(
            f"Measured on {machine_text(reports[0].machine)}.", 100, break_on_hyphens=False
        ),
        "",
        "Medians of rounds; in brackets the 10th and 90th percentile of the rounds.",
        "",
        *requirement_rows(line for report in reports for line in report.requirements),
        "",
        "Ours over the other, by time: below 1 we are faster; the fastest other is bold. `floors`",
        "is our time over what the nearest roof of the machine allows (below 1: what a repeated",
        "call needs was still in a cache; winograd_conv saves products that the roof counts).",
        "",
    ]
    if roofs:
        lines += [*textwrap.wrap(roofs.text(), 100), ""]
        units = [report for report in reports if report.suite == "fft_conv"]
        lines += [line for unit in units for line in textwrap.wrap(floor_text(unit, roofs), 100)]
        lines += [""]
    for report in reports:
        if not report.cases:
            continue
        if report.machine != reports[0].machine:
            lines += [f"On {machine_text(report.machine)}:", ""]
        lines += [*case_rows(report, roofs), ""]
    if roofs:
        lines += ["![Roofline and time over the floor](kernels/roofline.png)", ""]
    return "\n".join(lines)


# --- the plot ------------------------------------------------------------------------------------


def plot(reports: Sequence[Report], roofs: Roofs, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    pyplot.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False})
    shown = [report for report in reports if any(case.threads for case in report.cases)]
    count = sum(case.threads == 2 for report in shown for case in report.cases)
    figure = pyplot.figure(figsize=(15, max(10.0, 2.2 + 0.235 * count)), layout="constrained")
    grid = figure.add_gridspec(2, 2, width_ratios=[1, 1.05])
    for row, threads in enumerate((1, 2)):
        _roofline(figure.add_subplot(grid[row, 0]), shown, roofs, threads)
    _floors(figure.add_subplot(grid[:, 1]), shown, roofs)
    figure.suptitle(
        f"Kernels of Revisage and the roofs of {machine_name(shown[0].machine)}", fontsize=14
    )
    figure.savefig(path, dpi=110)


def _roofline(axes, reports: Sequence[Report], roofs: Roofs, threads: int) -> None:  # type: ignore[no-untyped-def]
    low, high = 0.1, 300.0
    peak = roofs.arithmetic(threads) / 1e9
    axes.set(xscale="log", yscale="log", xlim=(low, high * 1.05))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
    sides = {"cache": (":", "right", 0.8), "memory": ("-", "left", 1.25)}
    for level, (style, side, beside) in sides.items():
        rate = roofs.bandwidth(level, threads) / 1e9
        corner = peak / rate
        axes.plot([low, corner, high], [low * rate, peak, peak], style, color="0.35", lw=1.3)
        label = f"{level} {rate:.0f} GB/s"
        axes.text(corner / 2 * beside, peak / 2, label, ha=side, color="0.35", fontsize=9)
    axes.text(high, peak * 1.08, f"convolution {peak:.0f} GFLOP/s", ha="right", color="0.35")
    for report in reports:
        colour = COLOURS[report.suite]
        for case in (c for c in report.cases if c.threads == threads):
            x = case.operations / case.bytes
            ours = case.operations / case.contenders[case.ours].seconds.median / 1e9
            if other := best_other(case):
                theirs = case.operations / case.contenders[other].seconds.median / 1e9
                axes.plot([x, x], [theirs, ours], "-", color=colour, lw=0.8, alpha=0.6)
                axes.plot(x, theirs, "o", mfc="white", mec=colour, ms=5)
            axes.plot(x, ours, "o", color=colour, ms=5.5)
    for suite in (report.suite for report in reports):
        axes.plot([], [], "o", color=COLOURS[suite], label=suite)
    axes.plot([], [], "o", mfc="white", mec="0.3", label="fastest other")
    axes.set_ylim(top=peak * 2)
    axes.set(xlabel="operations per byte that must be moved", ylabel="GFLOP/s (counted)")
    axes.set_title(on_threads(threads), loc="left")
    axes.grid(True, which="major", color="0.9")
    axes.legend(loc="lower right", frameon=False)


def _floors(axes, reports: Sequence[Report], roofs: Roofs) -> None:  # type: ignore[no-untyped-def]
    labels, place = [], 0.0
    for report in reports:
        for case in (c for c in report.cases if c.threads == 2):
            colour, floor = COLOURS[report.suite], roofs.floor(case)
            ours = case.contenders[case.ours].seconds
            if other := best_other(case):
                theirs = case.contenders[other].seconds.median / floor
                axes.plot([ours.median / floor, theirs], [place, place], "-", color=colour, lw=0.8)
                axes.plot(theirs, place, "o", mfc="white", mec=colour, ms=5)
            axes.plot([ours.low / floor, ours.high / floor], [place, place], color=colour, lw=3)
            axes.plot(ours.median / floor, place, "o", color=colour, ms=5.5)
            labels.append((place, f"{report.suite}  {case.name}"))
            place += 1
        place += 0.6
    axes.axvline(1, color="0.35", lw=1.3)
    axes.set_yticks([at for at, _ in labels], [text for _, text in labels], fontsize=9)
    axes.set(xscale="log", ylim=(place, -1), xlabel="time over the floor (1: as fast as the roofs)")
    axes.set_title("Time over the floor, 2 threads; hollow: fastest other", loc="left")
    ticks = [0.5, 1, 2, 5, 10, 20, 50, 100, 200]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.grid(True, axis="x", color="0.9")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--readme", type=Path, default=HERE.parent / "README.md")
    parser.add_argument("--plot", type=Path, default=HERE / "roofline.png")
    options = parser.parse_args()
    found = {path.stem: Report.read(path) for path in sorted(options.results.glob("*.json"))}
    roofs = Roofs(found.pop("roofs")) if "roofs" in found else None
    order = [suite for suite in COLOURS if suite in found]
    reports = [found[name] for name in [*order, *(n for n in found if n not in order)]]
    write_section(options.readme, "kernels", section(reports, roofs))
    if roofs:
        plot([found[name] for name in order], roofs, options.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
