"""Every bundle on every engine of a GPU: within tolerance or not, and how quick.

    python benchmarks/engines/bench_engines_cuda.py [BUNDLE...] [--engine NAME]

Takes the bundles that ship (or those named: a name that ships, a folder, an archive), and each
precision that a manifest states for an engine that runs here. Outputs are compared with those of
ONNX Runtime on the CPU at fp32, on the inputs that were timed; the tolerance is the manifest's.
Arrays lie on the GPU; a round is as many calls as fit a tenth of a second, between two events.
Batches of the buckets run as recorded CUDA graphs, and the result says where they do not. Writes
`results_cuda.json` and a section of `benchmarks/README.md`. `--engine onnxruntime-cpu` tries the
same on a machine without a GPU.
"""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]
import harness  # noqa: E402
from bench_engines import inputs_of  # noqa: E402
from tables import machine_text, number, write_section  # noqa: E402

from revisage.bundle import Bundle, named_bundle, shipped_names  # noqa: E402
from revisage.engines import Engine, device_status, open_engine  # noqa: E402
from revisage.engines.driver import find_gpu  # noqa: E402
from revisage.errors import RevisageError  # noqa: E402
from revisage.manifest import ENGINES  # noqa: E402

RESULTS = HERE / "results_cuda.json"
CPU = "onnxruntime-cpu"
BATCHES = (1, 8)
ROUNDS, ROUND_SECONDS = 15, 0.1
COLUMNS = (
    *("bundle", "engine", "precision", "batch", "within tolerance", "error", "tolerance"),
    *("milliseconds", "recorded", "s to open"),
)


def timer(on_gpu: bool) -> Callable[[Callable[[], object], int], float]:
    """Gives the seconds of a call, measured over some of them."""
    if not on_gpu:

        def on_cpu(call: Callable[[], object], count: int) -> float:
            start = time.perf_counter()
            for _ in range(count):
                call()
            return (time.perf_counter() - start) / count

        return on_cpu
    import cupy

    def between_events(call: Callable[[], object], count: int) -> float:
        start, end = cupy.cuda.Event(), cupy.cuda.Event()
        start.record()
        for _ in range(count):
            call()
        end.record()
        end.synchronize()
        return float(cupy.cuda.get_elapsed_time(start, end)) / 1e3 / count

    return between_events


def measure(engine: Engine, wanted: Mapping[str, Any], inputs: dict[str, Any]) -> dict[str, Any]:
    """One batch on one engine: error, milliseconds, whether its launches are recorded."""
    batch = len(next(iter(inputs.values())))
    limit = engine.manifest.tolerance(engine.name, engine.precision).max_abs
    found = engine.infer(inputs)
    error = max(float(np.abs(found[name] - wanted[name]).max()) for name in wanted)
    on_gpu = engine.device == "cuda"
    if on_gpu:
        import cupy

        inputs = {name: cupy.asarray(array) for name, array in inputs.items()}
    seconds = timer(on_gpu)
    count = max(1, int(ROUND_SECONDS / seconds(lambda: engine.infer(inputs), 3)))
    rounds = [1e3 * seconds(lambda: engine.infer(inputs), count) for _ in range(ROUNDS)]
    low, median, high = np.percentile(rounds, [10, 50, 90]).round(4).tolist()
    why_not = getattr(engine, "cuda_graphs", {}).get(batch, "this engine records nothing")
    return {
        "batch": batch,
        "error": error,
        "tolerance": limit,
        "within": error <= limit,  # a NaN is not
        "milliseconds": [low, median, high],
        "calls a round": count,
        "recorded": "yes" if why_not == "" else f"no: {why_not}",
    }


def rows_of(bundle: Bundle, engines: Sequence[str]) -> Iterator[dict[str, Any]]:
    """What each engine and precision made of a bundle; an error where it did not run."""
    stated = {name: made for name, made in bundle.manifest.tolerances.items() if name in engines}
    batched = all("N" in spec.shape for spec in bundle.manifest.inputs)
    side = bundle.manifest.working_size
    batches = BATCHES if batched else (1,)
    inputs = {batch: inputs_of(bundle, side, batch) for batch in batches}
    with open_engine(bundle, "cpu") as reference:
        wanted = {batch: reference.infer(made) for batch, made in inputs.items()}
    for name, tolerances in stated.items():
        for precision in tolerances:
            about = {"bundle": bundle.name, "engine": name, "precision": precision}
            start = time.perf_counter()
            try:
                with open_engine(bundle, engine=name, precision=precision) as engine:
                    opened = round(time.perf_counter() - start, 2)
                    for batch, made in inputs.items():
                        row = measure(engine, wanted[batch], made)
                        yield {**about, **row, "seconds to open": opened}
            except RevisageError as error:
                yield {**about, "refused": " ".join(str(error).split())}


def section(
    about: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], left_out: Mapping[str, str]
) -> str:
    """Markdown between the markers."""
    lines = textwrap.wrap(f"Measured on {machine_text(about)}.", 100, break_on_hyphens=False)
    lines += ["", f"| {' | '.join(COLUMNS)} |", "|" + " --- |" * len(COLUMNS)]
    for row in rows:
        cells = [row["bundle"], row["engine"], row["precision"]]
        if "refused" in row:
            cells += ["", f"**no**: {row['refused']}", *[""] * 5]
        else:
            low, median, high = row["milliseconds"]
            cells += [
                str(row["batch"]),
                "yes" if row["within"] else "**no**",
                number(row["error"]),
                number(row["tolerance"]),
                f"{number(median)} ({number(low)} to {number(high)})",
                row["recorded"],
                str(row["seconds to open"]),
            ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [""] * bool(left_out)
    lines += [f"* {name} does not run on that machine: {why}" for name, why in left_out.items()]
    return "\n".join([*lines, ""])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("bundles", nargs="*", metavar="BUNDLE", default=shipped_names())
    parser.add_argument(
        "--engine", action="append", choices=ENGINES, help="only this; may be repeated"
    )
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--readme", type=Path, default=HERE.parent / "README.md")
    options = parser.parse_args(arguments)
    obstacles = {
        status.engine: "" if status.usable else status.reason for status in device_status()
    }
    asked = options.engine or [name for name in ENGINES if name != CPU]
    engines = [name for name in asked if options.engine or not obstacles[name]]
    left_out = {name: obstacles[name] for name in asked if name not in engines}
    if not engines:
        raise SystemExit("\n".join(f"{name}: {why}" for name, why in left_out.items()))
    about = harness.machine()
    if engines != [CPU]:
        gpu = find_gpu()
        about |= {"gpu": gpu.name, "compute capability": gpu.compute_capability}
        about |= {"driver": gpu.driver, "CUDA": gpu.cuda}
    rows = []
    for name in options.bundles:
        for row in rows_of(named_bundle(name), engines):
            rows.append(row)
            print(json.dumps(row), flush=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(
        json.dumps({"machine": about, "rows": rows, "left out": left_out}, indent=1) + "\n"
    )
    write_section(options.readme, "engines-cuda", section(about, rows, left_out))
    failed = [row for row in rows if not row.get("within")]
    print(f"{len(rows) - len(failed)} of {len(rows)} rows are within tolerance")
    return 1 if failed or not rows else 0


if __name__ == "__main__":
    sys.exit(main())
