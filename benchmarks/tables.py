"""How results are written into `README.md`: numbers, spreads, requirements, the machine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from harness import Requirement, Spread


def number(value: float) -> str:
    """Three digits."""
    return f"{value:#.3g}".rstrip(".") if 1e-3 <= abs(value) < 1e3 else f"{value:.2g}"


def spread_text(spread: Spread) -> str:
    return f"{number(spread.median)} ({number(spread.low)} to {number(spread.high)})"


def requirement_rows(lines: Iterable[Requirement]) -> Iterator[str]:
    """The requirements as a table."""
    yield "| what | required | measured | holds | decided by |"
    yield "| --- | --- | --- | --- | --- |"
    yield from map(requirement_row, lines)


def requirement_row(line: Requirement) -> str:
    sign = "at most" if line.at_most else "at least"
    holds = "yes" if line.holds else "**no**"
    measured = "nothing" if line.measured is None else spread_text(line.measured)
    return f"| {line.statement} | {sign} {line.limit:g} | {measured} | {holds} | {line.where} |"


def machine_name(about: Mapping[str, Any]) -> str:
    name = str(about.get("processor", about.get("device", "an unknown machine")))
    if "family and model" in about:
        name += " (family {}, model {})".format(*str(about["family and model"]).split(", "))
    return name + (f", {about['cores']} cores" if "cores" in about else "")


def machine_text(about: Mapping[str, Any]) -> str:
    named = ("processor", "device", "cores", "family and model")
    rest = ", ".join(f"{k} {v}" for k, v in about.items() if k not in named)
    return f"{machine_name(about)} ({rest})"


def write_section(readme: Path, name: str, text: str) -> None:
    """Replace what stands between `<!-- name: begin -->` and `<!-- name: end -->`."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, rest = readme.read_text(encoding="utf-8").split(begin)
    after = rest.split(end)[1]
    readme.write_text(f"{before}{begin}\n\n{text}\n{end}{after}", encoding="utf-8")
