"""Every network on every engine and precision, beside torch eager.

    python benchmarks/engines/bench_engines.py [NAME...] [--quick] [--reuse]

Takes the bundle that ships, or exports one (into `build/bench-engines/`), opens each engine that
its manifest states, and times those of the CPU in turns with torch eager, on one core and on all: a
result file for each. The parity of an engine is what the certificate states: the error against
float32 torch over the reference pictures. The allocator's settings (`harness.ENVIRONMENT`) favour
torch, which makes its outputs afresh.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]
import harness  # noqa: E402
from harness import Case, Farm, Inputs, Work  # noqa: E402
from networks import ROWS, Row, bundle_of, network_of, weights_of  # noqa: E402

from revisage.bundle import Bundle  # noqa: E402
from revisage.engines import open_engine  # noqa: E402
from revisage.engines.onnxruntime import usable_cores  # noqa: E402
from revisage.engines.probe import probe_array  # noqa: E402
from revisage.engines.profile import Profile  # noqa: E402
from revisage.engines.tensorrt import build_engine  # noqa: E402
from revisage.errors import RevisageError  # noqa: E402
from revisage.export.compare import run_torch  # noqa: E402
from revisage.manifest import ProbeInput  # noqa: E402

BUNDLES = HERE.parents[1] / "build" / "bench-engines"
EAGER, CHANNELS_LAST = "torch eager", "torch eager, channels last"
ONNXRUNTIME = "onnxruntime-cpu"
RTX, CARD = "tensorrt-rtx", "8.9"  # RTX 40
BUILT_ONLY, NOT_RUN = "built, not run", "not run here"
KERNELS = ", our kernels"  # behind a precision: the operators of the graph are native
PAPER_ROUNDS = 3  # at most, for networks of paper size: a call of theirs takes seconds


@dataclass(frozen=True)
class EngineRow:
    """What one engine at one precision made of a network."""

    engine: str
    precision: str
    builds: bool
    note: str  # why not, or why it was not run
    seconds: float | None  # to build or load it
    megabytes: float | None  # of the engine, or of the graph that it loads
    max_abs: float | None  # against float32 torch, over the reference pictures
    tolerance: float | None


@dataclass(frozen=True)
class NetworkReport:
    """One result file."""

    name: str
    operation: str
    size: str
    side: int  # of the pictures that were timed
    weights: str  # "trained" or "random"
    convolutional: bool
    machine: Mapping[str, str | int]
    settings: Mapping[str, Any]
    case: Case  # first torch eager, then ONNX Runtime on the CPU at its precisions
    engines: list[EngineRow] = field(default_factory=list)

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(dataclasses.asdict(self), indent=1, allow_nan=False)
        path.write_text(text + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> NetworkReport:
        raw = json.loads(path.read_text(encoding="utf-8"))
        case = Case.of_json(raw.pop("case"))
        engines = [EngineRow(**line) for line in raw.pop("engines")]
        return cls(**raw, case=case, engines=engines)


def inputs_of(bundle: Bundle, side: int, batch: int = 1) -> dict[str, np.ndarray]:
    """Inputs of this side, of the kinds that the certificate's probes are."""
    sizes = {"N": batch, "H": side, "W": side}
    kinds = {name: probe.kind for name, probe in bundle.certificate.probes[0].inputs.items()}
    made = {}
    for seed, spec in enumerate(bundle.manifest.inputs):
        shape = tuple(d if isinstance(d, int) else sizes[d] for d in spec.shape)
        made[spec.name] = probe_array(ProbeInput(kinds[spec.name], 100 + seed, shape), spec)
    return made


def joined(outputs: Mapping[str, np.ndarray]) -> np.ndarray:
    return np.concatenate([outputs[name].reshape(-1) for name in sorted(outputs)])


# --- contenders, each in a worker ----------------------------------------------------------------


def onnxruntime(
    folder: Path, precision: str, operators: str, inputs: Inputs, threads: int
) -> Mapping[str, Work]:
    engine = open_engine(folder, "cpu", precision=precision, threads=threads, operators=operators)
    return {"": Work(lambda: engine.infer(inputs), lambda: joined(engine.infer(inputs)))}


def torch_eager(
    row: Row, folder: Path, channels_last: bool, inputs: Inputs, threads: int
) -> Mapping[str, Work]:
    torch.set_num_threads(threads)
    manifest = bundle_of(row, folder, reuse=True).manifest
    network = network_of(row, folder)
    tensors = [torch.from_numpy(inputs[spec.name]) for spec in manifest.inputs]
    if channels_last:
        for weight in network.parameters():
            if weight.ndim == 4:  # those of StyleGAN2 have five dimensions, and no such layout
                weight.data = weight.data.contiguous(memory_format=torch.channels_last)
        tensors = [
            t.contiguous(memory_format=torch.channels_last) if t.ndim == 4 else t for t in tensors
        ]

    def run() -> object:
        with torch.inference_mode():
            return network(*tensors)

    def result() -> np.ndarray:
        return joined(run_torch(network, inputs, manifest.inputs, manifest.outputs))

    return {"": Work(run, result)}


# --- one network ---------------------------------------------------------------------------------


def engine_rows(bundle: Bundle) -> list[EngineRow]:
    """Every engine and precision that the manifest states; what runs here is opened."""
    rows = []
    for engine, precisions in bundle.manifest.tolerances.items():
        if engine == RTX:
            continue  # built below, at every precision that there is a graph for
        for precision, tolerance in precisions.items():
            measured = bundle.certificate.errors.get(engine, {}).get(precision)
            seconds, note = None, NOT_RUN
            if engine == ONNXRUNTIME:
                start, note = time.perf_counter(), ""
                try:
                    open_engine(bundle, "cpu", precision=precision).deactivate()
                    seconds = time.perf_counter() - start
                except RevisageError as error:
                    note = str(error)
            rows.append(
                EngineRow(
                    engine,
                    precision,
                    seconds is not None,
                    note,
                    seconds and round(seconds, 4),
                    round(len(bundle.read_graph(precision)) / 1e6, 3),
                    max(e["max_abs"] for e in measured.values()) if measured else None,
                    tolerance.max_abs,
                )
            )
    return rows


def rtx_rows(bundle: Bundle) -> Iterator[EngineRow]:
    """TensorRT for RTX builds for a card without having it; what it computes there stays open."""
    stated = bundle.manifest.tolerances.get(RTX, {})
    for precision in stated or ["fp32"]:
        tolerance = stated.get(precision)
        note, seconds, megabytes = BUILT_ONLY, None, None
        try:
            built = build_engine(
                bundle.read_graph(precision),
                engine=RTX,
                profile=Profile.of(bundle.manifest),
                compute_capabilities=[CARD],
            ).report
            seconds, megabytes = round(built.seconds, 2), round(built.engine_bytes / 1e6, 3)
        except RevisageError as error:
            note = " ".join(str(error).split())
        yield EngineRow(
            f"{RTX} {CARD}",
            precision,
            seconds is not None,
            note,
            seconds,
            megabytes,
            None,
            tolerance.max_abs if tolerance else None,
        )


def contenders(row: Row, bundle: Bundle, folder: Path) -> dict[str, harness.Build]:
    """Torch eager first, so that ratios are how many times as fast as it the others are."""
    builds: dict[str, harness.Build] = {EAGER: partial(torch_eager, row, folder, False)}
    with open_engine(bundle, "cpu") as engine:
        native = "native" in engine.operators.values()
    for precision in bundle.manifest.tolerances[ONNXRUNTIME]:
        builds[precision] = partial(onnxruntime, bundle.path, precision, "portable")
        if native:
            builds[precision + KERNELS] = partial(onnxruntime, bundle.path, precision, "native")
    if bundle.manifest.size != "paper":  # whose calls take seconds
        builds[CHANNELS_LAST] = partial(torch_eager, row, folder, True)
    return builds


def bench(
    row: Row, folder: Path, *, rounds: int, reuse: bool, threads: Sequence[int]
) -> list[NetworkReport]:
    """Export, open and time one network; a report for each number of threads."""
    bundle = bundle_of(row, folder, reuse=reuse)
    manifest = bundle.manifest
    side = row.side or manifest.working_size
    inputs = inputs_of(bundle, side)
    truth = joined(run_torch(network_of(row, folder), inputs, manifest.inputs, manifest.outputs))
    if manifest.size == "paper":
        rounds = min(rounds, PAPER_ROUNDS)
    builds = contenders(row, bundle, folder)
    farm = Farm(builds, rounds=rounds, seconds=0.4)
    try:
        cases = [
            farm.measure(
                f"{row.name} {side}",
                inputs,
                threads=count,
                bytes_moved=0,
                operations=0,
                error=lambda _, found: float(np.abs(found - truth).max()),
            )
            for count in threads
        ]
    finally:
        farm.stop()
    engines = [*engine_rows(bundle), *rtx_rows(bundle)]
    return [
        NetworkReport(
            row.name,
            manifest.operation,
            manifest.size,
            side,
            weights_of(row, folder)[1],
            row.convolutional,
            harness.machine(),
            {"rounds": rounds, "environment of every contender": harness.ENVIRONMENT},
            case,
            engines,
        )
        for case in cases
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    names = [row.name for row in ROWS]
    parser.add_argument("networks", nargs="*", metavar="NAME", help=f"of {', '.join(names)}")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    parser.add_argument("--rounds", type=int, default=7, help="quiet rounds per network")
    parser.add_argument("--quick", action="store_true", help="3 rounds; results below build/")
    parser.add_argument(
        "--reuse", action="store_true", help="take bundles that were exported before"
    )
    parser.add_argument("--export-only", action="store_true", help="export, and measure nothing")
    parser.add_argument(
        "--threads", type=int, nargs="+", default=sorted({1, usable_cores()}), metavar="N"
    )
    options = parser.parse_args(arguments)
    unknown = sorted(set(options.networks) - set(names))
    if unknown:
        parser.error(f"no row for {', '.join(unknown)}")
    refused = []
    for row in ROWS:
        if options.networks and row.name not in options.networks:
            continue
        print(f"== {row.name}", flush=True)
        try:
            if options.export_only:
                bundle_of(row, BUNDLES, reuse=options.reuse)
                continue
            reports = bench(
                row,
                BUNDLES,
                rounds=3 if options.quick else options.rounds,
                reuse=options.reuse,
                threads=options.threads,
            )
        except RevisageError as error:
            refused.append(row.name)
            print(f"refused: {error}", file=sys.stderr)
            continue
        out = BUNDLES / "results" if options.quick else options.out
        for report in reports:
            harness.print_case(report.case)
            threads = harness.on_threads(report.case.threads).replace(" ", "_")
            report.write(out / f"{row.name}_{threads}.json")
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main())
