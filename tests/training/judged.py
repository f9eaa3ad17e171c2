"""What an evaluation found of one face."""

from __future__ import annotations

from revisage.training.evaluation.study import Findings


def one_face(findings: Findings, kind: str) -> dict[str, dict[str, float]]:
    """Figures of the first case of a kind: measure -> way -> figure."""
    row = findings.tallies[kind].rows[0]
    return {key: dict(ways) for key, ways in row.figures.items()}  # type: ignore[arg-type]
