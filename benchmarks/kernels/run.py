"""Every kernel benchmark, then the table and the plot: `make bench-kernels` runs this.

    python benchmarks/kernels/run.py [--quick]

Writes `results/<suite>.json`, the section of `benchmarks/README.md` between its markers, and
`roofline.png`. A quick run takes few cases and rounds, writes below `build/` and no table.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
SUITES = [
    *("roofs", "fft_conv", "winograd_conv", "flow_warp", "feature_blend", "composite", "backward")
]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    quick = ["--quick"] if parser.parse_args().quick else []
    folder = HERE.parents[1] / "build" / "bench-kernels" if quick else HERE / "results"
    for suite in SUITES:
        print(f"== {suite}", flush=True)
        out = folder / f"{suite}.json"
        command = [sys.executable, "-W", "ignore", str(HERE / f"bench_{suite}.py"), *quick]
        subprocess.run([*command, "--out", str(out)], check=True)
    if not quick:
        subprocess.run([sys.executable, str(HERE / "report.py")], check=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
