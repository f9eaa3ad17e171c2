"""Registers, shared memory and spills of every CUDA kernel, as ptxas reports them. Needs nvcc only.

    python benchmarks/kernels/ptxas_report.py [--out TABLE.md] [file.cu ...]

Writes a table in Markdown. Dynamic shared memory is chosen at launch and not part of it.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

KERNELS = Path(__file__).resolve().parents[2] / "kernels"
ARCHITECTURES = (80, 86, 89, 90, 100, 120)
# These need exact arithmetic; the flags are those of kernels/CMakeLists.txt.
EXACT = ("composite", "flow_warp")
ENTRY = re.compile(
    r"Compiling entry function '(\w+)' for 'sm_(\d+)'.*?"
    r"(\d+) bytes spill stores, (\d+) bytes spill loads.*?"
    r"Used (\d+) registers([^\n]*)",
    re.DOTALL,
)


@dataclass(frozen=True)
class Usage:
    """Of one kernel on one architecture."""

    registers: int
    shared_bytes: int  # static
    spilled_bytes: int  # stored and loaded


def compile_all(source: Path) -> tuple[dict[str, dict[int, Usage]], float]:
    """Usage by mangled kernel name and architecture; seconds that nvcc took."""
    command = ["nvcc", "-std=c++17", "-O3", "-Xptxas", "-v", f"-I{KERNELS / 'src'}"]
    command += [f"-I{KERNELS / 'include'}", "-c", str(source)]
    command += [f"-gencode=arch=compute_{a},code=sm_{a}" for a in ARCHITECTURES]
    if source.name.startswith(EXACT):
        command.append("-fmad=false")
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [*command, "-o", f"{folder}/object.o"], capture_output=True, text=True
        )
    if done.returncode != 0:
        raise SystemExit(f"nvcc failed on {source}:\n{done.stderr}")
    usage: dict[str, dict[int, Usage]] = defaultdict(dict)
    for name, architecture, stores, loads, registers, rest in ENTRY.findall(done.stderr):
        shared = re.search(r"(\d+) bytes smem", rest)
        usage[name][int(architecture)] = Usage(
            int(registers), int(shared[1]) if shared else 0, int(stores) + int(loads)
        )
    return usage, time.perf_counter() - start


def readable(names: list[str]) -> list[str]:
    """Demangled, without namespaces, parameters and return type."""
    done = subprocess.run(["c++filt", "-p"], input="\n".join(names), capture_output=True, text=True)
    short = []
    for name in done.stdout.splitlines():
        name = re.sub(r"\((anonymous namespace|unnamed namespace)\)::|revisage::", "", name)
        name = re.sub(r"_GLOBAL__N__\w+::", "", name)
        short.append(re.sub(r"\((int|bool|long)\)", "", name).removeprefix("void "))
    return short


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="write the table here instead of printing it")
    parser.add_argument("files", nargs="*", type=Path)
    options = parser.parse_args()
    files = options.files or sorted((KERNELS / "src").glob("*_gpu.cu"))
    heads = " | ".join(f"sm_{a}" for a in ARCHITECTURES)
    lines = [
        "# What ptxas says of the CUDA kernels",
        "",
        "Registers of a thread on each architecture; `+N` where N bytes are spilled (stored and",
        "loaded, by static count). Written by `python benchmarks/kernels/ptxas_report.py`.",
        "",
        f"| kernel | shared, bytes | {heads} |",
        f"| --- | --- |{' --- |' * len(ARCHITECTURES)}",
    ]
    total = 0.0
    for source in files:
        usage, seconds = compile_all(source)
        total += seconds
        print(f"{source.name}: {len(usage)} kernels, {seconds:.0f} s", file=sys.stderr)
        names = readable(list(usage))
        for name, by_architecture in sorted(zip(names, usage.values(), strict=True)):
            cells = []
            for architecture in ARCHITECTURES:
                one = by_architecture[architecture]
                spill = f" +{one.spilled_bytes}" if one.spilled_bytes else ""
                cells.append(f"{one.registers}{spill}")
            shared = max(one.shared_bytes for one in by_architecture.values())
            lines.append(f"| `{name}` | {shared} | {' | '.join(cells)} |")
    version = subprocess.run(["nvcc", "--version"], capture_output=True, text=True).stdout
    release = re.search(r"release [^\n]*", version)
    lines += ["", f"nvcc {release[0] if release else 'of unknown version'}.", ""]
    print(f"all: {total:.0f} s on one core", file=sys.stderr)
    if options.out:
        options.out.write_text("\n".join(lines), encoding="utf-8")
    else:
        print("\n".join(lines))


if __name__ == "__main__":
    main()
