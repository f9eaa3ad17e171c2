"""Who may import whom, read from the sources (see CONTRIBUTING.md)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LEAVES = {"revisage.errors", "revisage.manifest", "revisage.alignment", "revisage.strict_json"}

# Import prefixes that a folder must not use anywhere, and those it must not use at import time.
FORBIDDEN: dict[str, tuple[str, ...]] = {
    "sdk": ("torch", "revisage.export", "revisage.training"),
    "kernels": ("torch", "onnxruntime", "cv2", "PIL", "revisage.export", "revisage.training"),
    "export": ("revisage.session", "revisage.video", "revisage.cli"),
    "training": ("revisage.export", "revisage.session", "revisage.engines", "revisage.cli"),
}
# `revisage.X` packages that a folder may import; everything else of ours is out of bounds.
ALLOWED: dict[str, tuple[str, ...]] = {
    "kernels": ("revisage.kernels", "revisage.errors"),
    "export": (
        "revisage.export",
        "revisage.training.models",
        "revisage.bundle",
        "revisage.whole_folder",
        "revisage.engines",
        "revisage.kernels",
        *LEAVES,
    ),
    "training": ("revisage.training", "revisage.kernels", *LEAVES),
}
LAZY_ONLY = ("onnxruntime", "tensorrt", "tensorrt_rtx", "cv2", "nvidia", "av", "PIL", "tifffile")


def sources(folder: str) -> Iterator[Path]:
    yield from sorted((ROOT / folder).rglob("*.py"))


def dotted(path: Path) -> str:
    """Import name of the package that holds a source file."""
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    top = parts.pop(0)
    if parts[-1] == "__init__":
        parts.pop()
    return ".".join(["revisage", *([] if top == "sdk" else [top]), *parts])


def imports(path: Path, *, at_import_time: bool = False) -> Iterator[str]:
    """Full names that a file imports, relative ones resolved."""
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    package = dotted(path)
    if path.name != "__init__.py":
        package = package.rpartition(".")[0]

    def walk(node: ast.AST) -> Iterator[ast.AST]:
        for child in ast.iter_child_nodes(node):
            if at_import_time and isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
                continue
            if (
                at_import_time
                and isinstance(child, ast.If)
                and "TYPE_CHECKING" in ast.unparse(child.test)
            ):
                continue
            yield child
            yield from walk(child)

    for node in walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                up = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*up, *([base] if base else [])])
            for alias in node.names:
                yield f"{base}.{alias.name}" if base else alias.name


def within(name: str, prefixes: tuple[str, ...] | set[str]) -> bool:
    return any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes)


@pytest.mark.parametrize("folder", sorted(FORBIDDEN))
def test_no_forbidden_import(folder: str) -> None:
    # A command that trains or exports may import those packages, inside its own function.
    wrong = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in sources(folder)
        for name in imports(path, at_import_time="cli" in path.parts)
        if within(name, FORBIDDEN[folder])
    ]
    assert not wrong


@pytest.mark.parametrize("folder", sorted(ALLOWED))
def test_only_allowed_packages_of_ours(folder: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in sources(folder)
        for name in imports(path)
        if name.split(".")[0] == "revisage" and not within(name, ALLOWED[folder])
    ]
    assert not wrong


@pytest.mark.parametrize("leaf", sorted(LEAVES))
def test_leaves_import_only_leaves(leaf: str) -> None:
    path = ROOT / "sdk" / f"{leaf.rpartition('.')[2]}.py"
    ours = [n for n in imports(path) if n.split(".")[0] == "revisage" and not within(n, LEAVES)]
    assert not ours
    if leaf != "revisage.alignment":
        assert "numpy" not in {n.split(".")[0] for n in imports(path)}


def test_engines_and_decoders_are_imported_inside_functions() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in sources("sdk")
        for name in imports(path, at_import_time=True)
        if within(name, LAZY_ONLY)
    ]
    assert not wrong


def test_nobody_imports_the_bare_folder_names() -> None:
    folders = {"sdk", "kernels", "export", "training", "tests", "benchmarks"}
    wrong = [
        f"{path.relative_to(ROOT)}: {name}"
        for folder in (*FORBIDDEN, "tests", "benchmarks")
        for path in sources(folder)
        for name in imports(path)
        if name.split(".")[0] in folders and not name.startswith("tests.")
    ]
    assert not wrong


def test_the_reader_of_imports_sees_what_it_should(tmp_path: Path) -> None:
    """The checks above are worth as much as this reader."""
    assert within("torch.nn", ("torch",))
    assert not within("torchvision", ("torch",))
    names = set(imports(ROOT / "training" / "loop.py"))
    assert "torch" in names
    assert "revisage.training.recipe.Run" in names
