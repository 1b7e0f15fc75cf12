"""Weight-sparse transformers with a mechanism put into them by hand, and right and wrong circuits to try a battery on.

The task is the same in all of them: after a prompt with `left` in it say L, after one with `right` say R. What does it
is random by seed: width, depth, layers, channels, an MLP before or after the head that moves the side to the last
token, whether that head chooses its token by query and key among distractors. Beside it stand decoys (active chains of
channels, some of which know the side, that no answer reads) and sparse noise in every matrix. Anchors, channels that
are 5 in every token, keep the norms nearly constant.

| kind      | mechanisms                                                                                             |
| --------- | ------------------------------------------------------------------------------------------------------ |
| plain     | one                                                                                                    |
| redundant | two, whose sum saturates: each alone does what both do                                                 |
| mixture   | two, each active only after its own last word (A or B)                                                 |
| shortcut  | a real one and one that reads a cue (near, far), whose sum saturates; the cue goes with the side in    |
|           | training and held-out pairs, against it in the pairs out of distribution, where the real one wins      |
| instead   | a mixture whose training and held-out pairs all end in B, those out of distribution in A               |
| cancelled | one, and two chains that carry the side to X and Y with opposite signs: the model never says X or Y    |

A battery has to come out so (`CLASSES`; `CAUGHT_BY` names the checks of which one or more must not pass):

- true (plain): everything passes.
- missing: a part of the mechanism is left out (plain: sufficiency fails; so does completeness, as what is missing still
  works outside), or one of two mechanisms but not the units they share (redundant: sufficient, and necessary as the
  units are, but ablate the head it has and the model still answers by the other: completeness fails).
- redundant: a decoy's channel is added to the true circuit: sufficient, necessary and complete, but minimality fails.
- random: as many channels at every location: sufficiency, accuracy and necessity fail.
- bad: the shortcut's channels (shortcut: sufficient on held-out pairs; not complete, and wrong out of distribution) or
  mechanism B's (instead: right by every check on held-out pairs; only pairs out of distribution tell).
- nonsense: one of the two cancelled chains, tried on the answers X and Y: alone it gives them, so that sufficiency and
  accuracy pass; but the whole model has no such effect. Necessity fails, as the loss is near ln 2 whatever is ablated,
  and a share of the effect has no denominator: random subsets and all other checks of shares are not measured, which is
  no pass. Where noise leaves the model a small effect the share is many times 1, and completeness fails.
- mixed: both mechanisms of a mixture: sufficient, necessary, complete and minimal on the average of all pairs, but
  no pair uses both: mixtures fails.

When it lies: these models are small, their mechanisms are chains, nothing is in superposition and AbsTopK is off, so a
battery that is right here can be wrong on a trained model.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor

from gossamer.circuit import Circuit
from gossamer.corpora.tokenizer import END_OF_TEXT
from gossamer.errors import BadInput, nearest
from gossamer.models.loaded import LoadedModel, Reference
from gossamer.models.sparse import SparseConfig, SparseTransformer
from gossamer.record import Record
from gossamer.site import Site
from gossamer.task import Example, Task

Kind = Literal["plain", "redundant", "mixture", "shortcut", "instead", "cancelled"]
Class = Literal["true", "missing", "redundant", "random", "bad", "nonsense", "mixed"]
CLASSES: tuple[Class, ...] = get_args(Class)
CAUGHT_BY: dict[Class, tuple[str, ...]] = {
    "true": (), "missing": ("sufficiency", "completeness"), "redundant": ("minimality",),
    "random": ("sufficiency", "accuracy"), "bad": ("generalisation",), "nonsense": ("random-subsets", "completeness"),
    "mixed": ("mixtures",),
}  # fmt: skip

FILLERS = tuple(f"w{i}" for i in range(14))
WORDS = ("left", "right", "L", "R", "X", "Y", "near", "far", "LEFT", "RIGHT", "A", "B", "?", *FILLERS, END_OF_TEXT)
SIDES, CUES, DISTRACTORS = ("left", "right"), ("near", "far"), ("LEFT", "RIGHT")
ANCHORS, ANCHOR = 4, 5.0
LENGTH = 7.0  # words an attention without choice spreads over, about
SHARP = 7.0  # score of the chosen token


def word_tokenizer(words: Sequence[str]) -> Tokenizer:
    """Words split at spaces, the last of which starts every prompt; an unknown one is the fifth."""
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token=words[4]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens([END_OF_TEXT])
    return tokenizer


def with_means(model: SparseTransformer, words: Sequence[str], name: str, seed: int = 0, n: int = 64) -> LoadedModel:
    """The model with reference means over n rows of random text, in which all words but the last are as frequent."""
    generator = torch.Generator().manual_seed(seed)
    text = torch.randint(0, len(words) - 1, (n, model.config.n_ctx), generator=generator)
    sums: dict[str, Tensor] = {}

    def add(location: str, x: Tensor) -> Tensor:
        sums[location] = x.mean((0, 1))
        return x

    with torch.no_grad():
        model.hidden(text, add)
    reference = Reference(means=sums, n_tokens=text.numel(), excerpt=text[:8])
    return LoadedModel(name=name, model=model, tokenizer=word_tokenizer(words), reference=reference, record={})


@dataclass(frozen=True, kw_only=True, eq=False)
class Planted:
    """A model, its task and what does it. mechanisms: sites by name; decoys: sites that are active for no answer."""

    kind: Kind
    seed: int
    model: LoadedModel
    task: Task
    mechanisms: Mapping[str, tuple[str, ...]]
    decoys: tuple[str, ...]

    @property
    def true(self) -> tuple[str, ...]:
        """Sites of the circuit that does the task on all pairs, those out of distribution too."""
        names = (
            ("real",) if self.kind == "shortcut" else tuple(k for k in self.mechanisms if k not in ("plus", "minus"))
        )
        return tuple(dict.fromkeys(site for name in names for site in self.mechanisms[name]))

    def circuit(self, sites: Iterable[str], *, record: Mapping[str, Any] | None = None) -> Circuit:
        """The circuit with these nodes; record: fields of its Record, such as method and config."""
        graph, (weights, means) = self.model.graph(), self.model.hashes()
        fields: dict[str, Any] = {"method": "planted", "config": {"kind": self.kind}, "seed": self.seed}
        made = Record.now(
            **{**fields, **(record or {})}, model=self.model.name, model_sha256=weights, means_sha256=means,
            task=self.task.name, task_version=self.task.version,
        )  # fmt: skip
        nodes = [graph.layout.number(Site.parse(s)) for s in sites]
        return Circuit.from_nodes(graph, self.model.edge_weights(graph), nodes, record=made)


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """A circuit of a known class in a planted model, and the task that it claims to do."""

    label: Class
    planted: Planted
    task: Task
    circuit: Circuit


class _Hand:
    """Writes chains into the weights of an empty model, each in channels, heads and units of its own."""

    def __init__(self, config: SparseConfig, rng: random.Random) -> None:
        self.config, self.rng = config, rng
        self.model = SparseTransformer(config, seed=None)
        for p in self.model.parameters():
            p.data.zero_()
        norms = [n for b in self.model.blocks for n in (b.ln_1, b.ln_2)] + [self.model.ln_f]
        for norm in norms:
            norm.weight.data.fill_(ANCHOR * math.sqrt(ANCHORS / config.d_model))  # about 1 in all
        self._channels = rng.sample(range(config.d_model), config.d_model)
        self._heads = [rng.sample(range(config.n_head), config.n_head) for _ in range(config.n_layer)]
        self._units = [rng.sample(range(config.d_mlp), config.d_mlp) for _ in range(config.n_layer)]
        self._anchors = [self.channel() for _ in range(ANCHORS)]
        self.model.wte.weight.data[:, self._anchors] = ANCHOR

    def channel(self) -> int:
        return self._channels.pop()

    def embed(self, values: Mapping[str, float]) -> int:
        """A new channel with these values in these words."""
        channel = self.channel()
        for word, value in values.items():
            self.model.wte.weight.data[WORDS.index(word), channel] = value
        return channel

    def move(
        self, layer: int, source: int, gain: float, choice: tuple[int, int] | None = None
    ) -> tuple[int, list[str]]:  # fmt: skip
        """A head that moves a channel to the last token. choice: (channel of the query, of the key) it selects by."""
        attn, c = self.model.blocks[layer].attn, self.config
        head, to = self._heads[layer].pop(), self.channel()
        start = head * c.d_head
        own = start + self.rng.randrange(c.d_head)
        strength = self.rng.uniform(0.7, 1.5)
        attn.c_attn.weight.data[2 * c.d_attn + own, source] = strength
        attn.c_proj.weight.data[to, own] = gain / strength
        sites = [f"{layer}.attn.act_in:{source}", f"{layer}.attn.v:{own}", f"{layer}.attn.resid_delta:{to}"]
        if choice:
            at, score = start + self.rng.randrange(c.d_head), math.sqrt(SHARP * math.sqrt(c.d_head))
            for part, name, channel in zip((0, 1), "qk", choice, strict=True):
                attn.c_attn.weight.data[part * c.d_attn + at, channel] = score
                sites += [f"{layer}.attn.act_in:{channel}", f"{layer}.attn.{name}:{at}"]
        return to, sites

    def compute(
        self, layer: int, sources: Sequence[int], gain: float, form: Literal["signs", "clamp", "gate"]
    ) -> tuple[int, list[str]]:
        """Two units that write one channel. signs: x as it is; clamp: the sum of the sources, three times, between -1
        and 1; gate: x where the second source is 1, nothing where it is 0."""
        mlp, to = self.model.blocks[layer].mlp, self.channel()
        pair = self._units[layer].pop(), self._units[layer].pop()
        for unit, sign in zip(pair, (1.0, -1.0), strict=True):
            if form == "clamp":
                mlp.c_fc.weight.data[unit, list(sources)], mlp.c_fc.bias.data[unit] = 3.0, sign
            else:
                mlp.c_fc.weight.data[unit, sources[0]] = sign
                if form == "gate":
                    mlp.c_fc.weight.data[unit, sources[1]], mlp.c_fc.bias.data[unit] = 3.0, -3.0
            mlp.c_proj.weight.data[to, unit] = sign * gain
        if form == "clamp":
            mlp.c_proj.bias.data[to] = -gain
        sites = [f"{layer}.mlp.act_in:{s}" for s in sources] + [f"{layer}.mlp.post_act:{u}" for u in pair]
        return to, [*sites, f"{layer}.mlp.resid_delta:{to}"]

    def answer(self, channel: int, plus: str, minus: str, weight: float) -> list[str]:
        """The channel speaks for one word and against another."""
        head = self.model.lm_head.weight.data
        head[WORDS.index(plus), channel], head[WORDS.index(minus), channel] = weight, -weight
        return [f"final_resid:{channel}"]

    def noise(self, size: float) -> None:
        """Into a twentieth of every matrix, except at anchors, and of the fillers' channels without a chain."""
        generator = torch.Generator().manual_seed(self.rng.randrange(2**31))

        def add(weight: Tensor, size: float) -> None:
            noise = torch.randn(weight.shape, generator=generator) * size
            weight += noise * (torch.rand(weight.shape, generator=generator) < 0.05)

        readers = [self.model.lm_head]
        for block in self.model.blocks:
            readers += [block.attn.c_attn, block.mlp.c_fc]
            add(block.attn.c_proj.weight.data, size)
            add(block.mlp.c_proj.weight.data, size)
        for linear in readers:
            add(linear.weight.data, size)
            linear.weight.data[:, self._anchors] = 0.0
        words = self.model.wte.weight.data[WORDS.index(FILLERS[0]) : WORDS.index(FILLERS[-1]) + 1]
        free = torch.tensor(self._channels)
        features = torch.zeros(words.shape)
        add(features, 0.3)
        words[:, free] += features[:, free]


def planted(kind: str = "plain", seed: int = 0, *, pairs: int = 48, noise: float = 0.02) -> Planted:
    """A random model of a kind with its task (so many pairs per split), the same for the same arguments.

    noise: standard deviation of the noise weights; mechanisms' are about 1. An unknown kind is BadInput.
    """
    kinds: dict[str, Kind] = {k: k for k in get_args(Kind)}
    if kind not in kinds:
        raise BadInput(f"Unknown kind of planted model {kind!r}: {nearest(kind, kinds)}")
    rng = random.Random(f"{kind} {seed}")
    heads = rng.choice((12, 16, 20))
    hand = _Hand(SparseConfig(
        vocab_size=len(WORDS), n_ctx=16, n_layer=rng.randint(1, 3), d_model=8 * heads, n_head=heads, d_head=8,
        d_mlp=8 * heads * rng.randint(1, 2), topk_places=(), activation="relu",
    ), rng)  # fmt: skip
    choice = rng.random() < 0.5
    mechanisms = _mechanisms(hand, kinds[kind], choice)
    decoys = _decoys(hand, mechanisms)
    hand.noise(noise)
    task = _task(kinds[kind], rng, pairs, choice)
    model = with_means(hand.model.eval().requires_grad_(False), WORDS, f"planted {kind} {seed}", seed, 512)
    _scale_answers(model, task, rng.uniform(4, 7))
    return Planted(
        kind=kinds[kind], seed=seed, model=model, task=task,
        mechanisms={k: tuple(dict.fromkeys(v)) for k, v in mechanisms.items()}, decoys=decoys,
    )  # fmt: skip


def _mechanisms(hand: _Hand, kind: Kind, choice: bool) -> dict[str, list[str]]:
    layers, rng = hand.config.n_layer, hand.rng
    by = None
    if choice:
        by = hand.embed({"?": 1.0, "A": 1.0, "B": 1.0}), hand.embed(dict.fromkeys((*SIDES, *CUES), 1.0))

    def to_last(words: tuple[str, ...], strength: float = 1.0, before: int = layers) -> tuple[int, list[str]]:
        """The side at the last token, by a head in a layer up to `before`, perhaps after an MLP."""
        values = {w: 1.0 - 2 * (i % 2) for i, w in enumerate(words)}
        at, sites = hand.embed(values), list[str]()
        layer = rng.randrange(before)
        if layer and rng.random() < 0.5:
            at, sites = hand.compute(rng.randrange(layer), [at], 1.0, "signs")
        gain = strength * (1.0 if by else LENGTH)
        to, more = hand.move(layer, at, gain, by)
        return to, sites + more

    sides = (*SIDES, *DISTRACTORS) if choice else SIDES
    if kind in ("plain", "cancelled"):
        before = rng.randint(1, layers)
        at, sites = to_last(sides, before=before)
        if rng.random() < 0.6:
            at, more = hand.compute(rng.randrange(before - 1, layers), [at], 1.0, "signs")
            sites += more
        found = {"real": sites + hand.answer(at, "L", "R", 1.0)}
        for name, sign in (("plus", 1.0), ("minus", -1.0)) if kind == "cancelled" else ():
            at, sites = to_last(sides)
            found[name] = sites + hand.answer(at, "X", "Y", sign)
        return found
    if kind in ("mixture", "instead"):
        found = {}
        for name in ("A", "B"):
            before = rng.randint(1, layers)
            at, sites = to_last(sides, before=before)
            at, more = hand.compute(rng.randrange(before - 1, layers), [at, hand.embed({name: 1.0})], 1.0, "gate")
            found[name] = sites + more + hand.answer(at, "L", "R", 1.0)
        return found
    names = ("real", "other") if kind == "redundant" else ("real", "cue")
    ends = {
        name: to_last(CUES if name == "cue" else sides, 1.0 if name == "cue" or kind == "redundant" else 2.0)
        for name in names
    }  # fmt: skip
    at, shared = hand.compute(layers - 1, [end for end, _ in ends.values()], 1.0, "clamp")
    shared += hand.answer(at, "L", "R", 1.0)
    others = {name: {f"{layers - 1}.mlp.act_in:{ends[o][0]}" for o in names if o != name} for name in names}
    return {name: [*sites, *(s for s in shared if s not in others[name])] for name, (_, sites) in ends.items()}


def _decoys(hand: _Hand, mechanisms: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Two to four chains to the logits of fillers; every other one reads the side."""
    rng, layers, found = hand.rng, hand.config.n_layer, list[str]()
    for i in range(rng.randint(2, 4)):
        values = {w: rng.gauss(0, 1) for w in FILLERS} if i % 2 else {"left": 1.0, "right": -1.0}
        layer = rng.randrange(layers)
        at, sites = hand.move(layer, hand.embed(values), rng.uniform(1, 2))
        if rng.random() < 0.5:
            at, more = hand.compute(rng.randrange(layer, layers), [at], 1.0, "signs")
            sites += more
        plus, minus = rng.sample(FILLERS, 2)
        found += sites + hand.answer(at, plus, minus, rng.uniform(0.5, 1.5))
    used = {site for sites in mechanisms.values() for site in sites}
    return tuple(s for s in found if s not in used)


@torch.no_grad()
def _scale_answers(model: LoadedModel, task: Task, wanted: float) -> None:
    """The answers' rows of the unembedding, scaled so that the mean logit gap of training pairs is `wanted`."""
    scale = wanted / float(model.run(model.encode(task.train)).gap.mean())
    for word in ("L", "R", "X", "Y"):
        model.model.lm_head.weight.data[WORDS.index(word)] *= scale


def _task(kind: Kind, rng: random.Random, pairs: int, choice: bool) -> Task:
    """Templates are a length and a place of the side; each split has its own."""
    short = rng.sample([(n, at) for n in (6, 7, 8) for at in range(n - 2)], 12)
    long = rng.sample([(n, at) for n in (9, 10) for at in range(n - 2)], 6)
    near_by = "with" if kind == "shortcut" else None
    ends = {"mixture": ("A", "B"), "instead": ("B",)}.get(kind, ("?",))
    how: dict[str, Any] = {"rng": rng, "n": pairs, "distractors": choice}
    ood = {"shortcut": "cue against the side", "instead": "other last word"}.get(kind, "longer prompts")
    return Task(
        name=f"planted side, {kind}", version="1", description="Say which side was named",
        train=_examples(templates=short[:6], cue=near_by, ends=ends, fillers=FILLERS[:10], **how),
        heldout=_examples(templates=short[6:], cue=near_by, ends=ends, fillers=FILLERS[:10], **how),
        ood={ood: _examples(
            templates=long, cue=near_by and "against", ends=("A",) if kind == "instead" else ends, fillers=FILLERS[4:],
            **how,
        )},
    )  # fmt: skip


def _examples(
    *, rng: random.Random, n: int, templates: Sequence[tuple[int, int]], cue: str | None, ends: Sequence[str],
    distractors: bool, fillers: Sequence[str],
) -> tuple[Example, ...]:  # fmt: skip
    """n pairs that differ in the side, and in the cue where there is one."""
    found = list[Example]()
    while len(found) < n:
        length, at = templates[len(found) % len(templates)]
        words = [rng.choice(fillers) for _ in range(length)]
        words[-1] = ends[len(found) // len(templates) % len(ends)]
        free = [i for i in range(length - 1) if i != at]
        where = rng.sample(free, 2)
        if distractors:
            words[where[0]] = rng.choice(DISTRACTORS)
        prompts, side = list[str](), rng.randrange(2)
        for s in (side, 1 - side):
            words[at] = SIDES[s]
            if cue:
                words[where[1]] = CUES[s if cue == "with" else 1 - s]
            prompts.append(" ".join(words))
        found.append(Example(
            clean=prompts[0], counterfactual=prompts[1], answer=" " + "LR"[side], wrong_answer=" " + "RL"[side],
            template=f"{length} words, the side at {at + 1}",
        ))  # fmt: skip
    return tuple(found)


def nonsense(task: Task) -> Task:
    """The same prompts with X for L and Y for R, which nothing in the prompts asks for."""

    def changed(examples: Sequence[Example]) -> tuple[Example, ...]:
        other = {" L": " X", " R": " Y"}
        return tuple(replace(e, answer=other[e.answer], wrong_answer=other[e.wrong_answer]) for e in examples)

    return replace(
        task, name=f"{task.name}, nonsense", train=changed(task.train), heldout=changed(task.heldout),
        ood={name: changed(examples) for name, examples in task.ood.items()},
    )  # fmt: skip


def case(label: str, seed: int = 0, *, pairs: int = 48, record: Mapping[str, Any] | None = None) -> Case:
    """A planted model and a circuit of a class; see the head of this file. Classes with two forms alternate by seed.

    record: fields of the circuit's Record. An unknown class is BadInput.
    """
    classes: dict[str, Class] = {c: c for c in CLASSES}
    if label not in classes:
        raise BadInput(f"Unknown class of circuits {label!r}: {nearest(label, classes)}")
    kinds = {
        "missing": ("plain", "redundant"), "bad": ("shortcut", "instead"), "nonsense": ("cancelled",),
        "mixed": ("mixture",),
    }.get(label, ("plain",))  # fmt: skip
    made, rng = planted(kinds[seed % len(kinds)], seed, pairs=pairs), random.Random(f"{label} {seed}")
    true, task = made.true, made.task
    if label == "missing":
        left_out = rng.choice(true)
        sites = made.mechanisms["real"] if made.kind == "redundant" else tuple(s for s in true if s != left_out)
    elif label == "redundant":
        sites = (*true, rng.choice(made.decoys))
    elif label == "random":
        sites = _as_many(made, true, rng)
    elif label == "bad":
        sites = made.mechanisms["cue" if made.kind == "shortcut" else "B"]
    elif label == "nonsense":
        sites, task = made.mechanisms["plus"], nonsense(task)
    else:
        sites = true
    circuit = made.circuit(sites, record={**(record or {}), "details": {"class": label}})
    return Case(label=classes[label], planted=made, task=task, circuit=circuit)


def _as_many(made: Planted, true: Sequence[str], rng: random.Random) -> tuple[str, ...]:
    """As many sites at every location, at most half of them true."""
    wanted: dict[str, int] = {}
    for site in true:
        wanted[Site.parse(site).location] = wanted.get(Site.parse(site).location, 0) + 1
    while True:
        drawn = tuple(
            f"{location}:{i}" for location, n in wanted.items()
            for i in rng.sample(range(made.model.layout.width(location)), n)
        )  # fmt: skip
        if 2 * len(set(drawn) & set(true)) <= len(true):
            return drawn
