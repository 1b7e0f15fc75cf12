"""QK and OV forms of weight-sparse models and circuits: a copy in another order is found, shuffled weights are not."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from gossamer.circuit import Circuit
from gossamer.compare import (
    checkpoint_form_evidence,
    circuit_form_evidence,
    form_matrix,
    form_similarity,
    forms_of,
    model_form_evidence,
)
from gossamer.errors import BadInput
from gossamer.models import LoadedModel
from gossamer.models.sparse import SparseConfig, SparseTransformer
from gossamer.record import Record


def reordered(model: SparseTransformer, order: torch.Tensor, signs: torch.Tensor) -> SparseTransformer:
    """The same function with residual channel order[i] as channel i, turned around where signs[i] is -1, and every
    layer's heads the other way round."""
    found, c = copy.deepcopy(model), model.config
    with torch.no_grad():
        for table in (found.wte.weight, found.lm_head.weight):
            table.copy_(table[:, order] * signs)
        for block in found.blocks:
            heads = torch.arange(c.d_attn).view(c.n_head, -1).flip(0).flatten()
            w = block.attn.c_attn
            w.weight.copy_((w.weight[:, order] * signs).unflatten(0, (3, -1))[:, heads].flatten(0, 1))
            w.bias.copy_(w.bias.unflatten(0, (3, -1))[:, heads].flatten())
            if block.attn.sink_logit is not None:
                block.attn.sink_logit.copy_(block.attn.sink_logit.flip(0))
            block.attn.c_proj.weight.copy_(block.attn.c_proj.weight[order][:, heads] * signs[:, None])
            block.mlp.c_fc.weight.copy_(block.mlp.c_fc.weight[:, order] * signs)
            block.mlp.c_proj.weight.copy_(block.mlp.c_proj.weight[order] * signs[:, None])
            for linear in (block.attn.c_proj, block.mlp.c_proj):
                linear.bias.copy_(linear.bias[order] * signs)
            for norm in (block.ln_1, block.ln_2):
                norm.weight.copy_(norm.weight[order])
        found.ln_f.weight.copy_(found.ln_f.weight[order])
    return found


def model_and_copy(model: SparseTransformer) -> tuple[SparseTransformer, SparseTransformer, torch.Tensor, torch.Tensor]:
    model = copy.deepcopy(model).double()
    generator = torch.Generator().manual_seed(3)
    order = torch.randperm(model.config.d_model, generator=generator)
    signs = torch.randint(2, order.shape, generator=generator) * 2.0 - 1
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith(("bias", "ln_1.weight")):
                p.uniform_(0.5, 1.5, generator=generator)
    return model, reordered(model, order, signs), order, signs


def test_a_copy_in_another_order_is_the_same_function_and_is_found(small: LoadedModel) -> None:
    a, b, order, signs = model_and_copy(small.model)
    tokens = torch.arange(6)[None]
    torch.testing.assert_close(a.hidden(tokens) @ a.lm_head.weight.T, b.hidden(tokens) @ b.lm_head.weight.T)
    one, two = forms_of(a), forms_of(b)
    r = form_similarity(one, two, draws=3)
    assert (r.value, r.qk, r.ov) == tuple(pytest.approx(1, abs=1e-12) for _ in range(3))
    assert np.array_equal(order[r.channels], np.arange(len(order)))
    assert abs((signs.numpy()[r.channels] * r.signs).sum()) == len(order)  # forms do not see a sign common to all
    assert all(row == tuple(reversed(range(a.config.n_head))) for row in r.heads)
    assert abs(r.as_is) < 0.5
    assert r.null_interval[1] < 0.8
    assert (r.p_value, r.smallest) == (0.25, 0.25)


def test_other_weights_are_not_alike_and_a_best_order_flatters_them(small: LoadedModel) -> None:
    """The control: of another model there is nothing to find, and its value lies well above 0 as that of the null."""
    other = SparseTransformer(small.model.config, seed=77)
    r = form_similarity(forms_of(small), forms_of(other), draws=9)
    assert r.value > abs(r.as_is)
    assert 0.05 < r.value < 0.8
    assert abs(r.value - r.null) < 0.2
    assert r.p_value > 0.1


def test_forms_are_what_heads_do(small: LoadedModel) -> None:
    """q . k of a head without the key's bias is [1 x] QK y, and its write O V y, for channels x and y after the norm
    without its gain."""
    model, forms = small.model, forms_of(small)
    c, block = model.config, model.blocks[1]
    x, y = torch.randn(2, c.d_model, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    w, gain = block.attn.c_attn.weight.double().chunk(3), block.ln_1.weight.double()
    q, k, v = ((part @ (z * gain)).unflatten(0, (c.n_head, -1)) for part, z in zip(w, (x, y, y), strict=True))
    q = q + block.attn.c_attn.bias.double()[: c.d_attn].unflatten(0, (c.n_head, -1))
    qk, ov = torch.cat([forms.bias, forms.query], 3).mT @ forms.key, forms.output @ forms.value
    whole = torch.cat([torch.ones(1, dtype=torch.float64), x])
    torch.testing.assert_close(torch.einsum("i,hij,j->h", whole, qk[1], y), (q * k).sum(1))
    torch.testing.assert_close((ov[1] @ y).sum(0), block.attn.c_proj.weight.double() @ v.flatten())
    assert float(forms.qk().norm()) == pytest.approx(1)


def test_a_circuits_forms_hold_its_edges_only(small: LoadedModel) -> None:
    graph = small.graph("channel")
    weights = np.ones(graph.n_edges)
    record = Record(method="by hand", config={}, seed=0)
    whole = Circuit.from_nodes(graph, weights, range(graph.layout.n_nodes), record=record)
    all_of_it, model = forms_of(small, whole), forms_of(small)
    torch.testing.assert_close(all_of_it.query, model.query)
    torch.testing.assert_close(all_of_it.output, model.output)
    name = "1.attn.c_attn.k"
    edges = np.flatnonzero(graph.matrix == graph.matrices.index(name))
    part = forms_of(small, Circuit.from_edges(graph, edges, weights[edges], record=record))
    torch.testing.assert_close(part.key[1], model.key[1])
    assert not part.key[0].any()
    assert not part.query.any()
    assert not part.bias.any()
    with pytest.raises(BadInput, match="no head at work"):
        form_similarity(part, model)
    both = form_matrix([part, model])
    assert np.isnan(float(both[0, 0]))
    assert float(both[1, 1]) == pytest.approx(1)
    kept = [name.endswith((".c_attn.v", "attn.c_proj")) for name in graph.matrices]
    edges = np.flatnonzero(np.array(kept)[graph.matrix])
    copies = forms_of(small, Circuit.from_edges(graph, edges, weights[edges], record=record))
    assert not copies.qk().any()
    assert form_similarity(copies, copies, draws=1).value == pytest.approx(1)
    assert float(form_matrix([copies, model])[0, 1]) == pytest.approx(0.5)
    c = small.model.config
    with pytest.raises(BadInput, match="no matrix 2"):
        forms_of(SparseTransformer(c.model_copy(update={"n_layer": 3})), whole)


def test_a_matrix_and_other_widths(small: LoadedModel) -> None:
    c = small.model.config
    checkpoints = [forms_of(SparseTransformer(c, seed=i)) for i in range(2)]
    matrix = form_matrix([forms_of(small), *checkpoints])
    torch.testing.assert_close(matrix.diagonal(), torch.ones(3, dtype=torch.float64))
    assert float(matrix[0, 2]) == pytest.approx(form_similarity(forms_of(small), checkpoints[1], draws=1).as_is)
    narrow = SparseConfig(**(c.model_dump() | {"d_model": c.d_model - 1, "n_head": 1}))
    r = form_similarity(forms_of(small), forms_of(SparseTransformer(narrow, seed=0)), draws=1)
    assert np.isnan(r.as_is)
    assert (r.channels == -1).sum() == 1
    with pytest.raises(BadInput, match="one shape"):
        form_matrix([forms_of(small), forms_of(SparseTransformer(narrow))])
    with pytest.raises(BadInput, match="as many layers"):
        form_similarity(forms_of(small), forms_of(SparseTransformer(c.model_copy(update={"n_layer": 1}))))


def heads_of(model: LoadedModel, which: tuple[tuple[int, int], ...]) -> Circuit:
    """The circuit of all that these heads (layer, head) read and write."""
    graph, c = model.graph("channel"), model.model.config
    nodes = []
    for name, width in graph.layout.locations:
        layer, _, part = name.partition(".")
        own = [h for i, h in which if layer.isdigit() and i == int(layer)]
        if part in ("attn.q", "attn.k", "attn.v"):
            nodes += [graph.layout.starts[name] + h * c.d_head + i for h in own for i in range(c.d_head)]
        elif part in ("attn.act_in", "attn.resid_delta") and own:
            nodes += range(graph.layout.starts[name], graph.layout.starts[name] + width)
    record = Record(method="by hand", config={}, seed=0)
    return Circuit.from_nodes(graph, model.edge_weights(graph), nodes, record=record)


def test_circuits_of_one_head_are_alike_and_of_two_heads_are_not(small: LoadedModel) -> None:
    """Beside each pair are circuits of random edges; a pair without a head at work is not measured."""
    circuits = {
        "one": heads_of(small, ((0, 0),)), "the same": heads_of(small, ((0, 0),)),
        "another": heads_of(small, ((1, 1),)), "none": heads_of(small, ()), "no other": heads_of(small, ()),
    }  # fmt: skip
    rows = {e.name: e for e in circuit_form_evidence(small, circuits, draws=19)}
    same, other = (rows[f"form similarity (one and {name})"] for name in ("the same", "another"))
    assert same.value == pytest.approx(1)
    assert same.nulls[0].interval is not None
    assert same.nulls[0].interval[1] < 0.9
    assert (same.verdict, same.p_value) == ("pass", 0.05)
    assert other.value == pytest.approx(0, abs=1e-12)
    assert other.verdict == "fail"
    assert (other.methodology or {})["order of channels"] == "the channels' own"
    nothing = rows["form similarity (none and no other)"]
    assert (nothing.value, nothing.verdict, nothing.nulls) == (None, "not measured", ())
    assert rows["form similarity (one and none)"].value == 0


def test_a_copy_passes_and_other_weights_do_not(small: LoadedModel) -> None:
    a, b, *_ = model_and_copy(small.model)
    seen: list[int] = []
    copied = form_similarity(forms_of(a), forms_of(b), draws=19, progress=lambda i, n, x: seen.append(i))
    row = model_form_evidence("a", "b", copied)
    assert (row.verdict, row.p_value, row.value) == ("pass", 0.05, pytest.approx(1, abs=1e-12))
    assert seen == list(range(1, 21))
    other = form_similarity(forms_of(small), forms_of(SparseTransformer(small.model.config, seed=77)), draws=19)
    assert model_form_evidence("a", "b", other).verdict == "fail"
    few = model_form_evidence("a", "b", form_similarity(forms_of(a), forms_of(b), draws=2))
    assert (few.verdict, few.p_smallest) == ("not measured", pytest.approx(1 / 3))


def test_a_training_nears_its_last_checkpoint(small: LoadedModel) -> None:
    start, end = SparseTransformer(small.model.config, seed=5), small.model
    between = copy.deepcopy(end)
    with torch.no_grad():
        for p, one, two in zip(between.parameters(), start.parameters(), end.parameters(), strict=True):
            p.copy_(0.3 * one + 0.7 * two)
    forms = {name: forms_of(m) for name, m in (("0", start), ("1", between), ("2", end))}
    first, second = checkpoint_form_evidence(forms, draws=19)
    assert [e.name for e in (first, second)] == ["form similarity (0 and 2)", "form similarity (1 and 2)"]
    assert second.value == pytest.approx(float(form_matrix([forms["1"], forms["2"]])[0, 1]))
    assert second.value is not None
    assert first.value is not None
    assert second.value > 0.3 > first.value
    assert (first.verdict, second.verdict) == ("fail", "pass")
    assert {e.verdict for e in checkpoint_form_evidence(forms, draws=18)} == {"not measured"}
