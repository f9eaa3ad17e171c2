"""A report of tables and contact sheets, as Markdown and as HTML."""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from revisage.errors import OutputError

__all__ = ["Report", "Sheet", "Table", "difference", "interval", "sheet", "write"]

Image = npt.NDArray[np.uint8]


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of text under a title; the first column names the row."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Sheet:
    """A contact sheet: a picture [H, W, 3] uint8 RGB, its file's name and what it shows."""

    name: str
    caption: str
    picture: Image


@dataclasses.dataclass
class Report:
    """What `write` writes."""

    title: str
    text: str
    tables: list[Table] = dataclasses.field(default_factory=list)
    sheets: list[Sheet] = dataclasses.field(default_factory=list)


def interval(values: npt.ArrayLike, *, draws: int = 2000) -> str:
    """Mean with the 95 % interval of a bootstrap over the values: "+3.12 [2.90, 3.35]"."""
    given = np.asarray(values, dtype=np.float64)
    places = np.random.default_rng(1979).integers(len(given), size=(draws, len(given)))
    low, high = np.percentile(given[places].mean(axis=1), (2.5, 97.5))
    return f"{given.mean():+.2f} [{low:+.2f}, {high:+.2f}]"


def difference(result: Image, target: Image) -> Image:
    """Four times the difference, around middle gray."""
    signed = 4 * (result.astype(np.int16) - target.astype(np.int16)) + 128
    return signed.clip(0, 255).astype(np.uint8)


def sheet(rows: Sequence[Sequence[Image]]) -> Image:
    """Pictures of one size in rows, white lines between them."""
    lines = []
    for row in rows:
        framed = [np.pad(image, ((0, 4), (0, 4), (0, 0)), constant_values=255) for image in row]
        lines.append(np.concatenate(framed, axis=1))
    return np.concatenate(lines, axis=0)


def write(report: Report, folder: Path) -> None:
    """Write report.md, report.html and the sheets as JPEG.

    Raises:
        OutputError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for item in report.sheets:
            done, content = cv2.imencode(
                ".jpg", item.picture[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95]
            )
            if not done:
                raise OutputError(f"{item.name}: OpenCV cannot encode {item.picture.shape}")
            (folder / f"{item.name}.jpg").write_bytes(content.tobytes())
        (folder / "report.md").write_text(_markdown(report), encoding="utf-8")
        (folder / "report.html").write_text(_html(report), encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written ({error.strerror})") from error


def _markdown(report: Report) -> str:
    parts = [f"# {report.title}", report.text]
    for table in report.tables:
        lines = ["| " + " | ".join(row) + " |" for row in (table.columns, *table.rows)]
        lines.insert(1, "| --- |" + " --: |" * (len(table.columns) - 1))
        parts += [f"## {table.title}", "\n".join(lines)]
        parts += [table.note] if table.note else []
    for item in report.sheets:
        parts += [f"## {item.caption}", f"![{item.caption}]({item.name}.jpg)"]
    return "\n\n".join(parts) + "\n"


def _html(report: Report) -> str:
    def text(value: str) -> str:
        return html.escape(value)

    parts = [f"<h1>{text(report.title)}</h1>", f"<p>{text(report.text)}</p>"]
    for table in report.tables:
        head = "".join(f"<th>{text(name)}</th>" for name in table.columns)
        body = "".join(
            "<tr>" + "".join(f"<td>{text(cell)}</td>" for cell in row) + "</tr>\n"
            for row in table.rows
        )
        parts += [f"<h2>{text(table.title)}</h2>", f"<table><tr>{head}</tr>\n{body}</table>"]
        parts += [f"<p>{text(table.note)}</p>"] if table.note else []
    for item in report.sheets:
        image = f'<img src="{text(item.name)}.jpg" alt="{text(item.caption)}">'
        parts += [f"<h2>{text(item.caption)}</h2>", image]
    style = (
        "body{font-family:sans-serif;max-width:90em;margin:2em auto}"
        "td,th{padding:.2em .8em;text-align:right}td:first-child,th:first-child{text-align:left}"
    )
    return (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{text(report.title)}'
        f"</title><style>{style}</style>\n" + "\n".join(parts) + "\n</html>\n"
    )
