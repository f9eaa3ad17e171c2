"""A report of tables and contact sheets, as Markdown, as HTML and as JSON."""

from __future__ import annotations

import dataclasses
import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from revisage.errors import OutputError

__all__ = ["Report", "Section", "Sheet", "Table", "difference", "gray", "sheet", "write"]

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
class Section:
    """One part of a report."""

    title: str
    text: str
    tables: list[Table] = dataclasses.field(default_factory=list)
    remarks: list[str] = dataclasses.field(default_factory=list)
    sheets: list[Sheet] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Report:
    """What `write` writes: the first section is the overview; `figures` is for programs."""

    title: str
    sections: list[Section] = dataclasses.field(default_factory=list)
    figures: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def difference(result: Image, target: Image) -> Image:
    """Four times the difference, around middle gray."""
    signed = 4 * (result.astype(np.int16) - target.astype(np.int16)) + 128
    return signed.clip(0, 255).astype(np.uint8)


def gray(mask: npt.NDArray[Any]) -> Image:
    """A mask [H, W] in 0..1 as a picture."""
    levels = np.rint(255 * np.clip(mask.astype(np.float32), 0, 1)).astype(np.uint8)
    return np.repeat(levels[:, :, None], 3, axis=2)


def sheet(rows: Sequence[Sequence[Image]]) -> Image:
    """Pictures of one size in rows, white lines between them."""
    lines = []
    for row in rows:
        framed = [np.pad(image, ((0, 4), (0, 4), (0, 0)), constant_values=255) for image in row]
        lines.append(np.concatenate(framed, axis=1))
    return np.concatenate(lines, axis=0)


def write(report: Report, folder: Path) -> None:
    """Write report.md, report.html, figures.json and the sheets as JPEG.

    Raises:
        OutputError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for item in (item for section in report.sections for item in section.sheets):
            done, content = cv2.imencode(
                ".jpg", item.picture[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95]
            )
            if not done:
                raise OutputError(f"{item.name}: OpenCV cannot encode {item.picture.shape}")
            (folder / f"{item.name}.jpg").write_bytes(content.tobytes())
        figures = json.dumps(report.figures, indent=2, ensure_ascii=False) + "\n"
        (folder / "figures.json").write_text(figures, encoding="utf-8")
        (folder / "report.md").write_text(markdown(report), encoding="utf-8")
        (folder / "report.html").write_text(_html(report), encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written ({error.strerror})") from error


def markdown(report: Report, *, sheets: bool = True) -> str:
    """The report as Markdown, with or without its contact sheets."""
    parts = [f"# {report.title}"]
    for section in report.sections:
        parts += [f"## {section.title}"] if section.title else []
        parts += [section.text] if section.text else []
        for table in section.tables:
            lines = ["| " + " | ".join(row) + " |" for row in (table.columns, *table.rows)]
            lines.insert(1, "| --- |" + " --: |" * (len(table.columns) - 1))
            parts += [f"### {table.title}", "\n".join(lines)]
            parts += [table.note] if table.note else []
        parts += ["\n".join(f"- {remark}" for remark in section.remarks)] * bool(section.remarks)
        for item in section.sheets if sheets else ():
            parts += [f"### {item.caption}", f"![{item.caption}]({item.name}.jpg)"]
    return "\n\n".join(parts) + "\n"


def _html(report: Report) -> str:
    def text(value: str) -> str:
        return html.escape(value)

    parts = [f"<h1>{text(report.title)}</h1>"]
    for section in report.sections:
        parts += [f"<h2>{text(section.title)}</h2>"] if section.title else []
        parts += [f"<p>{text(block)}</p>" for block in section.text.split("\n\n") if block]
        for table in section.tables:
            head = "".join(f"<th>{text(name)}</th>" for name in table.columns)
            body = "".join(
                "<tr>" + "".join(f"<td>{text(cell)}</td>" for cell in row) + "</tr>\n"
                for row in table.rows
            )
            parts += [f"<h3>{text(table.title)}</h3>", f"<table><tr>{head}</tr>\n{body}</table>"]
            parts += [f"<p>{text(table.note)}</p>"] if table.note else []
        items = "".join(f"<li>{text(remark)}</li>" for remark in section.remarks)
        parts += [f"<ul>{items}</ul>"] if items else []
        for item in section.sheets:
            image = f'<img src="{text(item.name)}.jpg" alt="{text(item.caption)}">'
            parts += [f"<h3>{text(item.caption)}</h3>", image]
    style = (
        "body{font-family:sans-serif;max-width:90em;margin:2em auto}"
        "td,th{padding:.2em .8em;text-align:right}td:first-child,th:first-child{text-align:left}"
        "img{max-width:100%}"
    )
    return (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{text(report.title)}'
        f"</title><style>{style}</style>\n" + "\n".join(parts) + "\n</html>\n"
    )
