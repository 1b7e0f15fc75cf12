"""The Python in the README and the docs runs; the commands in them exist; their links point at files."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "AGENTS.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


SNIPPETS = [(page, i, code) for page in PAGES for i, code in enumerate(blocks(page, "python"))]
COMMANDS = sorted({
    line.split("#")[0].strip()
    for page in PAGES for block in blocks(page, "bash") for line in block.splitlines() if line.startswith("gossamer ")
})  # fmt: skip


# A process of its own for every snippet, forked from one that has imported other people's libraries and none of ours.
SERVER = """
import os, sys, traceback
import numpy, torch, transformers
for line in sys.stdin:
    place = line.rstrip("\\n")
    child = os.fork()
    if not child:
        os.chdir(place)
        errors = os.open("stderr.txt", os.O_WRONLY | os.O_CREAT)
        os.dup2(errors, 2)
        os.dup2(errors, 1)
        try:
            exec(compile(open("snippet.py").read(), "snippet.py", "exec"), {"__name__": "__main__"})
            sys.stdout.flush()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def server() -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:  # fmt: skip
        yield process
        assert process.stdin
        process.stdin.close()


@pytest.mark.parametrize(("page", "i", "code"), SNIPPETS, ids=[f"{p.name}-{i}" for p, i, _ in SNIPPETS])
def test_python_in_the_docs_runs(
    page: Path, i: int, code: str, tmp_path: Path, server: subprocess.Popen[str]
) -> None:  # fmt: skip
    (tmp_path / "snippet.py").write_text(code)
    assert server.stdin
    assert server.stdout
    server.stdin.write(f"{tmp_path}\n")
    server.stdin.flush()
    assert server.stdout.readline() == "0\n", (tmp_path / "stderr.txt").read_text()[-2000:]


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_in_the_docs_parse(command: str) -> None:
    """Every option of every command line shown exists: --help after it does not run it, but rejects unknown options."""
    from typer.testing import CliRunner

    from gossamer.cli.main import app

    result = CliRunner().invoke(app, [*shlex.split(command)[1:], "--help"])
    assert result.exit_code == 0, result.output
    words = shlex.split(command)[1:]
    group = words[0] in ("bridge", "discover", "explain", "figure", "import", "prove", "sweep", "tasks")
    names = [w for w in words[: 2 if group else 1] if w[0] != "-"]
    shown = CliRunner().invoke(app, [*names, "--help"], env={"COLUMNS": "200"}).output
    for option in (w for w in words if w.startswith("--")):
        assert option in shown, f"{command}: no option {option}"


def test_links_in_the_docs_point_at_files() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_docs_build(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(tmp_path / "site")], cwd=ROOT, check=True
    )
    assert (tmp_path / "site" / "tutorial" / "index.html").is_file()
