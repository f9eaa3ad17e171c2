"""Everything that takes a GPU, in one command: tests, sanitizers, benchmarks.

    python benchmarks/gpu_session.py [--only STEP] [--dry-run]

`make gpu-session` installs what it needs and calls it. A step that fails does not stop those after
it; each writes what it says to `build/gpu-session/STEP.txt`. At the end the command lists the steps
and the files that have changed, which are the results to commit. The exit code is 1 where a step
failed.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOGS = ROOT / "build" / "gpu-session"
PYTHON = sys.executable
REQUIRED = {"REVISAGE_REQUIRE_CUDA": "1"}  # a test that skips for want of a GPU is a failure


@dataclass(frozen=True)
class Step:
    """One command, run from the root of the repository."""

    name: str
    about: str
    command: tuple[str, ...]

    @property
    def shown(self) -> str:
        variables = [f"{name}={value}" for name, value in REQUIRED.items()]
        return shlex.join([*variables, *self.command])


def sanitized(tool: str) -> tuple[str, ...]:
    """The CUDA tests of the kernels under a tool of NVIDIA's compute-sanitizer."""
    tests = (PYTHON, "-m", "pytest", "-q", "-m", "cuda", "-x", "tests/kernels")
    return ("compute-sanitizer", "--tool", tool, "--error-exitcode", "9", *tests)


def kernel_benchmark(name: str) -> Step:
    folder = Path("benchmarks", "kernels")
    out = folder / "results" / f"{name}_cuda.json"
    command = (PYTHON, str(folder / f"bench_{name}_cuda.py"), "--out", str(out))
    return Step(f"bench-{name}", f"{name} against what a user would pick instead", command)


STEPS = (
    Step(
        "doctor",
        "what is installed and runs",
        (PYTHON, "-c", "import sys; from revisage.cli import main; sys.exit(main(['doctor']))"),
    ),
    Step("tests", "every test that takes a GPU", (PYTHON, "-m", "pytest", "-q", "-m", "cuda")),
    Step("memcheck", "reads and writes out of bounds", sanitized("memcheck")),
    Step("racecheck", "races in shared memory", sanitized("racecheck")),
    kernel_benchmark("fft_conv"),
    kernel_benchmark("flow_warp"),
    kernel_benchmark("feature_blend"),
    Step("kernel-table", "their table", (PYTHON, "benchmarks/kernels/report.py")),
    Step(
        "engines",
        "every bundle on every engine and precision, with CUDA graphs",
        (PYTHON, "benchmarks/engines/bench_engines_cuda.py"),
    ),
)


def run(step: Step) -> tuple[int, float]:
    """Exit code and seconds; the output goes to the terminal and to the step's file."""
    start = time.monotonic()
    with (LOGS / f"{step.name}.txt").open("w", encoding="utf-8") as log:
        log.write(f"$ {step.shown}\n")
        try:
            process = subprocess.Popen(
                step.command,
                cwd=ROOT,
                env={**os.environ, **REQUIRED},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        except OSError as error:
            log.write(f"{error}\n")
            print(error)
            return 127, 0.0
        assert process.stdout is not None
        for line in process.stdout:
            log.write(line)
            print(line, end="", flush=True)
    return process.wait(), time.monotonic() - start


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    names = [step.name for step in STEPS]
    parser.add_argument("--only", action="append", choices=names, metavar="STEP", help=str(names))
    parser.add_argument("--dry-run", action="store_true", help="print the commands")
    options = parser.parse_args(arguments)
    steps = [step for step in STEPS if step.name in (options.only or names)]
    if options.dry_run:
        for step in steps:
            print(f"# {step.name}: {step.about}\n{step.shown}")
        return 0
    LOGS.mkdir(parents=True, exist_ok=True)
    ended = []
    for step in steps:
        print(f"== {step.name}: {step.about}", flush=True)
        ended.append((step, *run(step)))
    print("==")
    for step, code, seconds in ended:
        print(f"{step.name:<20} {'done' if code == 0 else f'FAILED ({code})':<13} {seconds:6.0f} s")
    print("\nTo commit:", flush=True)
    subprocess.run(["git", "status", "--short", "benchmarks"], cwd=ROOT, check=False)
    return int(any(code for _, code, _ in ended))


if __name__ == "__main__":
    sys.exit(main())
