"""Three hand-compiled successor tasks in one model, whose shared part is known: what a comparison of tasks has to find.

Numerals, number words and months; after `hat 3 sun 4 pen 5 cup` comes `6`. What is between the first part and the last
is of all three tasks, as Lan et al. 2024 (arXiv 2311.04131) say of GPT-2. In layer 0 each family's own head writes the
index of a member at its place; in layer 1 four heads, a quarter each, bring the index of the member before it there;
three MLPs, a third each, map it to the next; in the last layer each family's own head, from the end, looks at the last
member of its family and writes the word after the next. All other heads and MLPs are noise, see compiled.py.

Without a quarter or a third less than 80% of the logit difference is left, so that at this floor all of it is needed;
no answer becomes wrong until all quarters or all thirds are gone. `shared=False` is the control without a shared part:
every family has a chain of four heads of its own.

When it lies: a real model's tasks share by degrees, and early heads because everything reads them; here a part is in a
task or it is not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from gossamer.models.compiled import SHARP, CompiledModel, _Compiler, _task
from gossamer.task import Example, Task

FAMILIES = {
    "numerals": "1 2 3 4 5 6 7".split(),
    "number-words": "one two three four five six seven".split(),
    "months": "January February March April May June July".split(),
}
STAGES = ("index", "found", "next")
NOUNS = "hat sun pen cup bed map".split()
SHOWN, LAYERS, HEADS = 3, 8, 4
MLPS = (2, 4, 5)
TEMPLATE = " ".join(f"{{n{i}}} {{m{i}}}" for i in range(SHOWN)) + f" {{n{SHOWN}}}"


@dataclass(frozen=True, kw_only=True, eq=False)
class Succession:
    """The model, its tasks by name, the nodes that all of them need, and those that one alone needs."""

    model: CompiledModel
    tasks: Mapping[str, Task]
    shared: frozenset[str]
    private: Mapping[str, frozenset[str]]


def succession(*, shared: bool = True, seed: int = 0, n: int = 16) -> Succession:
    """seed: of the noise, of which heads are whose, and of the prompts; n: pairs in each split of each task."""
    rng = np.random.default_rng(seed)
    size, n_ctx = len(FAMILIES["months"]), 2 * SHOWN + 2
    words = ["BOS", *(w for ws in FAMILIES.values() for w in ws), *NOUNS]
    channels = {f"{stage} {name}": size for stage in STAGES for name in (("all",) if shared else FAMILIES)}
    channels |= {f"answer {name}": size for name in FAMILIES}
    c = _Compiler(
        words, n_ctx, channels, layers=LAYERS, heads=HEADS, slots=size + n_ctx + 1, units=size, noise=4, seed=seed
    )  # fmt: skip
    place = [rng.permutation(HEADS).tolist() for _ in range(LAYERS)]
    here = [(c.at("position", p), c.at("position", p), SHARP) for p in range(n_ctx)]
    before = [(c.at("position", p), c.at("position", p - 2), SHARP) for p in range(2, n_ctx)]

    def along(one: str, other: str, step: int = 0) -> list[tuple[int, int]]:
        """Channels of a stage and those of another, `step` further on."""
        return [(c.at(one, i), c.at(other, i + step)) for i in range(size - step)]

    private: dict[str, frozenset[str]] = {}
    for t, (name, members) in enumerate(FAMILIES.items()):
        of, heads = "all" if shared else name, [place[layer][t] for layer in range(LAYERS)]
        c.head(0, heads[0], here, [(c.token(w), c.at(f"index {of}", i)) for i, w in enumerate(members)])
        if not shared:
            c.head(1, heads[1], before, along(f"index {of}", f"found {of}"))
            c.head(4, heads[4], here, along(f"found {of}", f"next {of}", step=1))
        last = [(c.at("one"), c.token(w), 8 * SHARP) for w in members]
        last += [(c.at("one"), c.at("position", p), p * SHARP / 2) for p in range(n_ctx)]
        last.append((c.at("one"), c.token("BOS"), 5 * SHARP))  # where it looks without a member
        c.head(LAYERS - 1, heads[-1], last, along(f"next {of}", f"answer {name}", step=1))
        for i, word in enumerate(members):
            c.answer(c.at(f"answer {name}", i), {word: 6.0})
        own = (0, LAYERS - 1) if shared else (0, 1, 4, LAYERS - 1)
        private[name] = frozenset(f"a{layer}.h{heads[layer]}" for layer in own)
    common: set[str] = set()
    if shared:
        for head in range(HEADS):
            c.head(1, head, before, along("index all", "found all"))
            c.w.out[1, head] /= HEADS
        for layer in MLPS:
            steps = along("found all", "next all", step=1)
            c.mlp(layer, [({read: 1.0}, 0.0, {write: 1 / len(MLPS)}) for read, write in steps])
        common = {*(f"a1.h{head}" for head in range(HEADS)), *(f"m{layer}" for layer in MLPS)}
    tasks = {
        name: _task(f"succession-{name}", f"Go on with {name}", _pairs(members, rng), n)
        for name, members in FAMILIES.items()
    }
    model = c.model("succession" if shared else "succession, nothing shared")
    return Succession(model=model, tasks=tasks, shared=frozenset(common), private=private)


def _pairs(members: list[str], rng: np.random.Generator) -> Iterator[Example]:
    """Two runs of a family among the same nouns."""
    while True:
        nouns = {f"n{i}": w for i, w in enumerate(rng.permutation(NOUNS)[: SHOWN + 1])}
        starts = rng.permutation(len(members) - SHOWN)[:2].tolist()
        sides = [
            TEMPLATE.format(**nouns, **{f"m{i}": members[start + i] for i in range(SHOWN)}) for start in starts
        ]  # fmt: skip
        answer, wrong = (f" {members[start + SHOWN]}" for start in starts)
        yield Example(clean=sides[0], counterfactual=sides[1], answer=answer, wrong_answer=wrong, template=TEMPLATE)
