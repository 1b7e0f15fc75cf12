"""From a run on a Hugging Face decoder to its bundle: exact scores, attention, the trial; old bundles stay readable."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from example_bundle import example_bundle
from head_bundle import head_bundle
from pydantic import ValidationError
from taught import pairs, saved

from gossamer import commands
from gossamer.circuit import Circuit
from gossamer.commands.bundle_of_edges import _score_view, _texts
from gossamer.discover.edge_patching import SIGN
from gossamer.errors import Unsupported
from gossamer.record import Record
from gossamer.show import read_bundle
from gossamer.show.bundle import Bundle

DEMO = Path(__file__).parents[2] / "docs" / "demo" / "page.html"
LATER = {
    "": ("grain", "live"), "model": ("n_group",), "circuit": ("faithfulness", "edge_score"),
    "nodes": ("kind", "score_in", "score_out"),
}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("edges")
    rows = [
        {"clean": e.clean, "counterfactual": e.counterfactual, "answer": e.answer, "wrong_answer": e.wrong_answer}
        for e in pairs()[::6]
    ]
    (folder / "she-he.jsonl").write_text("\n".join(map(json.dumps, rows)))
    commands.discover_edges(
        "eap-ig", saved(folder / "taught"), folder / "she-he.jsonl", out=folder / "run", steps=2, edges=40
    )
    return folder / "run"


def test_a_run_of_edges_becomes_a_bundle_with_its_exact_scores(run: Path) -> None:
    report = commands.show(run)
    bundle, circuit = read_bundle(Path(report.bundle)), Circuit.load(run / "circuit.safetensors")
    assert (bundle.grain, bundle.model.n_layer, bundle.model.n_group) == ("head", 2, 2)
    assert {(e.src, e.dst, e.matrix): e.weight for e in bundle.circuit.edges} == {
        (str(circuit.layout.site(s)), str(circuit.layout.site(d)), circuit.matrices[m]): w
        for s, d, m, w in zip(circuit.src, circuit.dst, circuit.matrix, circuit.weight.tolist(), strict=True)
    }
    score = bundle.circuit.edge_score
    assert score is not None
    assert (score.needed, score.all_edges) == (-1, 82)
    for node in bundle.circuit.nodes:
        for end, total in (("dst", node.score_in), ("src", node.score_out)):
            own = [abs(e.weight or 0) for e in bundle.circuit.edges if getattr(e, end) == node.site]
            assert total == pytest.approx(sum(own))
    heads = [n for n in bundle.circuit.nodes if n.kind == "head"]
    assert heads
    for head in heads:
        assert len(head.task_examples) == 4
        assert all(sum(e.activations) == pytest.approx(1, abs=1e-3) for e in head.task_examples)
    assert Path(report.page).stat().st_size < 1_000_000


def test_the_trial_is_on_the_page_once_there_was_one(run: Path) -> None:
    before = read_bundle(Path(commands.show(run).bundle))
    assert before.evidence == ()
    assert before.circuit.faithfulness is not None
    commands.verify(run, quick=True, pairs=6)
    after = read_bundle(Path(commands.show(run).bundle))
    assert len(after.evidence) == 5
    assert after.circuit.faithfulness == after.evidence[0]
    with pytest.raises(Unsupported, match="a twin beside a circuit of edges"):
        commands.show(run, twin=run)


def test_what_a_score_means_is_what_its_method_says() -> None:
    def needed(method: str, **details: object) -> int:
        return _score_view(Record(method=method, config={}, seed=0, details=details), 9).needed

    assert needed("eap", sign="change of the metric when the edge is ablated") == -1
    assert needed("edge-patching", sign=SIGN.format(what="edge")) == -1
    assert needed("acdc") == 1
    assert needed("consensus") == needed("eap-ig-file") == needed("edge-mask", sign="none") == 0


def test_a_token_keeps_its_space_and_a_part_of_a_character_stands_alone() -> None:
    class Tokenizer:
        def decode(self, tokens: list[int], skip_special_tokens: bool) -> str:
            return b"".join([b"Hi", b" you", b"\xc3", b"\xa9"][t] for t in tokens).decode(errors="replace").strip()

    assert _texts(Tokenizer(), [0, 1, 2, 3]) == ("Hi", " you", "�", "�")


def without_later_fields(bundle: Bundle) -> dict[str, object]:
    """The bundle as a Gossamer before grain head wrote it."""
    old = json.loads(bundle.model_dump_json())
    for part, names in LATER.items():
        for one in old["circuit"]["nodes"] if part == "nodes" else [old[part] if part else old]:
            for name in names:
                del one[name]
    return old


def test_bundles_from_before_are_read_as_they_were() -> None:
    assert Bundle.model_validate(without_later_fields(example_bundle())) == example_bundle()
    data = re.search(
        r'<script type="application/json" id="gossamer-bundle">(.*?)</script>', DEMO.read_text(), re.DOTALL
    )
    assert data is not None
    demo = Bundle.model_validate_json(data.group(1))
    assert demo.grain == "channel"
    assert {node.kind for node in demo.circuit.nodes} == {"channel"}


def test_a_bundle_of_one_grain_with_numbers_of_the_other_is_refused() -> None:
    good = json.loads(head_bundle().model_dump_json())
    assert np.isfinite([e["weight"] for e in good["circuit"]["edges"]]).all()
    wrong = {**good, "circuit": {**good["circuit"], "faithfulness": None}}
    with pytest.raises(ValidationError, match=r"at grain head: circuit\.faithfulness is null"):
        Bundle.model_validate(wrong)
    with pytest.raises(ValidationError, match=r"circuit\.target_loss_nats is null; .*nodes are of another grain"):
        Bundle.model_validate({**good, "grain": "channel"})
