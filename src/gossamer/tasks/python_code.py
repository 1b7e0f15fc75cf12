"""Tasks on Python source (Gao et al. 2025, Table 1; their exact prompts are unpublished, these are ours).

Each task draws minimal pairs from templates and words. Train and held-out splits share neither templates nor filler
words, so a held-out number says that the circuit does the task, not that it remembers the prompts.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable

from gossamer.errors import BadInput
from gossamer.registry import task
from gossamer.task import Example, Task

_TRAIN_WORDS = (
    "invalid value name missing file path index option error data list type empty class index method table field "
    "unknown module argument string number object result key code line block format source target buffer"
).split()
_HELDOUT_WORDS = (
    "expected user config server message default output request input version node state column command "
    "token model matrix event session header parser package cannot found current level"
).split()
_TRAIN_NAMES = "values data items result rows x cells shape points args".split()
_HELDOUT_NAMES = "expected indices weights lines y sizes output grid".split()

Fill = Callable[[random.Random, str, list[str], list[str]], Example]


def _make(
    name: str, description: str, templates: tuple[tuple[str, ...], tuple[str, ...]], fill: Fill, *,
    seed: int, n_train: int, n_heldout: int,
) -> Task:  # fmt: skip
    rng = random.Random(f"{name} {seed}")
    seen: set[str] = set()
    splits: list[tuple[Example, ...]] = []
    words = ((_TRAIN_WORDS, _TRAIN_NAMES), (_HELDOUT_WORDS, _HELDOUT_NAMES))
    for wanted, own_templates, (own_words, own_names) in zip((n_train, n_heldout), templates, words, strict=True):
        found: list[Example] = []
        for attempt in range(200 * wanted):
            example = fill(rng, own_templates[attempt % len(own_templates)], own_words, own_names)
            if example.clean not in seen:
                seen.add(example.clean)
                found.append(example)
            if len(found) == wanted:
                break
        if len(found) < wanted:
            raise BadInput(f"{name} has only {len(found)} different pairs in a split, {wanted} were asked for.")
        splits.append(tuple(found))
    drawn = random.Random(name)  # the version follows the templates, the words and the code that fills them
    shown = [
        [e.clean, e.counterfactual, e.answer, e.wrong_answer]
        for part, own in zip(templates, words, strict=True)
        for template in part
        for e in (fill(drawn, template, *own) for _ in range(4))
    ]
    everything = json.dumps([name, templates, words, shown], default=list)
    return Task(
        name=name, version=hashlib.sha256(everything.encode()).hexdigest()[:12], description=description,
        train=splits[0], heldout=splits[1],
    )  # fmt: skip


_QUOTE_TEMPLATES = (
    (
        "    print({q}{s}", "    raise ValueError({q}{s}", "        self.assertEqual({q}{s}", "    return get({q}{s}",
        "x = open({q}{s}", "    raise TypeError({q}{s}", "    logger.info({q}{s}", "name = str({q}{s}",
    ),
    (
        "    raise KeyError({q}{s}", "    log.debug({q}{s}", "    raise RuntimeError({q}{s}", "value = getenv({q}{s}",
        "        self.write({q}{s}", "    warnings.warn({q}{s}",
    ),
)  # fmt: skip


def _fill_quote(rng: random.Random, template: str, words: list[str], names: list[str]) -> Example:
    text = " ".join(rng.choices(words, k=rng.randint(1, 5)))
    sides = [template.format(q=q, s=text) for q in ("'", '"')]
    return Example(clean=sides[0], counterfactual=sides[1], answer="')", wrong_answer='")', template=template)


@task("single_double_quote")
def single_double_quote(seed: int = 0, n_train: int = 2048, n_heldout: int = 512) -> Task:
    """Which quote closes the string of a one-argument call: `')` after `('`, `")` after `("`."""
    return _make(
        "single_double_quote", "Close a string with the quote that opened it", _QUOTE_TEMPLATES, _fill_quote,
        seed=seed, n_train=n_train, n_heldout=n_heldout,
    )  # fmt: skip


_BRACKET_TEMPLATES = (
    ("{name} = {b}{n}", "    {name} = {b}{n}", "    return {b}{n}", "self.{name} = {b}{n}", "{name} += {b}{n}",
     "        {name} = {b}{n}"),
    ("    self.{name} = {b}{n}", "        return {b}{n}", "for {name} in {b}{n}", "    {name} += {b}{n}"),
)  # fmt: skip


def _fill_bracket(rng: random.Random, template: str, words: list[str], names: list[str]) -> Example:
    numbers = ", ".join(str(rng.randint(0, 9)) for _ in range(rng.randint(2, 6)))
    name = rng.choice(names)
    sides = [template.format(name=name, b=b, n=numbers) for b in ("[[", "[")]
    return Example(clean=sides[0], counterfactual=sides[1], answer="]]", wrong_answer="]", template=template)


@task("bracket_counting")
def bracket_counting(seed: int = 0, n_train: int = 2048, n_heldout: int = 512) -> Task:
    """Close a list of numbers by its depth: `]]` after `[[`, `]` after `[`."""
    return _make(
        "bracket_counting", "Close a list of numbers at the depth it was opened", _BRACKET_TEMPLATES, _fill_bracket,
        seed=seed, n_train=n_train, n_heldout=n_heldout,
    )  # fmt: skip


_SET_TEMPLATES = (
    ("{v} = {i}\nfor {a} in {b}:\n    {v}", "{v} = {i}\nwhile {a}:\n    {v}", "{v} = {i}\n{a} = {b}\n{v}",
     "    {v} = {i}\n    for {a} in {b}:\n        {v}", "{v} = {i}\nif {a}:\n    {v}",
     "    {v} = {i}\n    {a} = {b}\n    {v}"),
    ("    {v} = {i}\n    while {a}:\n        {v}", "{v} = {i}\nwith {a} as {b}:\n    {v}",
     "    {v} = {i}\n    if {a}:\n        {v}", "{v} = {i}\n{a}({b})\n{v}"),
)  # fmt: skip


def _fill_set(rng: random.Random, template: str, words: list[str], names: list[str]) -> Example:
    v = rng.choice(names)
    a, b = rng.sample([w for w in words if w != v], 2)  # `v = set()`, then `v = ""` would make both answers right
    sides = [template.format(v=v, a=a, b=b, i=i) for i in ("set()", '""')]
    return Example(clean=sides[0], counterfactual=sides[1], answer=".add", wrong_answer=" +=", template=template)


@task("set_or_string")
def set_or_string(seed: int = 0, n_train: int = 2048, n_heldout: int = 512) -> Task:
    """How a variable grows: `.add` after `v = set()`, ` +=` after `v = ""`."""
    return _make(
        "set_or_string", "Grow a variable the way its type grows", _SET_TEMPLATES, _fill_set,
        seed=seed, n_train=n_train, n_heldout=n_heldout,
    )  # fmt: skip
