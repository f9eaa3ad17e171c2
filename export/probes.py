"""Which probes a certificate states: small inputs that tell the network from anything else.

Two of them: one sample, wider than high, and two different samples, higher than wide. An engine
that swaps height and width, mixes up the samples of a batch, or gives the output of the call before
is then found by its numbers. An input that leaves a network cold finds nothing: a wrinkle segmenter
gives 0 for a smooth picture, and so does an engine that gives nothing at all. So inputs are tried
until every output goes through a range that is large against what is tolerated.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

import torch

from revisage.engines.probe import contrast, expect, probe_array
from revisage.errors import ParityError
from revisage.export.compare import run_torch
from revisage.manifest import Probe, ProbeInput, TensorSpec, Tolerance

__all__ = ["FACES", "KINDS", "make_probes"]

SIDE = 64  # pixels, rounded up to the network's multiple: quick, and larger than its kernels
WANTED = 10.0  # range of an output, in tolerances, with which a probe is taken at once
LEAST = 2.0  # ... below which it would tell nothing
KINDS = ("picture", "lines", "mask", "uniform")  # of pictures; masks stay masks
FACES = ("face",)  # for networks that look for a face: of anything else they make what they like
SEEDS = (7, 17, 27)


def make_probes(
    network: torch.nn.Module,
    input_specs: Sequence[TensorSpec],
    output_specs: Sequence[TensorSpec],
    multiple_of: int,
    tolerances: Mapping[str, Mapping[str, Tolerance]],
    kinds: Sequence[str] = KINDS,
) -> tuple[Probe, Probe]:
    """The probes of a network, with its true outputs.

    Args:
        network: in eval mode.
        tolerances: engine -> precision -> tolerance; a probe has to tell at each of them.
        kinds: of pictures, in the order in which they are tried.

    Raises:
        ParityError: no input makes every output differ from a constant by more than is tolerated.
    """
    high = -(-SIDE // multiple_of) * multiple_of
    wide = high + multiple_of
    limits = {t for precisions in tolerances.values() for t in precisions.values()}
    one, two = (
        _telling_probe(
            network, _candidates(input_specs, sizes, kinds), input_specs, output_specs, limits
        )
        for sizes in ({"N": 1, "H": high, "W": wide}, {"N": 2, "H": wide, "W": high})
    )
    return one, two


def _candidates(
    specs: Sequence[TensorSpec], sizes: Mapping[str, int], kinds: Sequence[str]
) -> Iterator[dict[str, ProbeInput]]:
    for kind in kinds:
        by_colour = {"RGB": kind, "GRAY": kind, "mask": "mask"}
        for seed in SEEDS:
            yield {
                spec.name: ProbeInput(
                    kind=by_colour.get(spec.colour, "uniform"),
                    seed=seed + index,
                    shape=tuple(d if isinstance(d, int) else sizes.get(d, 2) for d in spec.shape),
                )
                for index, spec in enumerate(specs)
            }


def _telling_probe(
    network: torch.nn.Module,
    candidates: Iterator[dict[str, ProbeInput]],
    input_specs: Sequence[TensorSpec],
    output_specs: Sequence[TensorSpec],
    limits: Collection[Tolerance],
) -> Probe:
    """The first candidate that tells enough, else the one that tells most."""
    best, most, blind = None, -1.0, ""
    for made in candidates:
        arrays = {spec.name: probe_array(made[spec.name], spec) for spec in input_specs}
        truth = run_torch(network, arrays, input_specs, output_specs)
        expected = {name: expect(output) for name, output in truth.items()}
        told = {
            name: min(contrast(output, limit) for limit in limits)
            for name, output in expected.items()
        }
        weakest = min(told, key=lambda name: told[name])
        if told[weakest] > most:  # false for NaN
            best, most, blind = Probe(made, expected), told[weakest], weakest
        if most >= WANTED:
            break
    if best is None:
        raise ParityError("the network's outputs are not finite for any probe: train it again")
    if most < LEAST:
        raise ParityError(
            f"output {blind!r} stays within {most:.2g} times the widest tolerance for every "
            "probe: an engine that gives a constant could not be told from a good one; state a "
            "smaller tolerance"
        )
    return best
