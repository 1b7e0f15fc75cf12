"""The dependency direction of the architecture, and that importing Gossamer is cheap."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src" / "gossamer"

LEVELS = [
    {"errors", "site", "record", "whole_file"},
    {
        "budget",
        "graph",
        "task",
        "mask",
        "ablation",
        "metric",
        "statistics",
        "hypotheses",
        "set_overlap",
        "variance_components",
    },
    {"circuit", "claim"},
    {"scores", "evidence"},
    {"subject", "registry", "verdict"},
    {"corpora", "models", "tasks", "formats", "replacement"},
    {"train", "discover", "verify", "compare", "explain", "show"},
    {"commands"},
    {"cli"},
]
LEVEL = {name: i for i, names in enumerate(LEVELS) for name in names}
FOLDERS = {p.name for p in SRC.iterdir() if (p / "__init__.py").is_file()}
# Nouns of one level may use each other only where listed; corpora and tasks sit beside models, which reads both.
SIDEWAYS = {
    ("budget", "errors"),
    ("models", "corpora"),
    ("formats", "models"),
    ("tasks", "formats"),
    ("site", "errors"),
    ("record", "errors"),
    ("whole_file", "errors"),
    ("hypotheses", "statistics"),
    ("set_overlap", "hypotheses"),
    ("set_overlap", "statistics"),
    ("variance_components", "statistics"),
}


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("gossamer"):
            found |= {node.module.split(".")[1]} if "." in node.module else {a.name for a in node.names}
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("gossamer.")}
    return found & set(LEVEL)


@pytest.mark.parametrize("path", sorted(SRC.rglob("*.py")), ids=lambda p: str(p.relative_to(SRC)))
def test_imports_point_down(path: Path) -> None:
    own = path.relative_to(SRC).parts[0].removesuffix(".py")
    if own in ("__init__", "__main__"):
        return
    assert own in LEVEL, f"{own} has no level: place it in LEVELS"
    for other in imports(path) - {own}:
        assert LEVEL[other] < LEVEL[own] or (own, other) in SIDEWAYS, f"{own} may not import {other}"


def test_show_imports_no_model() -> None:
    for path in (SRC / "show").rglob("*.py"):
        assert not imports(path) - {"show", "errors", "whole_file"}, path
        assert "torch" not in path.read_text()


def test_import_and_help_load_no_torch() -> None:
    code = "import sys, gossamer, gossamer.cli.main; assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_public_names_resolve_and_typos_do_not() -> None:
    import gossamer

    for name in gossamer.__all__:
        assert getattr(gossamer, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Circiut'"):
        _ = gossamer.Circiut


def test_no_print_and_no_global_seed_in_the_library() -> None:
    for path in SRC.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                call = ast.unparse(node.func)
                assert call != "print", path
                assert call not in ("torch.manual_seed", "np.random.seed", "random.seed"), path
