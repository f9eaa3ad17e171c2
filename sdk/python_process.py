"""Other processes that run code of ours."""

from __future__ import annotations

import os
import sys

__all__ = ["python_command"]


def python_command(module: str) -> tuple[list[str], dict[str, str]]:
    """Command and environment of a process that calls `main()` of a module.

    It finds the modules that this process finds. The current folder is not searched for any (`-P`),
    since anything may lie there.
    """
    path = os.pathsep.join(folder for folder in sys.path if folder)
    code = f"import sys; from {module} import main; sys.exit(main())"
    return [sys.executable, "-P", "-c", code], {**os.environ, "PYTHONPATH": path}
