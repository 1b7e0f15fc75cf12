"""The model in the page is the model in torch: its tokenizer, its forward pass, its circuits, its interventions."""

from __future__ import annotations

import base64
import json
import random
import shutil
import sysconfig
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from live_bundle import circuit_of, in_node, live_bundle, tiny
from tokenizers import Tokenizer, models
from toys import random_model

from gossamer.circuit import Calibration, Circuit
from gossamer.commands.live import answer
from gossamer.commands.page_model import MOST_BYTES, page_model, page_tokenizer
from gossamer.commands.run_folder import Run
from gossamer.corpora.tokenizer import END_OF_TEXT, untrained_tokenizer
from gossamer.explain import Change, Said, ask
from gossamer.explain.live import LARGEST_CLAMP
from gossamer.models import LoadedModel, from_pretrained, kernels
from gossamer.models.quantise import from_rounded_rows, rounded_rows
from gossamer.show.live import Answer, Question
from gossamer.tasks import load_task

pytestmark = pytest.mark.skipif(not shutil.which("node"), reason="needs node (.ci/run installs it)")

ODD = [
    "", " ", "\t", "a\r\nb\r\n", "\n\n\n  x", "\tif x:\n\t\ty", "naïve café", "日本語のテキスト", "🙂👩\u200d👧 ok",
    "a\u0085b\ufeffc\u00a0d", "x  \t \n   \n y  ", "1234567 12 3", "__init__.py", "....", "'\"\\'", "<|endof",
    f"one{END_OF_TEXT}two", END_OF_TEXT * 2, "e\u0301 \u200b \u2028 \u3000z", "𝒳𝟙²½", "a" * 300, "ǅ ß ſ",
    "\x00\x01\x7f", "s\u180et",
]  # fmt: skip


def test_the_page_cuts_text_into_the_same_tokens() -> None:
    model = tiny()
    library = Path(sysconfig.get_paths()["stdlib"])
    lines = [line for name in ("ast.py", "textwrap.py", "json/decoder.py", "difflib.py")
             for line in (library / name).read_text(encoding="utf-8").splitlines(keepends=True)]  # fmt: skip
    texts = [*random.Random(0).sample(lines, 400), "".join(lines[:60]), *ODD]
    given = page_tokenizer(model.tokenizer, model.bos)
    assert given is not None
    found = in_node(texts=texts, tokenizer=given.model_dump())
    for text, ids, pieces in zip(texts, found["ids"], found["pieces"], strict=True):
        assert ids == model.tokenizer.encode(text, add_special_tokens=False).ids, repr(text)
        assert pieces == [model.tokenizer.decode([i], skip_special_tokens=False) for i in ids], repr(text)


def close_calls(model: LoadedModel, tokens: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many rows of all AbsTopK have a last kept and a first dropped value within 1e-6 of each other."""
    n, own = 0, kernels._keep_largest_

    def counted(x: torch.Tensor, k: int) -> torch.Tensor:
        nonlocal n
        top = x.abs().topk(k + 1, dim=-1).values
        n += int(((top[..., -2] - top[..., -1] <= 1e-6 * top[..., -2]) & (top[..., -2] > 0)).sum())
        return own(x, k)

    with monkeypatch.context() as patch:
        patch.setattr(kernels, "_keep_largest_", counted)
        model.model.hidden(tokens)
    return n


@torch.no_grad()
def probabilities(model: LoadedModel, circuit: Circuit | None, batch: Any) -> np.ndarray:
    """Next-token probabilities [rows, vocab] after each prompt, as the checks run model and circuit."""
    ablation = None if circuit is None else circuit.as_ablation("gao-mean")
    rows = torch.arange(len(batch.last))
    resid = model.run(batch, ablation=ablation, reads=["final_resid"]).reads["final_resid"][rows, batch.last]
    logits = model.model.unembed(model.model.ln_f(resid), batch.tokens[rows, batch.last])
    found: np.ndarray = logits.double().softmax(-1).numpy()
    return found


def test_the_page_says_what_torch_says_on_200_heldout_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    model, bundle = tiny(), live_bundle()
    pairs = load_task("single_double_quote").heldout[:100]
    batch = model.encode(pairs)
    two = [pairs[0].answer, pairs[0].wrong_answer]
    texts = [text for pair in pairs for text in (pair.clean, pair.counterfactual)]
    questions = [{"text": text, "interventions": [], "candidates": two} for text in texts]
    given = bundle.model_dump()
    given["circuit"]["calibration"] = None
    answers = in_node([{"bundle": given, "questions": questions}])["answers"]
    circuit = circuit_of(model, [node.site for node in bundle.circuit.nodes])
    ids = [int(batch.answer[0]), int(batch.wrong[0])]
    off = []
    both = {"model": probabilities(model, None, batch), "circuit": probabilities(model, circuit, batch)}
    assert np.abs(both["model"] - both["circuit"]).max() > 0.01, "one is not mistaken for the other"
    for part, expected in both.items():
        for p, said in zip(expected, answers, strict=True):
            top, two_said = said[part]["top"], said[part]["candidates"]
            off.append(max(
                *(abs(p[one["id"]] - one["probability"]) for one in top), *np.abs(p[ids] - two_said),
                *np.abs(np.sort(p)[::-1][: len(top)] - [one["probability"] for one in top]),
            ))  # fmt: skip
    near = close_calls(model, batch.tokens, monkeypatch)
    print(f"largest difference {max(off):.1e} of {len(off)} runs, none left out; {near} near ties in AbsTopK")
    assert len(off) == 400
    assert max(off) < 1e-4


def compared(said: Said, found: dict[str, Any]) -> float:
    """The largest difference in probabilities, traces and attention."""
    own = dict(said.top)
    off = [abs(own[one["id"]] - one["probability"]) for one in found["top"] if one["id"] in own]
    assert len(off) >= 8
    off += np.abs(np.subtract(said.candidates, found["candidates"])).tolist()
    assert [trace["site"] for trace in found["traces"]] == list(said.traces)
    for trace in found["traces"]:
        off.append(float(np.abs(said.traces[trace["site"]].numpy() - trace["values"]).max()))
    assert [one["head"] for one in found["patterns"]] == list(said.patterns)
    for one in found["patterns"]:
        for i, row in enumerate(one["rows"]):
            off.append(float(np.abs(said.patterns[one["head"]][i, : i + 1].numpy() - row).max()))
    return max(off)


def as_bundle(model: LoadedModel, circuit: Circuit) -> dict[str, Any]:
    """What the page's engine reads of a bundle."""
    page, per_head, sites = page_model(model), model.model.config.d_head, circuit.layout.site
    assert page is not None
    nodes = [
        {
            "site": str(s), "location": s.location, "index": s.index, "layer": s.layer,
            "head": s.index // per_head if s.location.split(".")[-1] in ("q", "k", "v") else None,
        }
        for s in circuit.sites if s.index is not None
    ]  # fmt: skip
    edges = [
        {"src": str(sites(int(a))), "dst": str(sites(int(b))), "matrix": circuit.matrices[m]}
        for a, b, m in zip(circuit.src, circuit.dst, circuit.matrix, strict=True)
    ]
    fit = circuit.calibration
    calibration = None if fit is None else {"scale": fit.scale, "shift": fit.shift}
    return {"live": page.model_dump(), "circuit": {"nodes": nodes, "edges": edges, "calibration": calibration}}


def drawn(circuit: Circuit, rng: random.Random) -> list[Change]:
    """An ablation, two clamps and three cuts (of which some may be the same) of a circuit."""
    sites, name = [str(s) for s in circuit.sites], circuit.layout.site
    ends = [(circuit.src[e], circuit.dst[e], circuit.matrix[e]) for e in rng.choices(range(circuit.n_edges), k=3)]
    return [
        Change("ablate", rng.choice(sites)), *(Change("clamp", rng.choice(sites), rng.gauss(0, 2)) for _ in range(2)),
        *(Change("cut", src=str(name(int(a))), dst=str(name(int(b))), matrix=circuit.matrices[m]) for a, b, m in ends),
    ]  # fmt: skip


def byte_tokenizer() -> Tokenizer:
    """256 bytes, two merges and the start of every prompt."""
    letters = sorted({*map(chr, range(0x21, 0x7F)), *map(chr, range(0xA1, 0xAD)), *map(chr, range(0xAE, 0x144))})
    vocab = {letter: i for i, letter in enumerate(letters)} | {"ab": 256, "abc": 257}
    made = untrained_tokenizer()
    made.model = models.BPE(vocab=vocab, merges=[("a", "b"), ("ab", "c")])
    made.add_special_tokens([END_OF_TEXT])
    return made


def other_models() -> list[LoadedModel]:
    """Every variant of the architecture that `tiny` is not."""
    made = [
        random_model(vocab_size=259, bigram=True),
        random_model(vocab_size=259, position="additive", activation="relu", sink=False),
        random_model(vocab_size=259, position="channels", d_pos=6, topk_places=("attn_in", "mlp_in", "mlp_neuron")),
        random_model(vocab_size=259, bias=False, bigram=True),
    ]
    table = made[0].model.bigram_table
    assert table is not None
    table.data = from_rounded_rows(*rounded_rows(torch.randn(259, 259, generator=torch.Generator().manual_seed(0))))
    made[1].model.final_logits_bias.copy_(torch.linspace(-2, 2, 259))
    return [replace(one, tokenizer=byte_tokenizer()) for one in made]


def test_every_kind_of_model_circuit_and_intervention_is_as_in_torch() -> None:
    rng, asked, expected = random.Random(0), [], []
    shown = live_bundle().circuit
    quotes = circuit_of(tiny(), [node.site for node in shown.nodes])
    fit = Calibration(scale=1.3, shift=-0.4)
    cases: list[tuple[LoadedModel, Circuit, tuple[str, str], list[str]]] = [
        (tiny(), replace(quotes, calibration=fit), ("')", '")'), ["print('it is", 'x = f("a  b']),
        (tiny(), quotes.only(np.arange(quotes.n_edges) % 4 > 0), ("')", '")'), ["log('π", ""]),
    ]
    for one in other_models():
        sites = [str(one.layout.site(n)) for n in rng.sample(range(one.layout.n_nodes), 120)]
        whole = circuit_of(one, sites)
        cases.append((one, whole, ("abc", "x"), ["abcab", "q!"]))
    for model, circuit, two, texts in cases:
        changes = [[], drawn(circuit, rng), drawn(circuit, rng)]
        if not model.model.config.bias:
            changes = [[c for c in some if c.kind != "cut"] for some in changes]
        todo = [(text, some) for text in texts for some in changes]
        expected += [ask(model, circuit, text, some, two) for text, some in todo]
        asked.append({
            "bundle": as_bundle(model, circuit),
            "questions": [
                {"text": text, "interventions": [c._asdict() for c in some], "candidates": two} for text, some in todo
            ],
        })  # fmt: skip
    answers = in_node(asked)["answers"]
    for own, found in zip(expected, answers, strict=True):
        assert "error" not in found, found
        assert compared(own.model, found["model"]) < 1e-4
        assert compared(own.circuit, found["circuit"]) < 1e-4
    bare, done = answers[0], answers[1]
    assert abs(bare["circuit"]["candidates"][0] - done["circuit"]["candidates"][0]) > 1e-6, "interventions do something"


def test_a_page_and_a_run_give_one_kind_of_answer() -> None:
    bundle = live_bundle()
    two = bundle.task.examples[0]
    question = Question(text=two.clean, candidates=(two.answer, two.wrong_answer))
    circuit = replace(circuit_of(tiny(), [node.site for node in bundle.circuit.nodes]), calibration=None)
    given = bundle.model_copy(update={"circuit": bundle.circuit.model_copy(update={"calibration": None})})
    (found,) = in_node([{"bundle": given.model_dump(), "questions": [question.model_dump()]}])["answers"]
    own = answer(cast(Run, SimpleNamespace(weight_sparse=tiny(), circuit=circuit)), question)
    theirs = Answer.model_validate_json(json.dumps(found))
    assert theirs.tokens == own.tokens
    for part, other in ((own.model, theirs.model), (own.circuit, theirs.circuit)):
        assert [(one.token, one.id) for one in part.top] == [(one.token, one.id) for one in other.top]
        assert part.candidates == pytest.approx(other.candidates, abs=1e-4)
        assert [one.head for one in part.patterns] == [one.head for one in other.patterns]


def test_the_page_refuses_what_torch_refuses() -> None:
    bundle = live_bundle().model_dump()
    none = {"site": None, "value": None, "src": None, "dst": None, "matrix": None}
    wrong = [
        {**none, "kind": "ablate", "site": "0.attn.v:999"}, {**none, "kind": "clamp", "site": "1.attn.v:9"},
        {**none, "kind": "cut", "src": "0.attn.act_in:0", "dst": "1.attn.v:9", "matrix": "1.attn.c_attn.v"},
        {**none, "kind": "clamp", "site": "1.attn.v:8", "value": 1e30},
    ]  # fmt: skip
    questions = [{"text": "x " * 200, "interventions": wrong, "candidates": ["two tokens", ")"]}]
    (found,) = in_node([{"bundle": bundle, "questions": questions}])["answers"]
    for part in (
        "at most 128 tokens, got",
        '"two tokens" is',
        "0.attn.v:999",
        "to clamp 1.attn.v:9",
        "an edge of this model",
        "to clamp 1.attn.v:8 to, got 1e+30",
    ):
        assert part in found["error"]


def test_a_candidate_that_merges_with_the_prompt_is_the_token_it_is_alone_here_and_there() -> None:
    model, bundle = tiny(), live_bundle()
    circuit = circuit_of(model, [node.site for node in bundle.circuit.nodes])
    given = bundle.model_dump()
    given["circuit"]["calibration"] = None
    texts, two = ["log('a b", "log('a ", 'log("', ""], ("')", '")')
    answers = in_node(
        [{"bundle": given, "questions": [{"text": t, "interventions": [], "candidates": two} for t in texts]}]
    )["answers"]
    merged = []
    for text, found in zip(texts, answers, strict=True):
        own = ask(model, circuit, text, (), two)
        assert found["model"]["candidates"] == pytest.approx(own.model.candidates, abs=1e-4)
        assert found["note"] == "; ".join(own.notes)
        merged.append(found["note"].partition(" would")[0])
    assert merged == ["", "') and \")", '")', ""]


def test_the_largest_clamp_is_answered_as_torch_does_and_logits_that_are_not_finite_are_said() -> None:
    bundle = live_bundle()
    clamp = {"kind": "clamp", "site": "final_resid:0", "value": LARGEST_CLAMP, "src": None, "dst": None, "matrix": None}
    damaged = bundle.model_dump()
    for array in damaged["live"]["arrays"]:
        if array["name"].endswith(".resid_delta"):
            array["base64"] = base64.b64encode(np.full(array["shape"], 3e38, np.float32).tobytes()).decode()
    asked = {"text": "x", "interventions": [clamp], "candidates": ["')"]}
    one, none = in_node([{"bundle": b, "questions": [asked]} for b in (bundle.model_dump(), damaged)])["answers"]
    circuit = circuit_of(tiny(), [node.site for node in bundle.circuit.nodes])
    said = ask(tiny(), circuit, "x", [Change("clamp", "final_resid:0", LARGEST_CLAMP)], ("')",))
    assert one["model"]["candidates"] == pytest.approx(said.model.candidates, abs=1e-4)
    assert "finite logits, some are not" in none["error"]


def test_what_does_not_fit_stays_at_home(small: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    assert page_model(small) is None, "its tokenizer is of words"
    assert page_model(from_pretrained("small")) is None, "more than the stated bytes"
    found = page_model(tiny())
    assert found is not None
    assert len(found.model_dump_json()) < MOST_BYTES
    assert page_model(replace(tiny(), reference=None)) is None
