"""`revisage doctor`: what works on this machine, what does not, and what to do about it."""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
import sys

__all__ = ["add_parser", "run"]

# Distribution -> what it is for. The first three are needed, the others are extras.
NEEDED = {"numpy": "arrays", "onnxruntime": "CPU engine", "pillow": "photos"}
EXTRAS = {
    "onnxruntime-gpu": "CUDA engine [gpu]",
    "av": "video [video]",
    "torch": "training, export [train]",
    "onnx": "export [export]",
    "cupy-cuda13x": "GPU arrays [gpu]",
    "tensorrt-rtx-cu13": "TensorRT for RTX [tensorrt-rtx]",
}


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "doctor", help="check the installation and say what each device can do"
    )
    parser.set_defaults(run=run)


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _line(mark: str, what: str, text: str) -> None:
    print(f"  [{mark:^4}] {what:<20} {text}")


def _packages() -> int:
    problems = 0
    print("Packages")
    gpu_runtime = _version("onnxruntime-gpu")
    for name, purpose in NEEDED.items():
        found = _version(name)
        if found is None and name == "onnxruntime" and gpu_runtime is not None:
            continue  # the GPU build carries the CPU engine too
        problems += found is None
        _line("ok" if found else "FAIL", name, found or f"missing ({purpose}): pip install {name}")
    for name, purpose in EXTRAS.items():
        found = _version(name)
        _line("ok" if found else "-", name, found or f"not installed; {purpose}")
    if gpu_runtime is not None and _version("onnxruntime") is not None:
        problems += 1
        _line(
            "FAIL",
            "onnxruntime",
            "both onnxruntime and onnxruntime-gpu are installed and overwrite each other: "
            "pip uninstall onnxruntime onnxruntime-gpu, then pip install 'revisage[gpu]'",
        )
    return problems


def _kernels() -> int:
    print("Kernels")
    try:
        from revisage import kernels
    except ImportError as error:
        _line("FAIL", "kernels", f"cannot be imported ({error}): reinstall Revisage")
        return 1
    if kernels.HAS_NATIVE:
        _line("ok", "native", f"built; devices: {', '.join(kernels.available_devices())}")
        _operators()
        return 0
    _line("FAIL", "native", "not built; NumPy runs instead, slowly: reinstall with a C++ compiler")
    return 1


def _operators() -> None:
    try:
        from revisage.engines.onnxruntime import operators_obstacle
    except ImportError:
        return  # what is missing stands under "Packages"
    obstacle = operators_obstacle()
    if obstacle:
        _line("-", "in ONNX Runtime", f"no; networks run their portable graphs: {obstacle}")
    else:
        _line("ok", "in ONNX Runtime", "built; networks on the CPU run our kernels")


def _devices() -> int:
    print("Engines")
    try:
        from revisage.engines import device_status

        statuses = device_status()
    except ImportError as error:
        _line("FAIL", "cpu", f"ONNX Runtime cannot be imported ({error}): pip install onnxruntime")
        return 1
    for status in statuses:
        _line("ok" if status.usable else "-", status.engine, f"{status.device}: {status.reason}")
    return 0


def _models() -> int:
    from revisage.bundle import shipped_bundle, shipped_names
    from revisage.engines import device_status, open_engine
    from revisage.errors import RevisageError

    print("Models")
    names = shipped_names()
    if not names:
        _line("FAIL", "bundles", "none came with this installation: reinstall Revisage")
        return 1
    usable = [status.engine for status in device_status() if status.usable]
    problems = 0
    for name in names:
        try:
            bundle = shipped_bundle(name)
        except RevisageError as error:
            problems += 1
            _line("FAIL", name, str(error))
            continue
        for engine_name in usable:
            for precision in bundle.manifest.tolerances.get(engine_name, {}):
                try:
                    with open_engine(bundle, engine=engine_name, precision=precision) as engine:
                        ours = "".join(f", {n} {who}" for n, who in engine.operators.items())
                        _line("ok", name, f"certified output on {engine_name} {precision}{ours}")
                except RevisageError as error:
                    problems += 1
                    _line("FAIL", name, str(error))
    return problems


def run(args: argparse.Namespace) -> int:
    """Print the report; 0 when everything that is needed works, else 1."""
    version = _version("revisage") or "not installed as a package"
    print(f"Revisage {version}, Python {platform.python_version()} at {sys.executable}")
    print(f"{platform.platform()}, {platform.machine()}")
    problems = _packages() + _kernels()
    devices = _devices()
    problems += devices + (0 if devices else _models())
    print("Everything that is needed works." if not problems else f"{problems} problem(s) found.")
    return 1 if problems else 0
