"""Engines of TensorRT for RTX from the graphs of paper size, built on the CPU.

    python benchmarks/engines/build_paper_graphs.py [--only NAME] [--reuse]

Exports every network with seeded weights (into `build/paper-graphs/`), builds one engine for all
of `CARDS`, and writes `paper_graphs.json` and the table of `benchmarks/README.md`. With `--only`
the other rows stay as they were measured on this machine. Every export and every build has a
process of its own; the peak memory is that of the whole process that builds. Nothing is run: what
these engines compute on a GPU, and how fast, this does not tell.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

from revisage.engine_benchmark import peak_memory  # noqa: E402
from revisage.engines.profile import BATCH, Profile, Side  # noqa: E402
from revisage.engines.tensorrt import build_engine  # noqa: E402
from revisage.errors import RevisageError  # noqa: E402

FOLDER = HERE.parents[1] / "build" / "paper-graphs"
RESULTS = HERE / "paper_graphs.json"
ENGINE = "tensorrt-rtx"
CARDS = ("8.6", "8.9", "12.0")  # RTX 30, 40 and 50

MEGA, MIBI = 1e6, 1 << 20


@dataclass(frozen=True)
class Graph:
    """One engine of the table."""

    title: str
    network: str  # row of `networks.py`
    sides: tuple[Side, Side, Side]  # smallest, usual and largest
    batch: tuple[int, int, int] = BATCH


def fixed(side: Side) -> tuple[Side, Side, Side]:
    return (side, side, side)


GRAPHS = (
    Graph("LaMa, 18 blocks", "lama", fixed(512)),
    Graph("LaMa, 18 blocks", "lama", fixed((768, 512))),
    Graph("LaMa, 18 blocks", "lama", (256, 512, 1024), (1, 1, 8)),
    Graph("UNet++ (ResNeXt-50)", "unetpp", fixed(512)),
    Graph("StyleRetoucher", "style_retoucher_paper", fixed(1024)),
    Graph("Masked CycleGAN", "unmask_paper", fixed(256)),
    Graph("GFRNet", "gfrnet_paper", fixed(256)),
)


def export(network: str, path: Path) -> None:
    """Write the graph that the exporter of a network makes; its parity gate is not waited for."""
    import tempfile

    from networks import ROWS, exporter_call, weights_of

    from revisage.export.onnx_from_torch import onnx_from_torch

    (row,) = (row for row in ROWS if row.name == network)
    with tempfile.TemporaryDirectory() as folder:
        arguments, options = exporter_call(row, weights_of(row, Path(folder))[0])
        path.write_bytes(onnx_from_torch(*arguments, **options).SerializeToString())


def profile_of(model: bytes, graph: Graph) -> Profile:
    """The shapes to build for; the graph's inputs name their sizes as manifests do."""
    import onnx

    sizes = []
    for count, side in zip(graph.batch, graph.sides, strict=True):
        height, width = (side, side) if isinstance(side, int) else side
        sizes.append({"N": count, "H": height, "W": width})
    shapes = {}
    for value in onnx.load_from_string(model).graph.input:
        dimensions = value.type.tensor_type.shape.dim
        smallest, usual, largest = (
            tuple(known[d.dim_param] if d.dim_param else d.dim_value for d in dimensions)
            for known in sizes
        )
        shapes[value.name] = (smallest, usual, largest)
    return Profile(shapes)


def build(graph: Graph, path: Path) -> dict[str, Any]:
    """What building came to; runs in a process of its own."""
    model = path.read_bytes()
    result: dict[str, Any] = {
        "network": graph.title,
        "sides": [side if isinstance(side, int) else list(side) for side in graph.sides],
        "batch": list(graph.batch),
        "cards": list(CARDS),
        "graph bytes": len(model),
    }
    try:
        report = build_engine(
            model,
            engine=ENGINE,
            profile=profile_of(model, graph),
            compute_capabilities=CARDS,
        ).report
    except RevisageError as error:
        return {**result, "builds": False, "error": str(error)}
    return {
        **result,
        "builds": True,
        "engine": f"{ENGINE} {report.library_version}",
        "layers": report.layers,
        "seconds": round(report.seconds, 2),
        "engine bytes": report.engine_bytes,
        "weights bytes": report.weights_bytes,
        "activation bytes": report.activation_bytes,
        "peak memory bytes": peak_memory(),
        "warnings": list(report.warnings),
    }


def alone(work: Callable[..., Any], *arguments: Any) -> Any:
    """Run in a process that does nothing else."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def sides_text(sides: Sequence[Any]) -> str:
    texts = [f"{s[0]}x{s[1]}" if isinstance(s, list) else f"{s}x{s}" for s in sides]
    return texts[1] if texts[0] == texts[2] else f"{texts[0]} to {texts[2]}"


def table(results: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield (
        "| network | height x width | batch | builds | layers | seconds | graph, MB | engine, MB "
        "| GPU memory of one run of the largest batch, MiB | peak memory of the build, MiB |"
    )
    yield "|" + " --- |" * 10
    for result in results:
        cells = [
            result["network"],
            sides_text(result["sides"]),
            f"{result['batch'][0]} to {result['batch'][2]}",
        ]
        graph = f"{result['graph bytes'] / MEGA:.0f}"
        if result["builds"]:
            cells += [
                "yes",
                str(result["layers"]),
                f"{result['seconds']:.1f}",
                graph,
                f"{result['engine bytes'] / MEGA:.0f}",
                f"{(result['weights bytes'] + result['activation bytes']) / MIBI:.0f}",
                f"{result['peak memory bytes'] / MIBI:.0f}",
            ]
        else:
            cells += [f"no: {result['error']}", "", "", graph, "", "", ""]
        yield f"| {' | '.join(cells)} |"


def earlier(about: Mapping[str, Any]) -> dict[tuple[str, str], Any]:
    """What was measured before, by title and size; SystemExit where that was another machine."""
    found = json.loads(RESULTS.read_text())
    if found["machine"] != about:
        raise SystemExit(f"{RESULTS.name} comes from another machine: measure all networks")
    return {(result["network"], sides_text(result["sides"])): result for result in found["graphs"]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", default="", metavar="NAME", help="a network of networks.py")
    parser.add_argument("--readme", type=Path, default=HERE.parent / "README.md")
    parser.add_argument("--reuse", action="store_true", help="take graphs that are there already")
    options = parser.parse_args()
    from harness import machine
    from tables import machine_text, write_section

    FOLDER.mkdir(parents=True, exist_ok=True)
    about = machine()
    results = earlier(about) if options.only else {}
    exported = set()
    for graph in GRAPHS:
        if options.only not in ("", graph.network):
            continue
        path = FOLDER / f"{graph.network}.onnx"
        if graph.network not in exported and not (options.reuse and path.is_file()):
            alone(export, graph.network, path)
        exported.add(graph.network)
        result = alone(build, graph, path)
        results[graph.title, sides_text(result["sides"])] = result
        print(json.dumps(result, indent=1), flush=True)
    rows = list(results.values())
    RESULTS.write_text(json.dumps({"machine": about, "graphs": rows}, indent=1) + "\n")
    cards = ", ".join(CARDS)
    text = [
        f"Measured on {machine_text(about)}; engines for the compute capabilities {cards}.",
        "",
        *table(rows),
        "",
    ]
    write_section(options.readme, "paper-graphs", "\n".join(text))
    return 0


if __name__ == "__main__":
    sys.exit(main())
