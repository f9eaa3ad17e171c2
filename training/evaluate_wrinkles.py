"""Figures of the wrinkle segmenter on held-out portraits.

    python -m revisage.training.evaluate_wrinkles --portraits FOLDER... [--split val] [--seeds 3]

Draws wrinkles over every portrait of the split with several seeds, and prints how well the network
finds them (`revisage.training.tasks.wrinkle_segmenter.segmentation_figures` says what is counted).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from revisage.training.data.wrinkle_crops import WrinklePool
from revisage.training.models.wrinkle_segmenter import CompactSegmenter
from revisage.training.tasks.wrinkle_segmenter import segmentation_figures

__all__ = ["main"]

_WEIGHTS = Path(__file__).parent / "weights" / "wrinkle_segmenter.safetensors"


def main(arguments: list[str] | None = None) -> int:
    """Print the figures of every seed and their mean, as JSON lines."""
    parser = argparse.ArgumentParser(
        prog="revisage.training.evaluate_wrinkles", description=__doc__
    )
    parser.add_argument("--weights", type=Path, default=_WEIGHTS)
    parser.add_argument("--portraits", type=Path, nargs="+", required=True, metavar="FOLDER")
    parser.add_argument("--split", default="val")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="folder for a contact sheet")
    given = parser.parse_args(arguments)
    if not given.weights.is_file():  # an installed wheel has no weights, only bundles
        parser.error(f"no weights at {given.weights}: name a safetensors file with --weights")
    network = CompactSegmenter().eval()
    network.load_state_dict(load_file(given.weights))
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    faces = WrinklePool(given.portraits, given.split).faces
    if given.out is not None:
        given.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for seed in range(given.seeds):
        rows.append(segmentation_figures(network, faces, 1000 + seed, given.out))
        print(json.dumps({"seed": 1000 + seed, "faces": len(faces), **rows[-1]}))
    mean = {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}
    print(json.dumps({"mean": mean}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
