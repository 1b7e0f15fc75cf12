"""The checker accepts what the search found and nothing else, shares no code with it, and rounds outwards."""

from __future__ import annotations

import ast
import decimal
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import gossamer.verify.proof.checker as checker
from gossamer.errors import CorruptFile
from gossamer.models.max_of_k import LoadedMaxOfK, load_max_of_k, save_max_of_k, shuffled_max_of_k
from gossamer.record import Record
from gossamer.train.max_of_k import MaxOfKTraining, train_max_of_k
from gossamer.verify.proof import RUNGS, load_certificate, prove, save_certificate
from gossamer.verify.proof.checker import Ball, Rejected, check

FOLDER = Path(checker.__file__).parent
RECORD = Record(method="by hand", config={}, seed=0)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> LoadedMaxOfK:
    recipe = MaxOfKTraining(k=3, vocabulary=12, d_model=16, steps=150, batch_size=64, lr=1e-2)
    folder = tmp_path_factory.mktemp("proof") / "trained"
    return load_max_of_k(save_max_of_k(train_max_of_k(recipe), folder, RECORD))


@pytest.fixture(scope="module")
def sparse(tmp_path_factory: pytest.TempPathFactory) -> LoadedMaxOfK:
    recipe = MaxOfKTraining(k=4, vocabulary=9, d_model=16, steps=100, batch_size=64, lr=1e-2, density=0.4)
    folder = tmp_path_factory.mktemp("proof") / "sparse"
    return load_max_of_k(save_max_of_k(train_max_of_k(recipe), folder, RECORD))


def written(loaded: LoadedMaxOfK, rung: str, folder: Path) -> Path:
    return save_certificate(prove(loaded, rung), folder / f"{rung}.json")


def changed(path: Path, change: Callable[[dict[str, Any]], object], *, resealed: bool = True) -> Path:
    """A copy of the certificate with a change, and with the hash that a careful forger would write."""
    content = json.loads(path.read_text())
    change(content)
    if resealed:
        del content["sha256"]
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        content["sha256"] = hashlib.sha256(text.encode()).hexdigest()
    found = path.with_name("changed.json")
    found.write_text(json.dumps(content))
    return found


@pytest.mark.parametrize("rung", RUNGS)
def test_what_was_found_is_accepted(trained: LoadedMaxOfK, sparse: LoadedMaxOfK, rung: str, tmp_path: Path) -> None:
    """Counts, operations and dimensions agree between two implementations, on a dense and on a sparse model."""
    for loaded in (trained, sparse):
        path = written(loaded, rung, tmp_path)
        found = check(path, loaded.weights.parent)
        assert found.certified == load_certificate(path).certified
        assert found.certified <= found.verified <= found.inputs
    assert prove(trained, rung).bound > 0.02


def test_a_count_that_is_too_high_is_rejected(trained: LoadedMaxOfK, tmp_path: Path) -> None:
    for rung in RUNGS:
        path = written(trained, rung, tmp_path)

        def more(c: dict[str, Any], by: int = 40) -> None:
            c["certified"] += by
            c["bound"] = c["certified"] / c["inputs"]

        with pytest.raises(Rejected, match="can be verified"):
            check(changed(path, more), trained.weights)
        assert check(changed(path, lambda c: more(c, -1)), trained.weights)  # a lower bound that is lower still holds


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("k", 4, "sizes"), ("v", 13, "sizes"), ("inputs", 12**3 - 1, "sizes"), ("bound", 0.99999, "bound"),
        ("flops", 1000, "length"), ("unexplained_dimensions", 3, "length"), ("witness_numbers", 1, "length"),
        ("rung", "sub-cubic.none.exact", "no proof"), ("model_sha256", "0" * 64, "sha256"),
        ("certified", 10.5, "whole number"), ("certified", True, "whole number"), ("format_version", 2, "altered"),
        ("witnesses", {"gaps": [[1]]}, "shape"), ("witnesses", {"gaps": "no"}, "no certificate"),
        ("witnesses", {"gaps": [[[10**30]]]}, "no certificate"), ("certified", 10**400, "can be verified"),
        ("certified", -1, "can be verified"),
    ],
)  # fmt: skip
def test_every_other_claim_is_checked(
    trained: LoadedMaxOfK, tmp_path: Path, field: str, value: object, message: str
) -> None:
    path = written(trained, "sub-cubic.rank-1.exact", tmp_path)
    with pytest.raises(Rejected, match=message):
        check(changed(path, lambda c: c.update({field: value})), trained.weights)


def test_a_certificate_that_was_only_edited_is_rejected_and_not_read(trained: LoadedMaxOfK, tmp_path: Path) -> None:
    path = written(trained, "cubic", tmp_path)
    edited = changed(path, lambda c: c.update(certified=c["certified"] - 1), resealed=False)
    with pytest.raises(Rejected, match="altered"):
        check(edited, trained.weights)
    with pytest.raises(CorruptFile, match="another hash"):
        load_certificate(edited)
    edited.write_text('{"k": ' + "[" * 100_000)
    with pytest.raises(Rejected, match="no certificate"):
        check(edited, trained.weights)
    with pytest.raises(CorruptFile, match="not a whole"):
        load_certificate(edited)
    path.write_text(path.read_text()[:-40])
    with pytest.raises(Rejected, match="no certificate"):
        check(path, trained.weights)


def test_gaps_that_are_too_small_and_other_witnesses_are_rejected(trained: LoadedMaxOfK, tmp_path: Path) -> None:
    path = written(trained, "sub-cubic.exact.exact", tmp_path)
    gaps = np.array(json.loads(path.read_text())["witnesses"]["gaps"])
    at = [tuple(c) for c in np.argwhere(gaps > 1) if c[0] == 1][-1]

    def closer(c: dict[str, Any]) -> None:
        n, q, m = at
        c["witnesses"]["gaps"][n][q][m] -= 1

    with pytest.raises(Rejected, match="does not hold"):
        check(changed(path, closer), trained.weights)
    path = written(trained, "sub-cubic.factored.exact", tmp_path)

    def turned(c: dict[str, Any]) -> None:
        c["witnesses"]["a"] = [-x for x in c["witnesses"]["a"]]

    with pytest.raises(Rejected, match="does not hold"):
        check(changed(path, turned), trained.weights)
    with pytest.raises(Rejected, match="witness vector"):
        check(changed(path, lambda c: c["witnesses"]["b"].pop()), trained.weights)


def test_other_weights_are_rejected(trained: LoadedMaxOfK, tmp_path: Path) -> None:
    """A flipped bit by its hash; and weights that a forger re-hashed by what they do."""
    path = written(trained, "cubic", tmp_path)
    raw = bytearray(trained.weights.read_bytes())
    raw[-7] ^= 4
    (tmp_path / "flipped.safetensors").write_bytes(raw)
    with pytest.raises(Rejected, match="sha256"):
        check(path, tmp_path / "flipped.safetensors")
    other = load_max_of_k(save_max_of_k(shuffled_max_of_k(trained.model, 0), tmp_path / "other", RECORD))
    with pytest.raises(Rejected, match="can be verified"):
        check(changed(path, lambda c: c.update(model_sha256=other.sha256)), other.weights)


def test_the_checker_imports_nothing_of_ours_and_runs_alone(trained: LoadedMaxOfK, tmp_path: Path) -> None:
    own = {"numpy", "safetensors"} | set(sys.stdlib_module_names)
    for node in ast.walk(ast.parse((FOLDER / "checker.py").read_text())):
        if isinstance(node, ast.Import):
            assert {a.name.split(".")[0] for a in node.names} <= own
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            assert (node.module or "").split(".")[0] in own
        elif isinstance(node, ast.Name):
            assert node.id not in ("__import__", "eval", "exec")
    for path in FOLDER.glob("*.py"):
        if path.name != "checker.py":
            found = [n.module for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.ImportFrom)]
            assert not [m for m in found if m and "checker" in m], path
    certificate = written(trained, "sub-cubic.factored.factored", tmp_path)
    code = (
        "import runpy, sys; sys.argv = sys.argv[1:]\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "finally: assert not {'gossamer', 'torch', 'pydantic'} & set(sys.modules)"
    )
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    alone = [sys.executable, "-c", code, str(FOLDER / "checker.py")]
    for given, status, says in (
        ([str(certificate), str(trained.weights)], 0, "accepted: sub-cubic.factored.factored"),
        ([str(trained.weights), str(trained.weights)], 1, "rejected"),
        ([], 2, "usage"),
    ):
        done = subprocess.run([*alone, *given], env=env, cwd=tmp_path, capture_output=True, text=True)
        assert (done.returncode, says in done.stdout + done.stderr) == (status, True), done.stderr


def fractions(x: np.ndarray) -> np.ndarray:
    return np.vectorize(Fraction, otypes=[object])(x)


def holds(ball: Ball, exact: np.ndarray) -> bool:
    low, high = fractions(ball.low), fractions(ball.high)
    return bool((low <= exact).all() and (exact <= high).all())


def test_balls_hold_what_exact_fractions_give() -> None:
    """Sums, products and matrix products with cancellation, against rational arithmetic at the balls' corners."""
    rng = np.random.default_rng(0)
    for scale in (1e-3, 1.0, 1e8):
        a, b = (rng.standard_normal((6, 6)) * scale for _ in range(2))
        b[:3] = -a[:3] * (1 + 2.0**-50)
        near = Ball(a, np.abs(a) * 2.0**-40)
        for corner in (-1, 1):
            exact_a = fractions(a) + corner * fractions(near.rad)
            assert holds(near + Ball.exact(b), exact_a + fractions(b))
            assert holds(near - Ball.exact(b), exact_a - fractions(b))
            assert holds(near * Ball.exact(b), exact_a * fractions(b))
            assert holds(near @ Ball.exact(b), exact_a @ fractions(b))
        assert (near @ Ball.exact(b)).rad.max() < 1e-9 * scale**2
    tight = Ball.exact(a) @ Ball.exact(b)
    assert not holds(Ball(tight.mid, np.zeros_like(tight.mid) - 2 * tight.rad), fractions(a) @ fractions(b))


def test_exponentials_and_lengths_are_bounded_outwards() -> None:
    rng = np.random.default_rng(1)
    x = np.concatenate([rng.uniform(-700, 700, 300), rng.uniform(-1, 1, 300), [0.0, -0.0, -2000.0, 800.0, -745.0]])
    low, high = checker.exp(x, checker.down), checker.exp(x, checker.up)
    with decimal.localcontext() as context:
        context.prec, context.Emin, context.Emax = 60, -999999, 999999
        for value, least, most in zip(x, low, high, strict=True):
            exact = decimal.Decimal(float(value)).exp()
            assert decimal.Decimal(float(least)) <= exact <= decimal.Decimal(float(most))
    usual = np.abs(x) < 700
    assert (high[usual] <= low[usual] * (1 + 1e-15)).all()
    lengths = checker.norms(Ball.exact(x[:600].reshape(60, 10)))
    assert (fractions(lengths) ** 2 >= (fractions(x[:600].reshape(60, 10)) ** 2).sum(1)).all()


def test_a_lead_is_below_the_exact_one() -> None:
    rng = np.random.default_rng(2)
    mid = rng.standard_normal((5, 7))
    mid[2, 3] = mid[2].max() + 1e-16  # a tie within rounding
    found = checker.lead(Ball(mid, np.full_like(mid, 1e-12)))
    for r in range(5):
        for m in range(7):
            others = [Fraction(mid[r, o]) for o in range(7) if o != m]
            exact = Fraction(mid[r, m]) - max(others) - 2 * Fraction(1e-12)
            assert Fraction(found[r, m]) <= exact
            assert float(exact) - found[r, m] < 1e-14


def test_a_tie_is_wrong(tmp_path: Path) -> None:
    """Two equal columns of the unembedding: their tokens are never right, in the search and in the checker."""
    model = train_max_of_k(MaxOfKTraining(k=2, vocabulary=6, d_model=8, steps=150, batch_size=64, lr=1e-2))
    with torch.no_grad():
        model.unembed[:, 4] = model.unembed[:, 5]
    loaded = load_max_of_k(save_max_of_k(model, tmp_path / "tie", RECORD))
    for rung in ("brute-force", "per-output", "cubic"):
        path = written(loaded, rung, tmp_path)
        assert check(path, loaded.weights).verified <= 4**2
