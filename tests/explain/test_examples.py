"""Top examples are the top, effects are differences of measured losses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from toys import PLANTED_NODES, planted_task
from verify_helpers import circuit_of

from gossamer import Site
from gossamer.explain import direct_logit, mean_on_answer, node_effects, task_examples, tokens_into, top_examples
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
