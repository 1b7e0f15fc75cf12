"""Runs whose circuit is edges: from a folder of a decoder to a verdict, a replay, and one error each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from taught import pairs, saved, taught
from transformers import AutoTokenizer, T5Config, T5ForConditionalGeneration, ViTConfig, ViTModel

from gossamer import commands
from gossamer.circuit import Circuit
from gossamer.commands.edge_discovery import CONFIGS
from gossamer.errors import BadInput, CorruptFile, GossamerError, Unsupported
from gossamer.formats import autocircuit, edge_pruning, feature_circuits
from gossamer.scores import EdgeScores, Scores
from gossamer.task import Task

STORIES = Path(__file__).parents[3] / "shared" / "data" / "stories260k" / "hf"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("taught") / "taught")


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pairs as a user's file, 16 of them."""
    file = tmp_path_factory.mktemp("pairs") / "she-he.jsonl"
    rows = [
        {"clean": e.clean, "counterfactual": e.counterfactual, "answer": e.answer, "wrong_answer": e.wrong_answer}
        for e in pairs()[::6]
    ]
    file.write_text("\n".join(map(json.dumps, rows)))
    return file


@pytest.fixture(scope="module")
def run(folder: Path, own: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    report = commands.discover_edges("eap-ig", folder, own, out=out, steps=3)
    assert report.all_edges == taught().graph().n_edges == 82
    assert report.faithfulness.nulls[0].n == 20
    assert len(report.strongest) == 10
    return out


def test_a_run_is_cut_where_it_is_faithful_enough(run: Path) -> None:
    circuit, scores = Circuit.load(run / "circuit.safetensors"), EdgeScores.load(run / "scores.safetensors")
    about = json.loads((run / "record.json").read_text())
    assert about["kind"] == "edges"
    assert about["result"]["cut"] == {"faithfulness": 0.9}
    assert about["task_source"] == "she-he.jsonl"
    assert (run / "she-he.jsonl").is_file()
    assert 0 < circuit.n_edges < 82
    inside = scores.graph.numbers(circuit.src, circuit.dst, circuit.matrix)
    assert np.array_equal(scores.values[inside], circuit.weight)


def test_verify_and_replay(run: Path) -> None:
    report = commands.verify(run, quick=True, pairs=6)
    names = [e.name for e in report.evidence]
    assert names == ["faithfulness", "restoration", "accuracy", "divergence", "necessity"]
    assert all(e.methodology and e.methodology["value"] == "resample" for e in report.evidence)
    again = commands.replay(run, search=True)
    assert again.agrees, again.differences
    assert again.compared > 60
    record = run / "record.json"
    whole = record.read_text()
    record.write_text(whole.replace('"all_edges": 82', '"all_edges": 83'))
    wrong = commands.replay(run)
    assert [d.what for d in wrong.differences] == ["edges of the model"]
    record.write_text(whole)
    by_zero = commands.verify(run, quick=True, pairs=6, ablation="zero", granularity="node")
    assert [e.name for e in by_zero.evidence] == ["faithfulness", "accuracy", "divergence", "necessity"]
    assert commands.replay(run).agrees
    with pytest.raises(BadInput, match="Unknown ablation value 'zeros'"):
        commands.verify(run, quick=True, ablation="zeros")


def test_a_circuit_file_with_its_model_and_task_is_tried(run: Path, folder: Path, own: Path, tmp_path: Path) -> None:
    report = commands.verify(
        run / "circuit.safetensors", model=str(folder), task=own, out=tmp_path / "tried", pairs=6, quick=True
    )  # fmt: skip
    assert len(report.evidence) == 5
    assert commands.replay(tmp_path / "tried", search=True).agrees
    with pytest.raises(BadInput, match="Unknown ablation value"):
        commands.verify(run / "circuit.safetensors", model=str(folder), task=own, out=tmp_path / "x", ablation="zeros")
    assert not (tmp_path / "x").exists()
    with pytest.raises(Unsupported, match="--task of a run folder"):
        commands.verify(run, quick=True, task=own)
    with pytest.raises(BadInput, match="Expected --task with the circuit file"):
        commands.verify(run / "circuit.safetensors", model=str(folder))


def test_acdc_has_a_run_folder_too(folder: Path, own: Path, tmp_path: Path) -> None:
    report = commands.discover_edges("acdc", folder, own, out=tmp_path / "run", threshold=0.05, pairs=4)
    assert 0 < report.edges < 82
    assert not (tmp_path / "run" / "scores.safetensors").exists()
    assert commands.replay(tmp_path / "run", search=True).agrees


def test_a_model_that_does_not_do_the_task_has_no_circuit(folder: Path, tmp_path: Path) -> None:
    """The answers of half the pairs exchanged: no model can order them."""
    file = tmp_path / "nonsense.jsonl"
    rows = []
    for i, e in enumerate(pairs()):
        answers = (e.answer, e.wrong_answer) if i // 2 % 2 else (e.wrong_answer, e.answer)
        rows.append({
            "clean": e.clean, "counterfactual": e.counterfactual, "answer": answers[0], "wrong_answer": answers[1]
        })  # fmt: skip
    file.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(BadInput, match="a model that does nonsense, taught does not: of"):
        commands.discover_edges("eap", folder, file, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    forced = commands.discover_edges("eap", folder, file, out=tmp_path / "run", force=True, edges=10)
    assert forced.edges <= 10


def test_bad_input_is_one_error_each(run: Path, folder: Path, own: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="Expected 1 to 82 edges"):
        commands.discover_edges("eap", folder, own, edges=83, out=tmp_path / "a")
    with pytest.raises(BadInput, match=r"already there|exists"):
        commands.discover_edges("eap", folder, own, out=run)
    with pytest.raises(BadInput, match="Hugging Face model"):
        commands.discover_edges("eap", tmp_path / "nothing", own)
    with pytest.raises(BadInput, match="Expected a run folder"):
        commands.verify(tmp_path, quick=True, ablation="zero")
    other = taught.__wrapped__(steps=1)
    other.model.save_pretrained(tmp_path / "other")
    other.tokenizer.save_pretrained(tmp_path / "other")
    with pytest.raises(BadInput, match="Expected the model the circuit was found in"):
        commands.verify(run, quick=True, model=str(tmp_path / "other"))
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "record.json").write_text((run / "record.json").read_text()[:-40])
    with pytest.raises(CorruptFile, match="not a whole run record"):
        commands.verify(broken, quick=True)


def test_a_decoder_is_asked_the_tasks_and_ones_own_pairs(folder: Path, own: Path, tmp_path: Path) -> None:
    report = commands.tasks_check(own, model=folder)
    assert report.model == "taught"
    assert report.usable == report.pairs == 16
    assert report.paired_accuracy == 1.0
    one = json.loads(own.read_text().splitlines()[0])
    (tmp_path / "uneven.jsonl").write_text(
        "\n".join(json.dumps({**one, "clean": one["clean"] + more}) for more in ("", " the"))
    )
    uneven = commands.tasks_check(tmp_path / "uneven.jsonl", model=folder)
    assert uneven.usable == 1
    assert "its prompts have 6 and 5 tokens" in uneven.checks[1].problems[0]


def test_channels_of_a_decoder_are_pruned_tried_and_replayed(folder: Path, own: Path, tmp_path: Path) -> None:
    report = commands.prune(folder, own, out=tmp_path / "run", steps=60, k_coef=(1e-3,), target_loss=0.3)
    assert report.reached
    assert report.nodes < sum(w for _, w in Circuit.load(tmp_path / "run" / "circuit.safetensors").layout.locations) / 2
    evidence = {e.name: e for e in commands.verify(tmp_path / "run", quick=True).evidence}
    methodology = evidence["sufficiency"].methodology
    assert methodology is not None
    assert methodology["reference"] == "training"
    assert commands.replay(tmp_path / "run").agrees
    with pytest.raises(Unsupported, match="taught, a Hugging Face decoder"):
        commands.show(tmp_path / "run")


def test_a_pretrained_model_that_cannot_repeat_random_words_is_told_so(tmp_path: Path) -> None:
    """Random words, repeated: stories260k has no induction head to speak of."""
    if not STORIES.is_dir():
        pytest.skip("shared data is absent")
    tokenizer = AutoTokenizer.from_pretrained(STORIES)
    words = [t[1:] for t in tokenizer.get_vocab() if t[0] == " " and t[1:].isalpha() and len(t) > 3]
    assert len(words) > 10
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(128):
        *start, one, other = rng.choice(words, 7, replace=False)
        again = " ".join(start)
        rows.append({
            "clean": f"{again} {one} {again}", "counterfactual": f"{again} {other} {again}", "answer": f" {one}",
            "wrong_answer": f" {other}",
        })  # fmt: skip
    file = tmp_path / "random-repeat.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(BadInput, match="a model that does random-repeat, hf does not: of"):
        commands.discover_edges("eap", STORIES, file, out=tmp_path / "run")


def test_a_circuit_in_the_peers_format_gets_a_verdict(run: Path, folder: Path, own: Path, tmp_path: Path) -> None:
    """Written by hand as EAP-IG's Graph.to_json writes it: keys and values per query head."""
    heads = {f"a{i}.h{h}": {"in_graph": True} for i in range(2) for h in range(4)}
    others = {name: {"in_graph": True} for name in ("input", "m0", "m1", "logits")}
    kept = ["input->a0.h0<v>", "input->a0.h2<v>", "a0.h2->m0", "m0->a1.h0<v>", "m0->a1.h2<v>", "m1->logits"]
    kept += ["a1.h1->logits", "m0->m1", "a0.h2->m1", "a1.h3->logits", "a1.h0->logits", "input->m0"]
    (tmp_path / "circuit.json").write_text(json.dumps({
        "cfg": {"n_layers": 2, "n_heads": 4, "parallel_attn_mlp": False, "d_model": 32}, "nodes": {**others, **heads},
        "edges": {name: {"score": 1.0, "in_graph": True} for name in kept},
    }))  # fmt: skip
    report = commands.verify(
        tmp_path / "circuit.json", quick=True, model=str(folder), task=own, out=tmp_path / "run", pairs=8
    )
    assert {e.name: e.verdict for e in report.evidence}.keys() >= {"faithfulness", "necessity"}
    assert any("key" in note or "group" in note or "list" in note for note in report.notes), report.notes
    assert commands.replay(tmp_path / "run").agrees


def test_prompts_of_peers_stand_where_a_task_does(folder: Path, tmp_path: Path) -> None:
    """The same pairs in the form of four tools, with their answers as texts or as token numbers."""
    tokenizer, some = AutoTokenizer.from_pretrained(folder), list(pairs()[::6])
    task = Task(name="p", version="1", description="", train=tuple(some[:8]), heldout=tuple(some[8:]))
    ids = [[tokenizer.encode(a, add_special_tokens=False)[-1] for a in (e.answer, e.wrong_answer)] for e in some]
    numbers = [f"{e.clean},{e.counterfactual},{a},{b}" for e, (a, b) in zip(some, ids, strict=True)]
    csv = tmp_path / "numbers.csv"
    csv.write_text("\n".join(["clean,corrupted,correct_idx,incorrect_idx", *numbers]))
    files = {
        "AutoCircuit": autocircuit.write_task(some, tmp_path / "prompts.json"), "EAP-IG": csv,
        "Edge Pruning": edge_pruning.write_task(task, tmp_path / "prompts.jsonl"),
        "feature-circuits": feature_circuits.write_task(some, tmp_path / "plural.json"),
    }  # fmt: skip
    for file in files.values():
        report = commands.tasks_check(file, model=str(folder))
        assert (report.pairs, report.usable) == (len(some), len(some)), report
        assert [c.line for c in report.checks] == sorted({c.line for c in report.checks})
        assert report.paired_accuracy == 1
    own = tmp_path / "own.jsonl"
    rows = [
        {k: getattr(e, k) for k in ("clean", "counterfactual", "answer", "wrong_answer")} | {"split": split}
        for split, examples in (("train", task.train), ("heldout", task.heldout)) for e in examples
    ]  # fmt: skip
    own.write_text("\n".join(map(json.dumps, rows)))
    made = {}
    for name, file in (*files.items(), ("own", own)):
        out = tmp_path / f"run {name}"
        commands.discover_edges("eap", folder, file, out=out, edges=20)
        assert commands.replay(out).agrees
        made[name] = EdgeScores.load(out / "scores.safetensors").values
        assert (out / file.name).is_file()
    assert np.allclose(made["Edge Pruning"], made["own"], rtol=1e-4, atol=1e-6)  # the splits are told there
    verified = commands.verify(
        out / "circuit.safetensors", model=str(folder), task=csv, quick=True, out=tmp_path / "tried"
    )
    assert verified.evidence[0].n == 8


def test_what_cannot_be_asked_is_told_by_its_line_before_anything_is_searched(folder: Path, tmp_path: Path) -> None:
    """In the held-out pairs too, which a search does not touch."""
    e, *rest = pairs()[::6]
    bad = {
        "answers": ({"answer": e.answer + e.wrong_answer}, r"line 1\b.*(token|answer)"),
        "uneven": ({"clean": "there " + e.clean}, r"that of line 1\b"),
    }  # fmt: skip
    for name, (change, says) in bad.items():
        file = tmp_path / f"{name}.jsonl"
        rows = [
            {"clean": x.clean, "counterfactual": x.counterfactual, "answer": x.answer, "wrong_answer": x.wrong_answer}
            | (change | {"split": "heldout"} if x is e else {"split": "heldout" if x is rest[0] else "train"})
            for x in (e, *rest)
        ]  # fmt: skip
        file.write_text("\n".join(map(json.dumps, rows)))
        said: list[str] = []
        with pytest.raises(BadInput, match=says):
            commands.discover_edges("eap", folder, file, out=tmp_path / "run", say=said.append)
        assert not said
        assert not (tmp_path / "run").exists()


def test_what_is_no_decoder_is_told_in_a_line(own: Path, tmp_path: Path) -> None:
    shape = {"vocab_size": 64, "d_model": 16, "d_ff": 16, "num_layers": 1, "num_heads": 2, "d_kv": 8}
    T5ForConditionalGeneration(T5Config(**shape)).save_pretrained(tmp_path / "t5")
    vit = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    ViTModel(ViTConfig(**vit)).save_pretrained(tmp_path / "vit")
    for name, says in (
        ("t5", "the encoder-decoder t5 is not supported"),
        ("vit", "no decoder that goes on with a text"),
    ):
        with pytest.raises(Unsupported, match=says) as caught:
            commands.discover_edges("eap", tmp_path / name, own, out=tmp_path / "run")
        assert len(str(caught.value)) < 300


def test_a_file_that_is_no_pairs_is_told_as_such(run: Path, folder: Path, tmp_path: Path) -> None:
    circuit, damaged, odd = (tmp_path / name for name in ("circuit.json", "damaged.json", "odd.csv"))
    circuit.write_text('[["m0", "resid_post"]]')
    damaged.write_text('{"prompts": [')
    odd.write_text("a,b\n1,2\n")
    for file, says in (
        (circuit, "holds no prompts but a circuit"), (damaged, "not sound JSON"),
        (tmp_path / "none.json", "found no file"), (odd, "AutoCircuit, EAP-IG, Edge Pruning or feature-circuits"),
    ):  # fmt: skip
        for ask in (
            lambda f: commands.tasks_check(f, model=str(folder)), lambda f: commands.discover_edges("eap", folder, f),
            lambda f: commands.verify(run / "circuit.safetensors", model=str(folder), task=f),
        ):  # fmt: skip
            with pytest.raises(GossamerError, match=says):
                ask(file)
    with pytest.raises(BadInput, match="Expected a file of pairs"):
        commands.tasks_check("gendered_pronoun", model=str(folder))


@pytest.mark.parametrize("name", sorted(set(CONFIGS) - {"eap-ig", "acdc", "edge-patching"}))
def test_every_method_makes_a_run_that_replays(name: str, folder: Path, own: Path, tmp_path: Path) -> None:
    options: dict[str, dict[str, object]] = {
        "edge-mask": {"steps": 60}, "consensus": {"resamples": 4, "method": "eap"},
    }  # fmt: skip
    edges = None if name == "iterative-sweep" else 40  # its floor decides it
    report = commands.discover_edges(name, folder, own, out=tmp_path / "run", edges=edges, **options.get(name, {}))
    assert 0 < report.edges <= 82
    again = commands.replay(tmp_path / "run", search=True)
    assert again.agrees, again.differences


def test_numbers_of_blocks_are_asked_for_by_their_grain(folder: Path, own: Path, tmp_path: Path) -> None:
    for name in ("activation-patching", "attribution-patching", "path-patching", "direct-logit-attribution"):
        report = commands.discover_nodes(name, folder, own, grain="block", out=tmp_path / name, pairs=4)
        found = Scores.load(tmp_path / name / "scores.safetensors")
        assert found.layout.grain == "block"
        assert {"a0", "m1"} <= {what for what, _ in report.scores}
    with pytest.raises(BadInput, match="Unknown grain 'blok': did you mean block"):
        commands.discover_nodes("activation-patching", folder, own, grain="blok", out=tmp_path / "x")
    with pytest.raises(Unsupported, match="query-key-attribution at grain block"):
        commands.discover_nodes(
            "query-key-attribution", folder, own, grain="block", out=tmp_path / "x", head="a1.h0", key=1
        )


def test_a_budget_is_kept_or_refused_and_the_need_is_said(folder: Path, own: Path, tmp_path: Path) -> None:
    """What is known from sizes is said before the run; what only a trial run would tell is found out under a limit."""
    for name, ask, known in (
        ("eap", commands.discover_edges, True), ("edge-patching", commands.discover_edges, False),
        ("activation-patching", commands.discover_nodes, False),
    ):  # fmt: skip
        said: list[str] = []
        more: dict[str, Any] = {"edges": 20} if ask is commands.discover_edges else {}
        ask(name, folder, own, out=tmp_path / name, pairs=2, say=said.append, **more)
        assert any("(--memory sets a limit)" in line for line in said) == known
        with pytest.raises(BadInput, match=f"memory budget of at least .* with {name}"):
            ask(name, folder, own, out=tmp_path / "x", memory="1kB", **more)


def test_numbers_of_nodes_have_a_folder_and_a_sign(folder: Path, own: Path, tmp_path: Path) -> None:
    for name in ("activation-patching", "direct-logit-attribution"):
        report = commands.discover_nodes(name, folder, own, out=tmp_path / name, pairs=4)
        assert "negative" in report.sign or "positive" in report.sign
        values = dict(report.scores)
        assert np.all(np.diff(np.abs(list(values.values()))) <= 0)
        stored = Scores.load(tmp_path / name / "scores.safetensors")
        assert values["m1"] == stored.values[stored.layout.starts["m1"]]
    parts = commands.discover_nodes(
        "query-key-attribution", folder, own, out=tmp_path / "qk", head="a1.h1", key=1, pairs=4
    )
    assert len(parts.scores) == 7**2  # input, four heads, an MLP and a constant
    with pytest.raises(BadInput, match=r"a1\.h9"):
        commands.discover_nodes("query-key-attribution", folder, own, out=tmp_path / "b", head="a1.h9", key=1)


def test_positions_and_spans_from_a_file_to_a_replay(folder: Path, tmp_path: Path) -> None:
    """Prompts of two lengths, compared at a span; the trial is there too, unless it is asked for another place."""
    rows = [
        {
            "clean": e.clean, "counterfactual": f"the {e.counterfactual}", "answer": e.answer,
            "wrong_answer": e.wrong_answer, "spans": {"who": [e.clean.split()[1], e.counterfactual.split()[1]]},
        }
        for e in pairs()[::6]
    ]  # fmt: skip
    file = tmp_path / "uneven.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    checked = commands.tasks_check(file, model=folder)
    assert (checked.usable, checked.aligned) == (16, 0)
    assert checked.checks[0].spans == {"who": (("girl",), ("boy",))}
    report = commands.discover_edges("eap-ig", folder, file, out=tmp_path / "run", edges=50, positions="who", steps=2)
    assert report.faithfulness.methodology is not None
    assert report.faithfulness.methodology["positions"] == "who"
    tried = commands.verify(report.run, quick=True)
    assert {e.methodology["positions"] for e in tried.evidence if e.methodology} == {"who"}
    assert commands.replay(report.run, search=True).agrees
    elsewhere = commands.verify(report.run, quick=True, positions="last")
    assert elsewhere.evidence[0].methodology != tried.evidence[0].methodology
    assert commands.replay(report.run).agrees
    with pytest.raises(BadInput, match="as many tokens, 8 of 8 pairs do not"):
        commands.verify(report.run, quick=True, positions="all")
    with pytest.raises(BadInput, match="Unknown positions 'whom': did you mean who"):
        commands.discover_edges("acdc", folder, file, positions="whom")
    bad = [
        {**rows[0], "spans": {"who": ["the", "boy"]}},
        {**rows[1], "spans": {"last": [[0, 2], [5]], "a": [[2, 1], "z"]}},
    ]
    (tmp_path / "bad.jsonl").write_text("\n".join(map(json.dumps, [*bad, {**rows[2], "spans": "girl"}])))
    with pytest.raises(BadInput) as error:
        commands.tasks_check(tmp_path / "bad.jsonl", model=folder)
    for part in (
        "line 2: a span cannot be named 'last'; span 'a': characters 2 to 1 of the", "span 'a': 'z' stands 0 times",
        "line 3: spans are not an object of names",
    ):  # fmt: skip
        assert part in str(error.value)


def test_whole_answers_from_a_file_to_a_replay(folder: Path, tmp_path: Path) -> None:
    """Answers of two tokens and of one; of those of one the numbers are the logit difference's."""
    file = tmp_path / "whole.jsonl"
    rows = [
        {
            "clean": e.clean, "counterfactual": e.counterfactual, "answer": f"{e.answer} said",
            "wrong_answer": e.wrong_answer if i % 2 else f"{e.wrong_answer} was",
        }
        for i, e in enumerate(pairs()[::6])
    ]  # fmt: skip
    file.write_text("\n".join(map(json.dumps, rows)))
    checked = commands.tasks_check(file, model=folder)
    assert checked.usable == 16
    assert checked.checks[0].answer_tokens == ("she", "said")
    with pytest.raises(BadInput, match="is 2 tokens after the clean prompt, not one"):
        commands.discover_edges("eap", folder, file, edges=40, out=tmp_path / "no")
    report = commands.discover_edges(
        "eap-ig", folder, file, edges=40, out=tmp_path / "run", steps=2, metric="sequence-log-probability"
    )
    assert "sequence-log-probability" in report.faithfulness.unit
    tried = commands.verify(report.run, quick=True)
    assert {e.claim.split(":")[0]: e.unit for e in tried.evidence}["necessity"] == (
        "share of the sequence log probability lost"
    )
    assert commands.replay(report.run, search=True).agrees
    with pytest.raises(Unsupported, match="ablation by noise of pairs with answers of several tokens"):
        commands.verify(report.run, quick=True, ablation="noise")


def test_a_run_answers_typed_prompts_by_the_mean_and_says_so(run: Path) -> None:
    from gossamer.commands import edge_runs
    from gossamer.commands.live import answer, tokenize
    from gossamer.show.live import Intervention, Question

    found = edge_runs.read(run)
    question = Question(text="the queen was often that", candidates=(" she", " he"))
    said = answer(found, question)
    assert said.note.startswith("ablated by mean, not resample as in the trial")
    assert said.tokens == tokenize(found, question.text) == ("the", " queen", " was", " often", " that")
    assert said.model.candidates[0] > 0.9
    assert said.circuit.candidates[0] > 0.5
    assert said.model.top[0].token == "she"
    assert said.model.patterns[0].rows[0] == (1.0,)
    change = Intervention(kind="ablate", site="input")
    changed = answer(found, question.model_copy(update={"interventions": (change,)}))
    assert changed.model.candidates[0] < 0.9
