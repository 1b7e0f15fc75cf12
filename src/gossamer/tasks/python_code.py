"""Tasks on Python source (Gao et al. 2025, Table 1; their exact prompts are unpublished, these are ours).

Each task draws minimal pairs from templates and words. Train and held-out splits share neither templates nor filler
words, so a held-out number says that the circuit does the task, not that it remembers the prompts.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from gossamer.registry import task
from gossamer.task import Example, Task
from gossamer.tasks.pairs import Fill, Split, make_task

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


def _make(
    name: str, description: str, templates: tuple[tuple[str, ...], tuple[str, ...]], fill: Fill, *,
    seed: int, n_train: int, n_heldout: int, names: tuple[list[str], list[str]] = (_TRAIN_NAMES, _HELDOUT_NAMES),
    ood: Mapping[str, tuple[tuple[str, ...], Fill]] | None = None,
) -> Task:  # fmt: skip
    """Pairs of both splits and of each out-of-distribution split, which takes the held-out words."""
    words = (_HELDOUT_WORDS, names[1])
    return make_task(
        name, description, Split(templates[0], (_TRAIN_WORDS, names[0]), fill), Split(templates[1], words, fill),
        seed=seed, n_train=n_train, n_heldout=n_heldout,
        ood={k: Split(part, words, how) for k, (part, how) in (ood or {}).items()},
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

_BRACKET_IN_COMMENT = ("# [ {a}\n{name} = {b}{n}", "    # {a} [\n    {name} = {b}{n}")


def _fill_bracket(shortest: int, longest: int) -> Fill:
    def fill(rng: random.Random, template: str, words: list[str], names: list[str]) -> Example:
        numbers = ", ".join(str(rng.randint(0, 9)) for _ in range(rng.randint(shortest, longest)))
        name = rng.choice(names)
        sides = [template.format(name=name, a=words[len(numbers) % len(words)], b=b, n=numbers) for b in ("[[", "[")]
        return Example(clean=sides[0], counterfactual=sides[1], answer="]]", wrong_answer="]", template=template)

    return fill


@task("bracket_counting")
def bracket_counting(seed: int = 0, n_train: int = 2048, n_heldout: int = 512) -> Task:
    """Close a list of numbers by its depth: `]]` after `[[`, `]` after `[`."""
    return _make(
        "bracket_counting", "Close a list of numbers at the depth it was opened", _BRACKET_TEMPLATES,
        _fill_bracket(2, 6), seed=seed, n_train=n_train, n_heldout=n_heldout,
        ood={
            "a bracket in a comment": (_BRACKET_IN_COMMENT, _fill_bracket(2, 6)),
            "long lists": (_BRACKET_TEMPLATES[1], _fill_bracket(12, 20)),
        },
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


# The other tasks of Table 1 as pairs of templates. `<left|right>` is what the two sides differ in; {v} and {w} are
# names, {a} and {b} words, {n} and {m} numbers, all drawn once for both sides; answers may name them too.

_COPY_TRAIN = "name key path size index file args x a result start first code source dtype state user error".split()
_COPY_HELDOUT = "value data text type line mode y b n node config end new other shape module version field".split()
_SIDES = re.compile(r"<([^<>|]*)\|([^<>|]*)>")


@dataclass(frozen=True, kw_only=True)
class _Spec:
    """A task by its templates. answers: the right continuation of the left and of the right side."""

    what: str
    answers: tuple[str, str]
    train: tuple[str, ...]
    heldout: tuple[str, ...]
    ood: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def _fill(answers: tuple[str, str]) -> Fill:
    def fill(rng: random.Random, template: str, words: list[str], names: list[str]) -> Example:
        v, w = rng.sample(names, 2)
        a, b = rng.sample([x for x in words if x not in (v, w)], 2)
        drawn = {"v": v, "w": w, "a": a, "b": b, "n": rng.randint(0, 99), "m": rng.randint(0, 9)}
        left, right = (_SIDES.sub(rf"\{side}", template).format(**drawn) for side in (1, 2))
        ours, theirs = (answer.format(**drawn) for answer in answers)
        return Example(clean=left, counterfactual=right, answer=ours, wrong_answer=theirs, template=template)

    return fill


_SPECS: dict[str, _Spec] = {
    "set_or_string_fixedvarname": _Spec(
        what="Grow the variable `current` the way its type grows",
        answers=(".add", " +="),
        train=(
            "current = <set()|\"\">\nfor {a} in {b}:\n    current",
            "current = <set()|\"\">\nwhile {a}:\n    current",
            "    current = <set()|\"\">\n    for {a} in {b}.{v}:\n        current",
            "current = <set()|\"\">\n{a} = {v}\ncurrent",
            "current = <set()|\"\">\nif {a}:\n    current",
        ),
        heldout=(
            "    current = <set()|\"\">\n    while {a}:\n        current",
            "current = <set()|\"\">\nwith {a} as {v}:\n    current",
            "current = <set()|\"\">\n{a}({v})\ncurrent",
            "    current = <set()|\"\">\n    if {a}:\n        current",
        ),
        ood={"new names": ("{v} = <set()|\"\">\nfor {a} in {b}:\n    {v}", "{v} = <set()|\"\">\nif {a}:\n    {v}")},
    ),
    "final_kwarg": _Spec(
        what="Give the last parameter a default after earlier ones had one",
        answers=("=", "):"),
        train=(
            "def {a}({v}<=None|>, {w}", "    def {a}(self, {v}<=None|>, {w}", "def {a}_{b}({v}<=0|>, {w}",
            "    def {a}(self, {b}, {v}<=False|>, {w}", "def {a}({b}, {v}<=True|>, {w}",
        ),
        heldout=(
            "    def {a}_{b}(self, {v}<=None|>, {w}", "def _{a}({v}<=True|>, {w}", "def {a}({b}, {v}<=None|>, {w}",
            "    def {a}(self, {v}<=1|>, {w}",
        ),
    ),
    "class_init": _Spec(
        what="Copy the name of an attribute from the parameters",
        answers=(" {v}", " {w}"),
        train=(
            "    def __init__(self, {v}, {w}):\n        self.<{v}|{w}> =",
            "class {a}:\n    def __init__(self, {w}, {v}):\n        self.<{v}|{w}> =",
            "    def __init__(self, {v}, {w}, {a}):\n        self.<{v}|{w}> =",
            "    def __init__(self, {a}, {w}, {v}):\n        self.{a} = {a}\n        self.<{v}|{w}> =",
        ),
        heldout=(
            "    def __init__(self, {w}, {v}=None):\n        self.<{v}|{w}> =",
            "class {a}({b}):\n    def __init__(self, {v}, {w}):\n        self.<{v}|{w}> =",
            "    def __init__(self, {v}, {a}, {w}):\n        self.{a} = {a}\n        self.<{v}|{w}> =",
        ),
    ),
    "with_as": _Spec(
        what="Name a context manager after `with`, end the line after an assignment",
        answers=(" as", "\n"),
        train=(
            "<with|{v} => open({a})", "    <with|{v} => open({a}, {b})", "    <with|{v} => {a}.open({b})",
            "<with|{v} => {a}({b})", "        <with|{v} => {a}.{b}()",
        ),
        heldout=(
            "        <with|{v} => open({a})", "    <with|{v} => {a}({b})", "<with|{v} => {a}.{b}({n})",
            "    <with|self.{v} => {a}.{b}()",
        ),
    ),
    "bracket_brace": _Spec(
        what="Go on with a dict or a list after its first item",
        answers=(":", ","),
        train=(
            "{v} = <{{|[>{n}", "    {v} = <{{|[>{n}", "    return <{{|[>{n}", "{a}(<{{|[>{n}", "self.{v} = <{{|[>{n}",
            "{v} = <{{|[>{a}",
        ),
        heldout=(
            "        {v} = <{{|[>{n}", "    self.{v} = <{{|[>{n}", "    {a}(<{{|[>{n}", "    return <{{|[>{a}",
            "{v} = {a}(<{{|[>{n}",
        ),
    ),
    "with_open": _Spec(
        what="Open an input file to read it and an output file to write it",
        answers=("r", "w"),
        train=(
            "with open('<input|output>.txt', '", "with open('<input|output>_{a}.txt', '",
            "    with open('{a}_<input|output>.txt', '", "{v} = open('<input|output>_{a}_{n}.txt', '",
            "    {v} = open('{a}_<input|output>{n}.json', '",
        ),
        heldout=(
            "with open('{a}/<input|output>.txt', '", "    with open('<input|output>_{a}.json', '",
            "    {v} = open('<input|output>_{a}.csv', '", "with open({a} + '<input|output>{n}', '",
        ),
    ),
    "for_while": _Spec(
        what="Go on with `in` after a for, with a colon after a while",
        answers=(" in", ":"),
        train=(
            "{a} = {n}\n<for|while> {v}", "{a} = {b}\n<for|while> {v}", "    {a} = {n}\n    <for|while> {v}",
            "    {a}({b})\n    <for|while> {v}", "def {a}({b}):\n    <for|while> {v}",
        ),
        heldout=(
            "        {a} = {n}\n        <for|while> {v}", "{a}({b})\n<for|while> {v}",
            "    {a} = {b}()\n    <for|while> {v}", "def {a}(self, {b}):\n    <for|while> {v}",
        ),
    ),
    "fstring_brace": _Spec(
        what="Insert a variable into an f-string, end a plain one",
        answers=(" {{", "\","),
        train=(
            "{v} = {n}\nprint(<f|>\"{a}:", "    print(<f|>\"{a} {b}:", "print(<f|>\"{a} {b} {n}:",
            "    {v} = {n}\n    print(<f|>\"{a}:",
        ),
        heldout=("        print(<f|>\"{a} {b}:", "{v} = {b}\nprint(<f|>\"{a}:", "    print(<f|>\"{a} {v} {b}:"),
    ),
    "if_ternary": _Spec(
        what="End an if statement with a colon, go on with else in a conditional expression",
        answers=(":", " else"),
        train=(
            "    {b} = {m}\n    <|{v} = {n} >if {a}", "    {b}({n})\n    <|return {v} >if {a}",
            "{w} = {n}\n<|{v} = {b} >if {a}", "        <|{v} = {b} >if {a}.{w}", "    <|{v} = {b} >if {a} > {n}",
        ),
        heldout=(
            "        {b} = {m}\n        <|{v} = {n} >if {a}", "    <|{v} = {b} >if {a}.{w}",
            "        <|return {v} >if {a} < {n}", "    {w}({n})\n    <|self.{v} = {b} >if {a}",
        ),
    ),
    "var_swap": _Spec(
        what="Finish swapping two variables",
        answers=(" {v}", " {w}"),
        train=("{v}, {w} = <{w}|{v}>,", "    {v}, {w} = <{w}|{v}>,", "{a} = {n}\n{v}, {w} = <{w}|{v}>,",
               "if {a}:\n    {v}, {w} = <{w}|{v}>,"),
        heldout=("        {v}, {w} = <{w}|{v}>,", "    {a}({n})\n    {v}, {w} = <{w}|{v}>,",
                 "while {a}:\n    {v}, {w} = <{w}|{v}>,"),
    ),
    "indent_for": _Spec(
        what="Indent the body of a loop one step deeper than the loop",
        answers=("\n    ", "\n        "),
        train=("<|    >for {v} in {a}:", "<|    >for {v} in {a}.{b}:", "<|    >for {v} in range({n}):",
               "<|    >for {v} in {a}({b}):", "<|    >for {v}, {w} in {a}:"),
        heldout=("<|    >for {v} in {a}.{b}():", "<|    >for {v} in enumerate({a}):",
                 "<|    >for {v}, {w} in {a}({b}):", "<|    >for {v} in {a}[{n}]:"),
    ),
    "lambda_func": _Spec(
        what="Go on after the first name of a lambda or of a function",
        answers=(":", "("),
        train=("<{v} = lambda|def> {a}", "    <{v} = lambda|def> {a}", "    <return lambda|def> {a}",
               "{w} = {n}\n<{v} = lambda|def> {a}"),
        heldout=("        <return lambda|def> {a}", "    <self.{v} = lambda|def> {a}",
                 "{b}({n})\n<{v} = lambda|def> {a}"),
    ),
    "if_equals": _Spec(
        what="Compare in a condition, assign in a statement",
        answers=(" ==", " ="),
        train=("    <if |>{v}", "{a} = {n}\n<if |>{v}", "    {a}({b})\n    <if |>{v}",
               "    {a} = {b}\n    <if |>self.{v}", "        {a} = {n}\n        <if |>{v}"),
        heldout=("def {a}({b}):\n    <if |>{v}", "{a}({b})\n<if |>{v}", "        {a} = {b}\n        <if |>self.{v}",
                 "    {a} = {b}({n})\n    <if |>{v}"),
    ),
    "enumerate_range": _Spec(
        what="Loop over enumerate for two variables, over range for one",
        answers=(" enumerate", " range"),
        train=("for {v}<, {w}|> in", "    for {v}<, {w}|> in", "{a} = {n}\nfor {v}<, {w}|> in",
               "    {a}({b})\n    for {v}<, {w}|> in"),
        heldout=("        for {v}<, {w}|> in", "{a}({b})\nfor {v}<, {w}|> in", "    {a} = {b}\n    for {v}<, {w}|> in"),
    ),
    "var_if": _Spec(
        what="End a condition with a colon, an assignment with a new line",
        answers=(":", "\n"),
        train=("<if |>{v} <==|=> True", "    <if |>{v} <==|=> True", "    <if |>{v} <==|=> False",
               "<if |>{v} <==|=> {n}", "    <if |>{v} <==|=> {a}"),
        heldout=("        <if |>{v} <==|=> True", "    <if |>self.{v} <==|=> True", "<if |>{v} <==|=> {a}",
                 "    <if |>{v} <==|=> {n}"),
    ),
    "while_return_true": _Spec(
        what="End `while True` with a colon, `return True` with a new line",
        answers=(":", "\n"),
        train=("    {a} = {n}\n    <while|return> True", "    {a}({b})\n    <while|return> True",
               "def {a}({b}):\n    <while|return> True", "    {a} = {b}\n    <while|return> True"),
        heldout=("        {a} = {n}\n        <while|return> True", "    {a} = {b}()\n    <while|return> True",
                 "    def {a}(self, {b}):\n        <while|return> True"),
    ),
    "else_elif": _Spec(
        what="End else with a colon, go on with a condition after elif",
        answers=(":", " {v}"),
        train=("if {v} == {n}:\n    {a}()\n<else|elif>", "    if {v} == {n}:\n        {a}({b})\n    <else|elif>",
               "if {v}:\n    {a} = {b}\n<else|elif>", "    if {v} > {n}:\n        return {a}\n    <else|elif>"),
        heldout=("if {v} < {n}:\n    {a}({b})\n<else|elif>", "    if {v} in {a}:\n        {b}()\n    <else|elif>",
                 "    if {v} == {a}:\n        return {b}\n    <else|elif>"),
    ),
}  # fmt: skip


def _register(name: str, spec: _Spec) -> None:
    def make(seed: int = 0, n_train: int = 2048, n_heldout: int = 512) -> Task:
        return _make(
            name, spec.what, (spec.train, spec.heldout), _fill(spec.answers), seed=seed, n_train=n_train,
            n_heldout=n_heldout, names=(_COPY_TRAIN, _COPY_HELDOUT),
            ood={k: (templates, _fill(spec.answers)) for k, templates in spec.ood.items()},
        )  # fmt: skip

    make.__name__, make.__doc__ = name, spec.what + "."
    task(name)(make)


for _name, _spec in _SPECS.items():
    _register(_name, _spec)
