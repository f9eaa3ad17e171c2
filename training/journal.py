"""What a run tells while it goes: log.jsonl, pictures, and TensorBoard where it is asked for.

A line of the log has `step` (steps done) and either the means since the last line, or `validation`.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from revisage.errors import MissingExtraError, OutputError
from revisage.training.checkpoint import replaced

__all__ = ["Journal", "read_log"]


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a log; one that was cut while it was written is left out."""
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue
        if isinstance(line, dict) and isinstance(line.get("step"), int):
            lines.append(line)
    return lines


class Journal:
    """Writes into the folder of a run, from the step at which it begins or goes on.

    Lines after that step are taken back first: a resumed run writes them again.

    Args:
        out: folder of the run.
        step: steps done so far.
        tensorboard: write scalars and pictures for TensorBoard too, into `out`/tensorboard.

    Raises:
        MissingExtraError: TensorBoard is asked for and not installed.
    """

    def __init__(self, out: Path, step: int, *, tensorboard: bool) -> None:
        self.out = out
        self.board: Any = None
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise MissingExtraError("train", "[run] tensorboard = true") from error
            self.board = SummaryWriter(str(out / "tensorboard"), purge_step=step + 1)
        path = out / "log.jsonl"
        kept = [line for line in read_log(path) if line["step"] <= step]
        with replaced(path) as file:
            file.write("".join(json.dumps(line) + "\n" for line in kept).encode())
        self.last_figures: dict[str, float] = next(
            (line["validation"] for line in reversed(kept) if "validation" in line), {}
        )
        self.log = path.open("a", encoding="utf-8")

    def means(self, step: int, values: Mapping[str, float]) -> None:
        """What was logged since the last line, averaged."""
        self._write({"step": step, **values})
        self._scalars(step, values)

    def validation(self, step: int, figures: Mapping[str, float]) -> None:
        """Figures on held-out data."""
        self.last_figures = dict(figures)
        self._write({"step": step, "validation": self.last_figures})
        self._scalars(step, {f"validation/{name}": value for name, value in figures.items()})

    def pictures(self, step: int, sheets: Mapping[str, npt.NDArray[np.uint8]]) -> None:
        """Contact sheets [H, W, 3] RGB: pictures/step-000100.png, with names if there are several.

        Raises:
            OutputError: a picture cannot be written.
        """
        for name, sheet in sheets.items():
            suffix = f"-{name}" if len(sheets) > 1 else ""
            path = self.out / "pictures" / f"step-{step:06d}{suffix}.png"
            path.parent.mkdir(exist_ok=True)
            if not cv2.imwrite(str(path), np.ascontiguousarray(sheet[..., ::-1])):
                raise OutputError(f"{path}: cannot be written")
            if self.board is not None:
                self.board.add_image(name, sheet, step, dataformats="HWC")

    def close(self) -> None:
        """Write out what is still in memory."""
        with contextlib.suppress(OSError):  # only a line that `_write` could not write is left
            self.log.close()
        if self.board is not None:
            self.board.close()

    def _write(self, line: Mapping[str, Any]) -> None:
        try:
            self.log.write(json.dumps(line) + "\n")
            self.log.flush()
        except OSError as error:
            path = self.out / "log.jsonl"
            raise OutputError(f"{path}: cannot be written ({error.strerror})") from error

    def _scalars(self, step: int, values: Mapping[str, float]) -> None:
        if self.board is not None:
            for name, value in values.items():
                self.board.add_scalar(name, value, step)
