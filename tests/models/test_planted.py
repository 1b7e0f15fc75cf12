"""What a planted model is said to be: its mechanism does the task alone and is needed, its decoys are not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gossamer.errors import BadInput
from gossamer.models.planted import CLASSES, Planted, case, nonsense, planted
from gossamer.site import Site
from gossamer.task import Example, Task

OTHER = planted("plain", 4, pairs=8).model


def share(made: Planted, sites: list[tuple[str, ...]], *, without: bool = False, on: str = "heldout") -> list[float]:
    """The share of the whole model's mean effect with these circuits alone, or without them."""
    examples = made.task.heldout if on == "heldout" else next(iter(made.task.ood.values()))
    batch, layout = made.model.encode(examples), made.model.layout
    kept = np.zeros((len(sites), layout.n_nodes), dtype=np.float32)
    for row, some in zip(kept, sites, strict=True):
        row[[layout.number(Site.parse(s)) for s in some]] = 1
    masks = {k: torch.from_numpy(v) for k, v in layout.split(1 - kept if without else kept).items()}
    whole = float(made.model.run(batch).gap.mean())
    return (made.model.run(batch, masks=masks).gap.view(len(sites), -1).mean(1) / whole).tolist()


@pytest.mark.parametrize("seed", range(4))
def test_a_plain_mechanism_is_enough_and_every_part_of_it_is_needed(seed: int) -> None:
    made = planted("plain", seed, pairs=12)
    true = made.true
    for on in ("heldout", "ood"):
        (alone,) = share(made, [true], on=on)
        assert alone == pytest.approx(1, abs=0.1)
        assert share(made, [true], without=True, on=on)[0] == pytest.approx(0, abs=0.02)
        less = share(made, [tuple(s for s in true if s != part) for part in true], on=on)
        assert max(less) < 0.7
        assert max(share(made, [(part,) for part in true], without=True, on=on)) < 0.7
    more = share(made, [(*true, decoy) for decoy in made.decoys])
    assert np.allclose(more, alone := share(made, [true])[0], atol=0.06), alone
    assert np.allclose(share(made, [made.decoys], without=True), 1, atol=0.06)


def test_decoys_are_active() -> None:
    for seed in range(3):
        made = planted("plain", seed, pairs=12)
        places = {Site.parse(d).location for d in made.decoys}
        reads = made.model.run(made.model.encode(made.task.heldout), reads=sorted(places)).reads
        for decoy in made.decoys:
            site = Site.parse(decoy)
            assert float(reads[site.location][..., site.index].std()) > 0.05, decoy


@pytest.mark.parametrize("seed", range(2))
def test_each_of_two_mechanisms_is_enough_and_neither_is_needed(seed: int) -> None:
    made = planted("redundant", seed, pairs=12)
    each = [made.mechanisms["real"], made.mechanisms["other"]]
    assert min(share(made, each)) > 0.9
    own = [tuple(set(a) - set(b)) for a, b in (each, each[::-1])]
    assert min(share(made, own, without=True)) > 0.9
    assert share(made, [tuple(own[0] + own[1])], without=True)[0] < 0.1


@pytest.mark.parametrize("seed", range(2))
def test_a_mixture_uses_each_mechanism_after_its_own_word(seed: int) -> None:
    made = planted("mixture", seed, pairs=12)
    for word in "AB":
        examples = tuple(e for e in made.task.heldout if e.clean.endswith(f" {word}"))
        assert len(examples) == 6
        there = Planted(
            kind=made.kind, seed=seed, model=made.model, decoys=made.decoys, mechanisms=made.mechanisms,
            task=Task(name="", version="", description="", train=(), heldout=examples),
        )  # fmt: skip
        a, b = share(there, [made.mechanisms["A"], made.mechanisms["B"]])
        assert (a if word == "A" else b) == pytest.approx(1, abs=0.15)
        assert (b if word == "A" else a) == pytest.approx(0, abs=0.05)
    less = share(made, [tuple(s for s in made.true if s != part) for part in made.true])
    assert max(less) < 0.9


@pytest.mark.parametrize("seed", range(2))
def test_a_bad_circuit_works_in_distribution_only(seed: int) -> None:
    for kind, bad, good in (("shortcut", "cue", "real"), ("instead", "B", "A")):
        made = planted(kind, seed, pairs=12)
        assert share(made, [made.mechanisms[bad]])[0] > 0.9
        assert share(made, [made.mechanisms[bad]], on="ood")[0] < 0.05
        assert share(made, [made.mechanisms[good]], on="ood")[0] == pytest.approx(1, abs=0.15)
        with torch.no_grad():
            for examples in (made.task.heldout, *made.task.ood.values()):
                assert float(made.model.run(made.model.encode(examples)).gap.min()) > 1  # the model itself is right


def test_cancelled_chains_say_nonsense_alone_and_nothing_together() -> None:
    made = planted("cancelled", 0, pairs=12)
    batch = made.model.encode(nonsense(made.task).heldout)
    assert abs(float(made.model.run(batch).gap.mean())) < 0.3
    for label, sign in (("plus", 1), ("minus", -1)):
        circuit = made.circuit(made.mechanisms[label])
        alone, without = (
            float(made.model.run(batch, ablation=circuit.as_ablation(how)).gap.mean())
            for how in ("gao-mean", "gao-mean-circuit")
        )
        assert sign * alone > 2
        assert sign * without < -2


@pytest.mark.parametrize("label", CLASSES)
def test_a_case_is_the_same_by_seed_and_has_its_class(label: str) -> None:
    one, again = (case(label, 3, pairs=8) for _ in range(2))
    assert one.planted.model.hashes() == again.planted.model.hashes() != OTHER.hashes()
    assert np.array_equal(one.circuit.nodes, again.circuit.nodes)
    assert one.task == again.task
    assert one.label == label
    assert one.circuit.record.details == {"class": label}
    true = set(one.planted.circuit(one.planted.true).nodes.tolist())
    difference = set(one.circuit.nodes.tolist()) ^ true
    assert (label in ("true", "mixed")) == (not difference)
    if label == "redundant":
        assert len(difference) == 1


def test_pairs_align_and_splits_share_no_prompt() -> None:
    for kind in ("plain", "shortcut", "instead"):
        task = planted(kind, 1).task
        splits: list[tuple[Example, ...]] = [task.train, task.heldout, *task.ood.values()]
        prompts = [{e.clean for e in split} | {e.counterfactual for e in split} for split in splits]
        assert len(set.union(*prompts)) == sum(map(len, prompts))
        assert not {e.template for e in splits[0]} & {e.template for e in splits[1]}
        assert all(len(e.clean.split()) == len(e.counterfactual.split()) for split in splits for e in split)


def test_unknown_kinds_and_classes_are_named() -> None:
    with pytest.raises(BadInput, match="mixture"):
        planted("mixtur")
    with pytest.raises(BadInput, match="nonsense"):
        case("nonsens")
