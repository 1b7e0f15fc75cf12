"""A small circuit as a Python file that a person can read: one named line per node, no library but `math`.

It is the frozen mode of standalone.py written out: a threshold per AbsTopK, a factor per RMSNorm, a weight per edge.
Numbers are those of the model, printed as short as its dtype allows. When it lies: where frozen mode does.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from gossamer.circuit import Circuit
from gossamer.errors import BadInput, Unsupported
from gossamer.models.extract import Frozen, freeze, linear_of, narrowing_layer, require_exportable
from gossamer.models.loaded import LoadedModel
from gossamer.task import Encoded

MOST_EDGES = 100
WIDTH = 110

_HELPERS = '''
def keep(x, least):
    """What a fixed threshold leaves of x."""
    return x if abs(x) >= least else 0.0
'''
_GELU = """
def gelu(x):
    return 0.5 * x * (1 + math.erf(x / math.sqrt(2)))
"""
_RELU = """
def relu(x):
    return max(x, 0.0)
"""
_ATTENTION = '''
def attention(scores, sink):
    """Weights of the keys; a sink takes its part and gives nothing."""
    top = max(max(scores), sink)
    weights = [math.exp(s - top) for s in scores]
    total = sum(weights) + math.exp(sink - top)
    return [w / total for w in weights]
'''
_END = '''
def logit_gap(tokens, answer={first}, wrong={second}):
    """Logit of `answer` minus logit of `wrong` after the token ids `tokens`."""
    found = logits(tokens)
    return found[answer] - found[wrong]
'''
_MAIN = """
if __name__ == "__main__":
    import sys

    try:
        print(logits([int(t) for t in sys.argv[1:]]))
    except ValueError as error:
        sys.exit(f"{sys.argv[0]}: {error}")
"""


@torch.no_grad()
def program(
    model: LoadedModel, circuit: Circuit, prompts: Encoded, answers: Sequence[int], *, preset: str = "gao-mean"
) -> str:
    """Python source with `logits(tokens)` (token id of an answer -> logit) and `logit_gap(tokens, answer, wrong)`.

    prompts: what thresholds and norms are fitted to. Errors: Unsupported for a circuit of 100 edges or more, and as
    `extract`; BadInput for fewer than two answers.
    """
    if circuit.n_edges >= MOST_EDGES:
        raise Unsupported(
            f"a Python file of {circuit.n_edges} edges", f"nobody reads one of {MOST_EDGES} or more",
            "a smaller circuit (a higher --target-loss or --k-coef), or --to torch or onnx",
        )  # fmt: skip
    require_exportable(model, circuit, preset)
    if len(answers) < 2:
        raise BadInput(f"Expected at least two answers to tell apart, got {list(answers)}.")
    frozen = freeze(model, circuit, preset, prompts, narrowing_layer(model, circuit, preset))
    return _Writer(model, circuit, preset, frozen, tuple(answers)).text()


class _Writer:
    """Writes nodes in the order of the forward pass. A name in `lists` has one value per position, others one."""

    def __init__(
        self, model: LoadedModel, circuit: Circuit, preset: str, frozen: Frozen, answers: tuple[int, ...]
    ) -> None:
        ablation = circuit.as_ablation(preset)
        self.c, self.net, self.model, self.circuit = model.model.config, model.model, model, circuit
        self.preset, self.frozen, self.answers = preset, frozen, answers
        self.keep = {k: v.astype(bool) for k, v in ablation.keep.items()}
        means = model.means(ablation.methodology.value)
        self.rest = {k: np.where(self.keep[k], 0, v.detach().cpu().double().numpy()) for k, v in means.items()}
        self.single = self.net.lm_head.weight.dtype == torch.float32
        self.narrows = narrowing_layer(model, circuit, preset)
        self.lists: set[str] = set()
        self.lines: list[str] = []
        self.tables: dict[str, np.ndarray] = {}
        self.constants: dict[str, float] = {}
        self.level = np.zeros(self.c.d_model)
        self.writes: dict[int, list[str]] = {}
        self.embedding = self.net.wte.weight.detach().cpu().double().numpy()
        self.used = self._used()

    def _used(self) -> dict[str, np.ndarray]:
        """Kept nodes that the logits depend on, per location, from the last layer to the first."""
        keep, used = self.keep, {"final_resid": self.keep["final_resid"]}
        read = keep["final_resid"].copy()
        for i in reversed(range(self.c.n_layer)):
            block = self.net.blocks[i]
            for sub in ("mlp", "attn"):
                out = used[f"{i}.{sub}.resid_delta"] = keep[f"{i}.{sub}.resid_delta"] & read
                down = linear_of(getattr(block, sub).c_proj)[0]
                middle = (down[out] != 0).any(0)
                if sub == "mlp":
                    used[f"{i}.mlp.post_act"] = neurons = keep[f"{i}.mlp.post_act"] & middle
                    reads = (linear_of(block.mlp.c_fc)[0][neurons] != 0).any(0)
                else:
                    used[f"{i}.attn.v"] = values = keep[f"{i}.attn.v"] & middle
                    heads = np.repeat(values.reshape(self.c.n_head, -1).any(1), self.c.d_head)
                    parts = dict(zip("qkv", np.split(linear_of(block.attn.c_attn)[0], 3), strict=True))
                    used[f"{i}.attn.q"], used[f"{i}.attn.k"] = (keep[f"{i}.attn.{p}"] & heads for p in "qk")
                    reads = np.any([(parts[p][used[f"{i}.attn.{p}"]] != 0).any(0) for p in "qkv"], axis=0)
                used[f"{i}.{sub}.act_in"] = keep[f"{i}.{sub}.act_in"] & reads
                read = read | used[f"{i}.{sub}.act_in"]
        return used

    def number(self, x: float) -> str:
        return str(np.float32(x)) if self.single else repr(float(x))

    def everywhere(self, layer: int, name: str) -> bool:
        """Whether a location is computed at every position."""
        if self.narrows is None or layer > self.narrows:
            return False
        return layer < self.narrows or name in ("attn.act_in", "attn.k", "attn.v")

    def ref(self, name: str, everywhere: bool) -> str:
        return name if name not in self.lists else f"{name}[t]" if everywhere else f"{name}[-1]"

    def embed(self, channel: int, everywhere: bool) -> str:
        column = self.embedding[:, channel]
        if not column.any():
            return ""
        self.tables[f"EMBED_{channel}"] = column
        return f"EMBED_{channel}.get(tokens[{'t' if everywhere else -1}], 0.0)"

    def sum(self, terms: Iterable[tuple[float | None, str]], constant: float, everywhere: bool) -> str:
        """`constant + weight * name + ...`; a term without a weight is taken as it is."""
        pieces = [
            text if weight is None else f"{self.number(weight)} * {self.ref(text, everywhere)}"
            for weight, text in terms if text
        ]  # fmt: skip
        if constant or not pieces:
            pieces.append(self.number(constant))
        return " + ".join(pieces).replace("+ -", "- ")

    def kept(self, location: str, expression: str) -> str:
        least = self.frozen.threshold.get(location)
        if least is None:
            return expression
        name = "LEAST_" + location.replace(".", "_").upper()
        self.constants[name] = least
        return f"keep({expression}, {name})"

    def line(self, name: str, expression: str, comment: str, everywhere: bool) -> None:
        if everywhere:
            self.lists.add(name)
            expression = f"[{expression} for t in positions]"
        text = f"    {name} = {expression}"
        if len(text) + len(comment) + 4 <= WIDTH:
            self.lines.append(f"{text}  # {comment}")
            return
        wrapped = textwrap.wrap(expression, WIDTH - 8, break_long_words=False, break_on_hyphens=False)
        self.lines += [f"    {name} = (  # {comment}", *(f"        {piece}" for piece in wrapped), "    )"]

    def residual(self, channel: int, everywhere: bool) -> list[tuple[float | None, str]]:
        """Terms of a residual channel here, without its constant."""
        writes = [self.ref(name, everywhere) for name in self.writes.get(channel, ())]
        return [(None, term) for term in (self.embed(channel, everywhere), *writes)]

    def reads(self, i: int, sub: str, gain: Tensor) -> dict[int, str]:
        location, names = f"{i}.{sub}.act_in", {}
        everywhere = self.everywhere(i, f"{sub}.act_in")
        for c in np.flatnonzero(self.used[location]).tolist():
            factor = float(gain[c].double()) * self.frozen.inverse[location]
            terms = [(None, t) for _, t in self.residual(c, everywhere) if t]
            x = self.sum(terms, float(self.level[c]), everywhere)
            x = f"({x})" if len(terms) + bool(self.level[c]) > 1 else x
            names[c] = f"{sub}{i}_in_{c}"
            self.line(names[c], self.kept(location, f"{self.number(factor)} * {x}"), f"{location}:{c}", everywhere)
        return names

    def nodes(
        self, location: str, label: str, weight: np.ndarray, bias: np.ndarray, sources: Mapping[int, str],
        activation: str = "",
    ) -> dict[int, str]:  # fmt: skip
        """One line per used node of a location, from the nodes it reads (channel -> name)."""
        layer, name = location.split(".", 1)
        everywhere, names = self.everywhere(int(layer), name), {}
        for row in np.flatnonzero(self.used[location]).tolist():
            terms = [(weight[row, c], n) for c, n in sources.items() if weight[row, c]]
            x = self.sum(terms, bias[row], everywhere)
            names[row] = f"{label}_{row}"
            self.line(
                names[row], self.kept(location, f"{activation}({x})" if activation else x), f"{location}:{row}",
                everywhere,
            )  # fmt: skip
        return names

    def wrote(self, location: str, names: Mapping[int, str]) -> None:
        self.level = self.level + self.rest[location]
        for channel, name in names.items():
            self.writes.setdefault(channel, []).append(name)

    def mlp(self, i: int) -> None:
        location, block = f"{i}.mlp.resid_delta", self.net.blocks[i]
        names: dict[int, str] = {}
        if self.used[location].any():
            self.lines.append(f"\n    # Layer {i}, MLP")
            up, bias = linear_of(block.mlp.c_fc)
            sources = self.reads(i, "mlp", block.ln_2.weight)
            neurons = self.nodes(
                f"{i}.mlp.post_act", f"mlp{i}_neuron", up, bias + up @ self.rest[f"{i}.mlp.act_in"], sources,
                self.c.activation,
            )  # fmt: skip
            down, bias = linear_of(block.mlp.c_proj)
            bias = bias + down @ self.rest[f"{i}.mlp.post_act"]
            names = self.nodes(location, f"mlp{i}_out", down, bias, neurons)
        self.wrote(location, names)

    def attention(self, i: int) -> None:
        location, attn = f"{i}.attn.resid_delta", self.net.blocks[i].attn
        names: dict[int, str] = {}
        if self.used[location].any():
            self.lines.append(f"\n    # Layer {i}, attention")
            sources = self.reads(i, "attn", self.net.blocks[i].ln_1.weight)
            weight, bias = linear_of(attn.c_attn)
            bias = bias + weight @ self.rest[f"{i}.attn.act_in"]
            parts = zip("qkv", np.split(weight, 3), np.split(bias, 3), strict=True)
            q, k, v = (self.nodes(f"{i}.attn.{p}", f"attn{i}_{p}", w, b, sources) for p, w, b in parts)
            mixed: dict[int, str] = {}
            for h in sorted({c // self.c.d_head for c in v}):
                mixed |= self.head(i, h, q, k, v)
            out, bias = linear_of(attn.c_proj)
            by_head = (out * self.rest[f"{i}.attn.v"]).reshape(len(out), self.c.n_head, -1).sum(-1)
            bias = bias + by_head @ self.frozen.share[i].numpy()
            names = self.nodes(location, f"attn{i}_out", out, bias, mixed)
        self.wrote(location, names)

    def head(self, i: int, h: int, q: Mapping[int, str], k: Mapping[int, str], v: Mapping[int, str]) -> dict[int, str]:
        """The attention of one head and what it makes of its value channels."""
        everywhere = self.everywhere(i, "attn.q")
        own = range(h * self.c.d_head, (h + 1) * self.c.d_head)
        rest_q, rest_k = self.rest[f"{i}.attn.q"], self.rest[f"{i}.attn.k"]
        scale = self.c.d_head**-0.5
        constant = sum(float(rest_q[c] * rest_k[c]) for c in own) * scale
        seen = "t + 1" if everywhere else "n"
        terms = []
        for c in own:
            query = self.ref(q[c], everywhere) if c in q else self.number(rest_q[c])
            if c in k:
                key = f"{k[c]}[s]" if k[c] in self.lists else k[c]
                terms.append(f"{query} * {key}" if c in q or rest_q[c] else "")
            elif c in q and rest_k[c]:
                terms.append(f"{query} * {self.number(rest_k[c])}")
        terms = [t for t in terms if t]
        score = f"{self.number(scale)} * ({' + '.join(terms)}) + {self.number(constant)}" if terms else ""
        score = (score or self.number(constant)).replace("+ -", "- ")
        sink_logit = self.net.blocks[i].attn.sink_logit
        sink = "-math.inf" if sink_logit is None else self.number(float(sink_logit[h].double()))
        name = f"attn{i}_head_{h}"
        even = not any(c in k for c in own)
        comment = f"head {h}" + (", which attends evenly: no key is kept" if even else "")
        self.line(name, f"attention([{score} for s in range({seen})], {sink})", comment, everywhere)
        found = {}
        for c in (c for c in own if c in v):
            found[c] = f"attn{i}_mix_{c}"
            weights = self.ref(name, everywhere)
            self.line(found[c], f"sum(a * x for a, x in zip({weights}, {v[c]}))", f"head {h}, value {c}", everywhere)
        return found

    def text(self) -> str:
        """The whole file."""
        for i in range(self.c.n_layer):
            self.attention(i)
            self.mlp(i)
        self.lines.append("\n    # What the answers read")
        finals = {}
        for c in np.flatnonzero(self.keep["final_resid"]).tolist():
            finals[c] = f"final_{c}"
            x = self.sum(self.residual(c, False), float(self.level[c]), False)
            self.line(finals[c], x, f"final_resid:{c}", False)
        rows = self.net.lm_head.weight.detach().cpu().double().numpy()[list(self.answers)]
        rows = rows * self.net.ln_f.weight.detach().cpu().double().numpy()
        bias = rows @ self.rest["final_resid"]
        self.lines.append("    return {")
        for n, answer in enumerate(self.answers):
            x = self.sum([(rows[n, c], name) for c, name in finals.items() if rows[n, c]], bias[n], False)
            more = [(None, f"{self.frozen.inverse['final_resid']!r} * ({x})")]
            if self.net.bigram_table is not None:
                self.tables[f"BIGRAM_{answer}"] = self.net.bigram_table[:, answer].detach().cpu().double().numpy()
                more.append((None, f"BIGRAM_{answer}.get(tokens[-1], 0.0)"))
            whole = self.sum(more, float(self.net.final_logits_bias[answer].double()), False)
            self.lines.append(f"        {answer}: {whole},  # {self.word(answer)}")
        self.lines.append("    }")
        body = "\n".join(self.lines)
        helpers = ["\n".join(f"{name} = {least!r}" for name, least in self.constants.items())] if self.constants else []
        helpers += [_HELPERS] if "keep(" in body else []
        helpers += [_GELU] if "gelu(" in body else []
        helpers += [_RELU] if "relu(" in body else []
        helpers += [_ATTENTION] if "attention(" in body else []
        last = max(0, self.c.vocab_size - 1)
        start = (
            f"\ndef logits(tokens):\n"
            f'    """Token ids of a prompt (1 to {self.c.n_ctx} of 0 to {last}) -> logit of each answer."""\n'
            f"    if not 1 <= len(tokens) <= {self.c.n_ctx} or not all(0 <= t <= {last} for t in tokens):\n"
            f'        raise ValueError("expected 1 to {self.c.n_ctx} token ids of 0 to {last}")\n'
            f"    n = len(tokens)\n    positions = range(n)\n"
        )
        end = _END.format(first=self.answers[0], second=self.answers[1])
        tables = "\n".join(self._table(name, values) for name, values in sorted(self.tables.items()))
        parts = [self._title(), *helpers, start + body + "\n", end, "\n# What tokens bring\n" + tables, _MAIN]
        return "\n".join(parts).rstrip("\n") + "\n"

    def word(self, token: int) -> str:
        return repr(self.model.tokenizer.decode([token], skip_special_tokens=False))

    def _title(self) -> str:
        record, fit = self.circuit.record, self.circuit.calibration
        about = f"{self.circuit.n_nodes} nodes and {self.circuit.n_edges} edges of {self.model.name}"
        lines = [
            f'"""The circuit of {record.task or "a task"}: {about}, as a program.', "",
            f"Everything outside it is a constant ({self.preset}). Thresholds and norms are fixed at what they are",
            "on the task's training prompts: on other text they are wrong. Nodes without effect are left out.",
            f"Tokens start with {self.model.bos}." if self.model.bos is not None else "",
            f"The circuit's calibration, not applied here: {fit.scale!r} * gap + {fit.shift!r}." if fit else "",
            f"Weights {record.model_sha256[:12]}, means {record.means_sha256[:12]}." if record.model_sha256 else "",
        ]  # fmt: skip
        return "\n".join(line for n, line in enumerate(lines) if line or n == 1) + '\n"""\n\nimport math\n'

    def _table(self, name: str, values: np.ndarray) -> str:
        items = [f"{t}: {self.number(values[t])}" for t in np.flatnonzero(values).tolist()]
        lines, line = [], "   "
        for item in items:
            if len(line) + len(item) > WIDTH:
                lines.append(line)
                line = "   "
            line += f" {item},"
        return f"{name} = {{\n" + "\n".join([*lines, line]) + "\n}"
