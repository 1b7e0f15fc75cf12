"""Figures: the arithmetic on hand-made searches, and the whole way on two planted models."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from toys import planted_model, planted_task, random_model
from typer.testing import CliRunner

from gossamer import commands
from gossamer.cli.main import app
from gossamer.commands.figures import frontier_finding, level, pair_finding
from gossamer.commands.reports import FigureReport
from gossamer.errors import BadInput
from gossamer.models import LoadedModel
from gossamer.models.files import save_model
from gossamer.show.figures import FoundSize, SearchedModel, read_curves

SEARCH = {"steps": 100, "batch_pairs": 16, "batch": 2, "target_losses": (0.15, 0.3)}


def searched(label: str, edges: dict[tuple[str, int, float], int | None], loss: float = 3.9) -> SearchedModel:
    """A model whose circuit at (task, seed, target) has this many edges; None: not reached."""
    found = tuple(
        FoundSize(
            task=t, seed=s, target_loss=at, reached=n is not None, nodes=3, edges=99 if n is None else n,
            loss_train=at, loss_heldout=at + s, random_losses=() if n is None else (0.7, 0.9),
        )
        for (t, s, at), n in edges.items()
    )  # fmt: skip
    return SearchedModel(
        label=label, source=label, sha256=label, means_sha256="", d_model=8, n_layer=1, density=1.0,
        activation_fraction=1.0, nonzero_weights=10, validation_loss_nats=loss, unpruned={}, found=found,
    )  # fmt: skip


def test_a_task_counts_only_where_both_models_reach_it_with_every_seed() -> None:
    a = searched("a", {
        ("x", 0, 0.1): 2, ("x", 1, 0.1): 8, ("y", 0, 0.1): 4, ("y", 1, 0.1): None, ("z", 0, 0.1): 1, ("z", 1, 0.1): 1,
    })  # fmt: skip
    b = searched("b", {
        ("x", 0, 0.1): 32, ("x", 1, 0.1): 32, ("y", 0, 0.1): 5, ("y", 1, 0.1): 5, ("z", 0, 0.1): None,
        ("z", 1, 0.1): 7,
    })  # fmt: skip
    found = level([a, b], ("x", "y", "z"), 0.1)
    assert found.tasks == ("x",)
    assert found.missed == (("y",), ("z",))
    assert found.edges == (pytest.approx(4.0), pytest.approx(32.0))
    assert found.band == ((pytest.approx(2.0), pytest.approx(8.0)), (pytest.approx(32.0), pytest.approx(32.0)))
    assert found.by_task == {"x": (pytest.approx(4.0), pytest.approx(32.0))}
    assert found.ratio == pytest.approx(8.0)
    # one task: seeds alone are drawn, so a's mean is sqrt(2*2), sqrt(2*8) or sqrt(8*8)
    assert found.interval == (pytest.approx(4.0), pytest.approx(16.0))
    assert found.heldout == (pytest.approx(0.6), pytest.approx(0.6))  # 0.1 and 1.1, of x alone
    assert found.random == ((pytest.approx(0.8), 0.7, 0.9), (pytest.approx(0.8), 0.7, 0.9))


def test_the_mean_is_geometric_over_tasks_and_a_circuit_without_edges_counts_as_one() -> None:
    a = searched("a", {("x", 0, 0.1): 2, ("y", 0, 0.1): 0})
    b = searched("b", {("x", 0, 0.1): 8, ("y", 0, 0.1): 50})
    found = level([a, b], ("x", "y"), 0.1)
    assert found.edges == (pytest.approx(2**0.5), pytest.approx(20.0))
    assert "At 0.1 nats b needs 14.1 times as many edges as a [4.0, 50.0] (geometric mean over 2 tasks, 1 seed)" in (
        pair_finding([a, b], [found], 0.1, 1)
    )


def test_targets_that_no_task_reaches_are_said_and_have_no_number() -> None:
    a = searched("a", {("x", 0, 0.1): None, ("x", 0, 0.3): 3})
    b = searched("b", {("x", 0, 0.1): 9, ("x", 0, 0.3): 9})
    none, some = (level([a, b], ("x",), at) for at in (0.1, 0.3))
    assert none.tasks == ()
    assert none.edges == none.band == none.heldout == none.random == (None, None)
    assert none.ratio is None
    assert some.interval is None  # one task, one seed: nothing to draw from
    said = pair_finding([a, b], [none, some], 0.1, 1)
    assert "no task is reached by both a and b: no ratio there" in said
    assert "fewer edges at 1 of 2 target losses (1 not reached by both)" in said
    assert "there is no ratio" in pair_finding([a, b], [none], 0.1, 1)
    assert "there is no frontier" in frontier_finding([a, b], none, 1)


def test_the_frontier_names_the_models_that_no_other_beats() -> None:
    models = [searched(m, {("x", 0, 0.1): n}, loss) for m, n, loss in (("a", 9, 3.5), ("b", 4, 3.9), ("c", 9, 3.9))]
    said = frontier_finding(models, level(models, ("x",), 0.1), 1)
    assert "2 of 3 models are beaten by no other in both loss and edges: b (dense, 4 edges, 3.90 nats), a (" in said


def saved(model: LoadedModel, folder: Path, loss: float = 1.0) -> Path:
    return save_model(
        model.model, folder, tokenizer=model.tokenizer, reference=model.reference,
        record={"details": {"validation_loss_nats": loss}},
    )  # fmt: skip


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path, Path]:
    """A planted model, one that has the mechanism twice, and their pairs."""
    double = planted_model()
    block, v = double.model.blocks[0], 2 * double.model.config.d_attn
    block.attn.c_attn.weight.data[v + 40, 3] = 2.0
    block.attn.c_proj.weight.data[6, 40] = 3.0
    rows = [
        {"clean": e.clean, "counterfactual": e.counterfactual, "answer": e.answer, "wrong_answer": e.wrong_answer,
         "split": split}
        for split, part in (("train", planted_task().train), ("heldout", planted_task().heldout)) for e in part
    ]  # fmt: skip
    (tmp_path / "sides.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return saved(planted_model(), tmp_path / "one"), saved(double, tmp_path / "two", 1.3), tmp_path / "sides.jsonl"


def test_a_figure_is_made_goes_on_without_repeating_a_trial_and_is_drawn_again(
    pair: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two, pairs = pair
    out = tmp_path / "f"

    def go(trials: int = 2, seeds: int = 1) -> FigureReport:
        return commands.figure_size_for_loss(
            one, two, tasks=[pairs], out=out, trials=trials, seeds=seeds, **SEARCH
        )  # fmt: skip

    report = go()
    for path in (report.data, report.png, report.svg):
        assert Path(path).stat().st_size > 1000
    data = read_curves(Path(report.data))
    assert [x.target_loss for x in data.levels] == [0.15, 0.3]
    assert data.levels[0].edges[0] == pytest.approx(2.0)  # the planted circuit
    assert data.levels[0].ratio is not None
    assert f"{data.levels[0].ratio:.1f} times as many edges as one" in report.finding
    assert "differ by 0.30 nats" in report.warnings[0]
    assert data.methodology == "gao-mean"
    assert [m.sha256 for m in data.models] == [json.loads((p / "start.json").read_text())["model"][0] for p in (
        out / "sweeps" / f"{m.label}-{m.sha256[:8]}" for m in data.models
    )]  # fmt: skip
    lowest = min(x[1] for level in data.levels for x in level.random if x)
    assert lowest > 0.5  # random circuits of these sizes do not do the task

    before = {p.name: p.read_bytes() for p in out.glob("size-for-loss.*g")}
    for path in before:
        (out / path).unlink()
    again = commands.figure_draw(out)
    assert again.finding == report.finding
    assert {p.name: p.read_bytes() for p in out.glob("size-for-loss.*g")} == before

    def trained(*args: object) -> None:
        raise AssertionError("a finished trial was trained again")

    shown = CliRunner().invoke(app, ["figure", "draw", str(out), "--json"])
    assert json.loads(shown.stdout)["finding"] == report.finding
    shown = CliRunner().invoke(app, ["figure", "draw", str(out)])
    assert report.finding in shown.stdout
    assert all(f"Note: {warning}" in shown.stdout for warning in report.warnings)

    with monkeypatch.context() as m:
        m.setattr("gossamer.discover.sweep.train_masks", trained)
        assert go().levels == report.levels
        with pytest.raises(AssertionError, match="trained again"):
            go(trials=4)
    # the sweeps of one figure serve another
    drawn = commands.figure_frontier(
        [one, two], tasks=[pairs], out=tmp_path / "g", trials=2, seeds=1, sweeps=sorted((out / "sweeps").iterdir()),
        **SEARCH,
    )  # fmt: skip
    assert drawn.levels == report.levels
    assert not (tmp_path / "g" / "sweeps").exists()
    assert "models are beaten by no other" in drawn.finding
    # one model alone searched further: not comparable
    commands.sweep_prune(
        one, [pairs], out=out / "sweeps" / f"one-{data.models[0].sha256[:8]}", trials=4, batch=2, seeds=1,
        target_losses=(0.15, 0.3), steps=100, batch_pairs=16,
    )  # fmt: skip
    with pytest.raises(BadInput, match="unequal searches are not comparable"):
        go()
    with pytest.raises(BadInput, match="another target_losses"):
        commands.figure_size_for_loss(
            one, two, tasks=[pairs], out=out, trials=2, **{**SEARCH, "target_losses": (0.15,)}
        )  # fmt: skip


def test_bad_input_is_one_error_before_any_work(pair: tuple[Path, Path, Path], tmp_path: Path) -> None:
    one, two, pairs = pair
    out = tmp_path / "none"
    words = {word: (i + 1) % 15 if i < 15 else i for word, i in planted_model().tokenizer.get_vocab().items()}
    shifted = Tokenizer(WordLevel(words, unk_token="w0"))
    other = saved(dataclasses.replace(random_model(), tokenizer=shifted), tmp_path / "other")
    blank = tmp_path / "blank"
    save_model(
        random_model().model, blank, tokenizer=random_model().tokenizer, reference=random_model().reference, record={}
    )
    asked: list[tuple[tuple[object, ...], dict[str, object], str]] = [
        ((one, one), {}, "have the same weights"),
        ((one, other), {}, "models of one tokenizer"),
        ((one, two), {"tasks": ["no_such_task"]}, "no_such_task"),
        ((one, two), {"tasks": [pairs, pairs]}, "each task once"),
        ((one, two), {"at": 0.2}, "--at to be one of the target losses"),
        ((one, two), {"trials": 0}, "at least one task, trial"),
        ((one, two), {"lr": 0.1}, "not search, got lr"),
        ((one, two), {"sweeps": [tmp_path]}, "is no sweep"),
        ((one, two), {"tasks": ["single_double_quote"]}, "2048 pairs"),
    ]
    for models, changes, message in asked:
        with pytest.raises(BadInput, match=message):
            commands.figure_size_for_loss(*models, **{"tasks": [pairs], "out": out, "trials": 2, **SEARCH, **changes})  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="validation loss in every model's record"):
        commands.figure_frontier([one, blank], tasks=[pairs], out=out, trials=2, **SEARCH)
    with pytest.raises(BadInput, match="at least two models"):
        commands.figure_frontier([one], tasks=[pairs], out=out, trials=2, **SEARCH)
    with pytest.raises(BadInput, match="Expected a task that all models solve, found none"):
        commands.figure_size_for_loss(one, two, out=out, trials=2, **SEARCH)
    with pytest.raises(BadInput, match=r"frontier\.json at"):
        commands.figure_draw(tmp_path)
    assert not out.exists()


def test_density_is_that_of_the_matrices_whose_entries_are_edges() -> None:
    m = planted_model(decoys=False)
    c = m.model.config
    whole = c.d_model * (3 * c.d_attn) + c.d_attn * c.d_model + 2 * c.d_model * c.d_mlp
    assert m.counted_weights() == whole
    assert len(m.graph("channel").src) == 2


def test_without_matplotlib_the_error_says_what_to_install(
    pair: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    one, two, pairs = pair
    with pytest.raises(BadInput, match=r"\[figures\]"):
        commands.figure_size_for_loss(one, two, tasks=[pairs], out=tmp_path / "f", trials=2, **SEARCH)
    assert not (tmp_path / "f").exists()
