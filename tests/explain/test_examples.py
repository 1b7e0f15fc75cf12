"""Top examples are the top, effects are differences of measured losses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from toys import PLANTED_NODES, planted_task
from verify_helpers import circuit_of

from gossamer import Site
from gossamer.explain import (
    direct_effects,
    direct_logit,
    examples_by_level,
    first_difference,
    histograms,
    mean_on_answer,
    model_effects,
    node_effects,
    random_effects,
    task_examples,
    tokens_into,
    top_examples,
)
from gossamer.explain.examples import activations, text_batch
from gossamer.metric import task_loss_nats
from gossamer.models import LoadedModel


def test_top_examples_are_the_strongest_rows_with_the_peak_marked(small: LoadedModel) -> None:
    text = torch.randint(0, 15, (30, 16), generator=torch.Generator().manual_seed(0))
    site = Site("0.mlp.post_act", 3)
    acts = activations(small, text_batch(text), [site])[site]
    shown = top_examples(small, text, [site], n=4)[site]
    strongest = np.sort(np.abs(acts).max(1))[::-1][:4]
    assert [abs(e.activations[e.position]) for e in shown] == pytest.approx(strongest, abs=1e-3)
    for e in shown:
        assert len(e.tokens) == len(e.activations)
        assert abs(e.activations[e.position]) == max(map(abs, e.activations))


def test_the_planted_value_channel_tells_the_sides_apart(planted: LoadedModel) -> None:
    batch = planted.encode(planted_task(32).heldout)
    site = Site.parse("0.attn.resid_delta:6")
    left, right = mean_on_answer(planted, batch, [site])[site]
    assert left > 0 > right
    assert left == pytest.approx(-right, rel=1e-4)
    shown = task_examples(planted, batch, [site], pairs=1)[site]
    assert len(shown) == 2
    assert len(shown[0].tokens) == int(batch.last[0]) + 1


def test_node_effects_are_measured_losses(planted: LoadedModel) -> None:
    circuit = circuit_of(planted, PLANTED_NODES)
    batch = planted.encode(planted_task(32).heldout)
    effects = node_effects(planted, circuit, batch)
    base = float(task_loss_nats(planted.run(batch, ablation=circuit.as_ablation("gao-mean")).gap).mean())
    for i in range(4):
        rest = circuit_of(planted, PLANTED_NODES[:i] + PLANTED_NODES[i + 1 :])
        without = float(task_loss_nats(planted.run(batch, ablation=rest.as_ablation("gao-mean")).gap).mean())
        assert effects[i] == pytest.approx(without - base, abs=1e-5)
    assert (effects > 0.3).all()


def test_embeddings_are_read_off(planted: LoadedModel) -> None:
    assert {t for t, _ in tokens_into(planted, 3)} == {0, 1}
    assert direct_logit(planted, 6, planted.encode(planted_task(4).heldout)) == pytest.approx(0.4)


def test_places_run_from_strong_to_silent(small: LoadedModel) -> None:
    text = torch.randint(0, 15, (30, 16), generator=torch.Generator().manual_seed(0))
    site = Site("0.mlp.post_act", 3)
    size = np.abs(activations(small, text_batch(text), [site])[site]).ravel()
    found = examples_by_level(small, text, [site], levels=(0.9, 0.5, 0.1))[site]
    assert 0 < found.share < 1
    assert found.share == pytest.approx((size > 0).mean())
    shown = [(level, abs(e.activations[e.position])) for level, e in found.shown]
    assert [level for level, _ in shown] == [0.9, 0.5, 0.1, 0.0]
    for level, at in shown[:3]:
        assert (size[size > 0] < at - 1e-3).mean() == pytest.approx(level, abs=0.02)
    assert shown[3][1] == 0


def test_histograms_count_every_prompt_where_they_are_told_to_look(planted: LoadedModel) -> None:
    batch = planted.encode(planted_task(32).heldout)
    site = Site.parse("0.attn.act_in:3")  # +1 at `left`, -1 at `right`, 0 elsewhere, before the norm
    differs = first_difference(batch)
    assert {planted.tokenizer.decode([t]) for t in batch.tokens[torch.arange(64), differs].tolist()} == {
        "left",
        "right",
    }
    apart = histograms(planted, batch, [site], differs, bins=4)[site]
    assert (apart.clean, apart.counterfactual) == ((0, 0, 0, 32), (32, 0, 0, 0))
    at_end = histograms(planted, batch, [Site.parse("0.mlp.post_act:9")], batch.last, bins=4)
    assert sum(next(iter(at_end.values())).clean) == 32


def test_a_direct_effect_is_the_whole_effect_of_what_only_the_logits_read(small: LoadedModel) -> None:
    batch = small.encode(planted_task(8).heldout)
    whole = small.run(batch).gap
    for name in ("final_resid:2", "1.mlp.resid_delta:2"):
        site = Site.parse(name)
        keep = {k: torch.ones(width) for k, width in small.model.config.locations()}
        keep[site.location][site.index or 0] = 0
        lost = (whole - small.run(batch, masks=keep).gap).unflatten(0, (-1, 2)).mean(0)
        direct = direct_effects(small, batch, [site])[site]
        assert direct == pytest.approx(tuple(lost.tolist()), abs=1e-5)
        assert max(map(abs, direct)) > 1e-3
    early = Site.parse("0.attn.resid_delta:2")  # later nodes read it, which the direct effect leaves out
    keep = {k: torch.ones(width) for k, width in small.model.config.locations()}
    keep[early.location][2] = 0
    lost = (whole - small.run(batch, masks=keep).gap).unflatten(0, (-1, 2)).mean(0)
    assert direct_effects(small, batch, [early])[early] != pytest.approx(tuple(lost.tolist()), abs=1e-3)
    assert direct_effects(small, batch, [Site.parse("0.mlp.post_act:1")]) == {}


def test_a_planted_node_matters_in_the_model_and_random_ones_do_not(planted: LoadedModel) -> None:
    circuit = circuit_of(planted, PLANTED_NODES)
    batch = planted.encode(planted_task(16).heldout)
    own = model_effects(planted, circuit, circuit.nodes, batch)
    null = random_effects(planted, circuit, batch, draws=5)
    assert set(null) == {n.rsplit(":", 1)[0] for n in PLANTED_NODES}
    assert (own > 0.3).all()
    assert max(np.abs(effects).max() for effects in null.values()) < 0.1
    assert all(len(effects) == 5 for effects in null.values())
