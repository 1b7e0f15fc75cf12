"""A circuit as a program: exact mode is the ablated model for every model and circuit; frozen mode where it can be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from export_helpers import ablated_logits, model64, prompts, random_circuit
from toys import PLANTED_NODES, planted_model, planted_task
from verify_helpers import circuit_of

from gossamer.circuit import Calibration
from gossamer.discover.prune import circuit_gap
from gossamer.errors import BadInput, CorruptFile, Unsupported
from gossamer.models.extract import extract, freeze
from gossamer.models.files import write_safetensors
from gossamer.models.standalone import Attention, Contest, Read, load_standalone, strongest

VARIANTS: tuple[dict[str, object], ...] = (
    {}, {"sink": False}, {"bigram": True}, {"topk_places": ()}, {"n_layer": 3}, {"bias": False},
    {"activation": "relu"}, {"n_layer": 1, "activation_fraction": 0.2}, {"topk_places": ("attn_v", "mlp_out")},
)  # fmt: skip
SHARES = (0.0, 0.1, 0.3, 0.6, 0.9, 1.0)


@pytest.mark.parametrize("seed", range(len(VARIANTS)))
@pytest.mark.parametrize("preset", ["gao-mean", "zero-complement"])
def test_exact_mode_is_the_ablated_model(seed: int, preset: str) -> None:
    model = model64(seed, **VARIANTS[seed])
    batch = prompts(model, seed=seed)
    for share in SHARES:
        for tied in (False, True):
            circuit = random_circuit(model, share, seed, tied)
            made = extract(model, circuit, preset=preset)
            expected = ablated_logits(model, circuit, batch, preset)
            torch.testing.assert_close(made(batch.tokens, batch.last), expected, atol=1e-9, rtol=1e-9)
            with torch.no_grad():
                gap = model.run(batch, ablation=circuit.as_ablation(preset)).gap
            torch.testing.assert_close(made.gap(batch), gap, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("n_layer", [2, 3])
@pytest.mark.parametrize("mode", ["exact", "frozen"])
def test_attention_whose_values_are_gone_still_shares_with_its_sink(n_layer: int, mode: str) -> None:
    """Keys alone decide then how much the sink takes of the values' means."""
    model, last = model64(21, n_layer=n_layer), n_layer - 1
    batch = prompts(model, seed=21)
    for without in (
        (f"{last}.attn.v",),
        ("0.attn.k", "0.attn.v", f"{last}.attn.v"),
        (f"{last}.attn.v", f"{last}.attn.q"),
    ):
        circuit = random_circuit(model, 0.9, 21, without=without)
        made = extract(model, circuit, mode, prompts=batch)
        one = made(batch.tokens[:1, : batch.last[0] + 1], batch.last[:1])
        torch.testing.assert_close(made(batch.tokens, batch.last)[:1], one, atol=1e-9, rtol=1e-9)
        if mode == "exact":
            expected = ablated_logits(model, circuit, batch, "gao-mean")
            torch.testing.assert_close(made(batch.tokens, batch.last), expected, atol=1e-9, rtol=1e-9)


def test_exact_mode_is_the_planted_mechanism() -> None:
    model = planted_model()
    model.model.double()
    model = replace(model)
    circuit = circuit_of(model, PLANTED_NODES)
    batch = model.encode(planted_task().train)
    z = extract(model, circuit).gap(batch)
    assert bool((z > 0).all())
    dropped = circuit_of(model, PLANTED_NODES[1:])  # the control: without the node that reads the side
    assert extract(model, dropped).gap(batch).view(-1, 2).sum(1).abs().max() < 1e-6


def test_channels_that_are_not_kept_compete() -> None:
    """The control of the derivation: without the rivals' sizes, or without AbsTopK, the logits are others."""
    model = model64()
    circuit, batch = random_circuit(model, 0.6), prompts(model)
    expected = ablated_logits(model, circuit, batch, "gao-mean")
    for kind in (Contest, Read):
        made = extract(model, circuit)
        ranked = [p for p in made.modules() if isinstance(p, kind) and p.numbers["rank"]]
        assert ranked
        for part in ranked:
            part.numbers["rank"] = 0
        assert (made(batch.tokens, batch.last) - expected).abs().max() > 1e-3


def test_the_rivals_decide_as_all_channels_do() -> None:
    generator = torch.Generator().manual_seed(0)
    for n_fixed, n_varying, k in ((9, 3, 5), (4, 8, 5), (12, 1, 3), (1, 6, 6), (6, 6, 1)):
        fixed, varying = (torch.rand(200, n, generator=generator) for n in (n_fixed, n_varying))
        places, survive = strongest(fixed, k, n_varying)
        rivals, rank = fixed.gather(1, places[:, survive:]), k - survive
        assert rivals.shape[-1] <= n_varying + 1
        everyone, few = torch.cat([fixed, varying], 1), torch.cat([rivals, varying], 1)
        for value in everyone.unbind(1):
            truth = (everyone > value[:, None]).sum(1) < k
            assert torch.equal((few > value[:, None]).sum(1) < rank, truth)


def test_calibration_answers_padding_and_batch_size() -> None:
    model = model64()
    circuit = random_circuit(model, 0.5, fit=Calibration(scale=2.0, shift=-0.3))
    batch = prompts(model)
    made = extract(model, circuit, answers=[3, 2])
    torch.testing.assert_close(made.gap(batch), circuit_gap(model, circuit, batch), atol=1e-9, rtol=0)
    logits = made(batch.tokens, batch.last)
    whole = extract(model, circuit)(batch.tokens, batch.last)
    torch.testing.assert_close(logits, whole[:, [3, 2]], atol=1e-12, rtol=0)
    longer = torch.cat([batch.tokens, torch.full((len(batch.last), 4), 7)], dim=1)
    torch.testing.assert_close(made(longer, batch.last), logits, atol=1e-12, rtol=0)
    for i in (0, 5):
        alone = made(batch.tokens[i : i + 1, : batch.last[i] + 1], batch.last[i : i + 1])
        torch.testing.assert_close(alone, logits[i : i + 1], atol=1e-12, rtol=0)
    assert torch.equal(extract(model, circuit, answers=[3, 2])(batch.tokens, batch.last), logits)


def test_frozen_mode_is_exact_where_nothing_it_freezes_varies() -> None:
    """A circuit that sees only the last token, on prompts that end alike: one norm and one threshold each."""
    model = model64()
    keep = random_circuit(model, 0.7)
    sites = tuple(str(s) for s in keep.sites if ".attn." not in str(s))
    circuit, batch = circuit_of(model, sites), prompts(model)
    last = batch.tokens.gather(1, batch.last[:, None])[:, 0]
    rows = (last == last[0]).nonzero()[:, 0]
    alike = batch._replace(**{f: getattr(batch, f)[rows] for f in batch._fields})
    frozen = extract(model, circuit, "frozen", prompts=alike)
    expected = ablated_logits(model, circuit, batch, "gao-mean")
    torch.testing.assert_close(frozen(alike.tokens, alike.last), expected[rows], atol=1e-9, rtol=1e-9)
    others = (last != last[0]).nonzero()[:, 0]
    assert (frozen(batch.tokens, batch.last)[others] - expected[others]).abs().max() > 1e-2  # and it lies elsewhere


def test_what_is_frozen_is_measured_under_the_ablation() -> None:
    """Thresholds, norms and the shares that sinks leave, by hand for a circuit without nodes."""
    model = model64(activation_fraction=0.2)
    circuit, batch = random_circuit(model, 0.0), prompts(model)
    frozen = freeze(model, circuit, "gao-mean", batch, None)
    at_last = batch.tokens.gather(1, batch.last[:, None])[:, 0]
    x = model.model.wte.weight[at_last]
    assert frozen.inverse["0.attn.act_in"] == pytest.approx(float(x.square().mean(1).rsqrt().mean()), rel=1e-9)
    a = x * x.square().mean(1, keepdim=True).rsqrt() * model.model.blocks[0].ln_1.weight
    sizes = a.abs().sort(1, descending=True).values[:, model.model.config.kept("attn_in") - 1].sort().values
    middle = sizes[(len(sizes) - 1) // 2]
    above = sizes[sizes > middle + 1e-9][0]
    assert frozen.threshold["0.attn.act_in"] == pytest.approx(float(middle + above) / 2, rel=1e-9)
    block = model.model.blocks[0].attn
    assert block.sink_logit is not None
    q, k = model.means()["0.attn.q"].view(4, 4), model.means()["0.attn.k"].view(4, 4)
    score = (q * k).sum(1).double() / 2
    n = (batch.last + 1).double()
    share = (n[:, None] * score.exp() / (n[:, None] * score.exp() + block.sink_logit.exp())).mean(0)
    torch.testing.assert_close(frozen.share[0], share, atol=1e-6, rtol=0)  # the means are float32


def test_frozen_mode_keeps_only_kept_nodes() -> None:
    model = model64()
    circuit = random_circuit(model, 0.3)
    frozen = extract(model, circuit, "frozen", prompts=prompts(model))
    exact = extract(model, circuit)
    rows = [sum(p.numbers["kept"] for p in m.modules() if isinstance(p, Contest)) for m in (frozen, exact)]
    assert rows[0] < rows[1]
    assert not any(p.numbers["rank"] for p in frozen.modules() if isinstance(p, (Contest, Read)))
    assert (frozen.gap(prompts(model)) - exact.gap(prompts(model))).abs().max() > 1e-3


def test_a_circuit_without_attention_reads_one_token() -> None:
    model = model64()
    sites = tuple(str(s) for s in random_circuit(model, 0.7).sites if ".attn." not in str(s))
    made = extract(model, circuit_of(model, sites))
    assert not made.config.everywhere
    assert not any(isinstance(p, Attention) and p.looks_back() for p in made.modules())


@pytest.mark.parametrize("mode", ["exact", "frozen"])
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_saved_circuit_is_the_same_one(mode: str, share: float, tmp_path: Path) -> None:
    model = model64()
    batch, circuit = prompts(model), random_circuit(model, share, fit=Calibration(scale=1.5, shift=0.1))
    made = extract(model, circuit, "exact" if mode == "exact" else "frozen", prompts=batch)
    path = made.save(tmp_path / "c.safetensors")
    again = load_standalone(path)
    assert again.config == made.config
    assert torch.equal(again.gap(batch), made.gap(batch))
    damaged = bytearray(path.read_bytes())
    damaged[-3] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(CorruptFile):
        load_standalone(path)


def test_only_our_files_are_loaded(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "pickle.safetensors")
    with pytest.raises(CorruptFile, match="damaged"):
        load_standalone(tmp_path / "pickle.safetensors")
    write_safetensors({"a": torch.ones(2)}, tmp_path / "other.safetensors", {"kind": "other", "format_version": "1"})
    with pytest.raises(CorruptFile, match="is other version 1, expected gossamer-standalone"):
        load_standalone(tmp_path / "other.safetensors")
    with pytest.raises(BadInput, match="found none"):
        load_standalone(tmp_path / "nothing.safetensors")


def test_what_cannot_be_exported_is_refused() -> None:
    model = model64()
    circuit, batch = random_circuit(model, 0.5), prompts(model)
    with pytest.raises(Unsupported, match="gao-mean or zero-complement"):
        extract(model, circuit, preset="gao-mean-circuit")
    for changes in ({"position": "additive"}, {"position": "channels", "d_pos": 4}):
        other = model64(**changes)
        with pytest.raises(Unsupported, match="positions"):
            extract(other, random_circuit(other, 0.5))
    with pytest.raises(BadInput, match="another layout"):
        extract(model64(n_layer=3), circuit)
    with pytest.raises(BadInput, match="the circuit was found in"):
        extract(model64(1), circuit)
    with pytest.raises(BadInput, match="prompts"):
        extract(model, circuit, "frozen")
    for answers in ([], [99], [-1]):
        with pytest.raises(BadInput, match="token ids"):
            extract(model, circuit, answers=answers)
    with pytest.raises(BadInput, match="exported with"):
        extract(model, circuit, answers=[2, 5]).gap(batch)
    long = batch._replace(tokens=torch.zeros(len(batch.last), 17, dtype=torch.int64))
    with pytest.raises(BadInput, match="at most 16 tokens"):
        extract(model, circuit).gap(long)
