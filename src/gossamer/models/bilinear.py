"""Networks that are polynomials: bilinear layers and attention without softmax (Nissen Gonzalez et al. 2026).

A layer f reads x, one vector of `in` numbers per position; with `constant` a 1 is put before it, so maps have biases.

    linear      D x
    bilinear    D ((L x) * (R x))
    attention   at position t: sum over heads and over s <= t of (Q1 x_t . K1 x_s) (Q2 x_t . K2 x_s) O V x_s

With residual r a layer that is not linear and as wide after as before gives r x + (1 - r) f(x). The answer is read at
the last position. Every such network is also a chain of `Product` layers over all positions' numbers at once, see
BilinearModel.products: what gossamer.compare.tensor_similarity works on.

A run folder holds config.json, checkpoints.safetensors, record.json and what was measured at every checkpoint.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from gossamer.errors import BadInput, CorruptFile
from gossamer.models.files import CONFIG, read_object, read_parts, write_parts
from gossamer.record import Record
from gossamer.whole_file import whole_folder

Kind = Literal["linear", "bilinear", "attention"]
CHECKPOINTS, MEASURED = "checkpoints.safetensors", "measured.json"
MOST_PRODUCTS = 8192  # products of one layer that are written out


class BilinearConfig(BaseModel):
    """Layers by kind; sizes: numbers per position before the first layer and after each.

    hidden: products of a bilinear layer. positions: vectors in one input; only attention moves anything between them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    model_type: Literal["gossamer-bilinear"] = "gossamer-bilinear"
    sizes: tuple[int, ...] = Field(min_length=2)
    kinds: tuple[Kind, ...]
    hidden: int = Field(default=64, ge=1, le=4096)
    heads: int = Field(default=1, ge=1, le=64)
    d_head: int = Field(default=4, ge=1, le=256)
    positions: int = Field(default=1, ge=1, le=256)
    constant: bool = False
    residual: float = Field(default=0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _layers_fit(self) -> BilinearConfig:
        if len(self.sizes) != len(self.kinds) + 1:
            raise ValueError(f"{len(self.kinds)} layers have {len(self.kinds) + 1} sizes, got {len(self.sizes)}")
        if min(self.sizes) < 1:
            raise ValueError("sizes start at 1")
        return self

    @property
    def lifted(self) -> bool:
        """Whether the network as a chain of products needs a coordinate that is always 1."""
        return self.constant or any(self.keeps(i) for i in range(len(self.kinds)))

    def keeps(self, layer: int) -> bool:
        """Whether the layer has a residual connection."""
        return self.residual > 0 and self.kinds[layer] != "linear" and self.sizes[layer] == self.sizes[layer + 1]

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every matrix (for attention: of every head's), [out, in]."""
        found: dict[str, tuple[int, ...]] = {}
        for i, kind in enumerate(self.kinds):
            reads, writes = self.sizes[i] + self.constant, self.sizes[i + 1]
            if kind == "linear":
                found[f"{i}.down"] = (writes, reads)
            elif kind == "bilinear":
                found |= {f"{i}.{name}": (self.hidden, reads) for name in ("left", "right")}
                found[f"{i}.down"] = (writes, self.hidden)
            else:
                for name in ("query1", "key1", "query2", "key2", "value"):
                    found[f"{i}.{name}"] = (self.heads, self.d_head, reads)
                found[f"{i}.down"] = (self.heads, writes, self.d_head)
        return found


@dataclass(frozen=True, kw_only=True)
class Product:
    """x -> down @ (factors[0] @ x * factors[1] @ x * ...); factors [m, products, in], down [out, products]."""

    factors: Tensor
    down: Tensor


class BilinearModel(nn.Module):
    """The network; all zeros until it is drawn, trained or read."""

    def __init__(self, config: BilinearConfig) -> None:
        super().__init__()
        self.config = config
        self.weights = nn.ParameterDict({name.replace(".", "_"): nn.Parameter(torch.zeros(shape))
                                         for name, shape in config.shapes().items()})  # fmt: skip

    def weight(self, layer: int, name: str) -> Tensor:
        """One of the matrices that config.shapes() lists."""
        return self.weights[f"{layer}_{name}"]

    def forward(self, x: Tensor) -> Tensor:
        """Outputs [n, sizes[-1]] at the last position of x [n, positions, sizes[0]]; one position may be left out."""
        c = self.config
        if x.ndim == 2 and c.positions == 1:
            x = x[:, None]
        if x.shape[1:] != (c.positions, c.sizes[0]):
            raise BadInput(f"Expected inputs of [n, {c.positions}, {c.sizes[0]}], got {list(x.shape)}.")
        for i, kind in enumerate(c.kinds):
            read = torch.cat([torch.ones_like(x[..., :1]), x], -1) if c.constant else x
            w = {name: self.weight(i, name) for name in _NAMES[kind]}
            if kind == "linear":
                y = read @ w["down"].T
            elif kind == "bilinear":
                y = ((read @ w["left"].T) * (read @ w["right"].T)) @ w["down"].T
            else:
                q1, k1, q2, k2, v = (read[:, None] @ w[name].mT for name in _NAMES["attention"][:5])
                y = (((q1 @ k1.mT) * (q2 @ k2.mT)).tril() @ v @ w["down"].mT).sum(1)
            x = c.residual * x + (1 - c.residual) * y if c.keeps(i) else y
        return x[:, -1]

    @torch.no_grad()
    def products(self) -> tuple[Product, ...]:
        """The same function as a chain of products in float64, of the inputs of all positions side by side.

        With config.lifted a 1 stands before them (coordinate 0), and every layer but the last hands it on. A residual
        connection is then a product with that 1. An attention layer has a product for every pair of positions, head
        and three channels of the head. Errors: BadInput above 8,192 products in a layer.
        """
        c, one = self.config, int(self.config.lifted)
        last = c.positions - 1
        before = [c.kinds[i + 1 :] for i in range(len(c.kinds))]  # the kinds of the layers above each
        found: list[Product] = []
        reads = list(range(c.positions))
        for i, kind in enumerate(c.kinds):
            writes = reads if "attention" in before[i] else [last]
            builder = _Builder(one, len(reads), c.sizes[i], one * (i < len(c.kinds) - 1), len(writes), c.sizes[i + 1])
            pairs = [(t, s) for t in writes for s in reads if s <= t]
            rank = c.heads * c.d_head**3 * len(pairs) if kind == "attention" else 0
            if rank > MOST_PRODUCTS:
                raise BadInput(
                    f"Expected at most {MOST_PRODUCTS:,} products in a layer, the attention of layer {i} has {rank:,}; "
                    "use fewer positions, heads or channels in a head."
                )
            share = 1 - c.residual if c.keeps(i) else 1.0
            w = {name: self.weight(i, name).double() for name in _NAMES[kind]}
            for place, t in enumerate(writes):
                at = reads.index(t)
                if kind == "linear":
                    builder.add([(at, w["down"])], place, torch.eye(c.sizes[i + 1], dtype=torch.float64))
                elif kind == "bilinear":
                    builder.add([(at, w["left"]), (at, w["right"])], place, share * w["down"])
                else:
                    for s in [s for own, s in pairs if own == t]:
                        _add_attention(builder, w, at, reads.index(s), place, share)
                if c.keeps(i):
                    whole = torch.eye(c.sizes[i], dtype=torch.float64)
                    builder.add([(at, whole)], place, c.residual * whole)
            found.append(builder.done(len(_NAMES[kind]) - 1 if kind != "linear" else 1))
            reads = writes
        return tuple(found)


_NAMES: dict[str, tuple[str, ...]] = {
    "linear": ("down",), "bilinear": ("left", "right", "down"),
    "attention": ("query1", "key1", "query2", "key2", "value", "down"),
}  # fmt: skip


class _Builder:
    """Collects the products of one layer; coordinate 0 is the constant where there is one."""

    def __init__(self, one: int, reads: int, size: int, one_out: int, writes: int, size_out: int) -> None:
        self.one, self.size, self.width = one, size, one + reads * size
        self.one_out, self.size_out, self.width_out = one_out, size_out, one_out + writes * size_out
        self.parts: list[tuple[list[Tensor], Tensor]] = []

    def add(self, factors: Sequence[tuple[int, Tensor]], place: int, down: Tensor) -> None:
        """Products of rows of matrices, each with the position that it reads, written to a position."""
        wide = []
        for at, w in factors:
            own = w.new_zeros(len(w), self.width)
            extra = w.shape[1] - self.size
            own[:, :extra] = w[:, :extra]
            own[:, self.one + at * self.size :][:, : self.size] = w[:, extra:]
            wide.append(own)
        out = down.new_zeros(self.width_out, down.shape[1])
        out[self.one_out + place * self.size_out :][: self.size_out] = down
        self.parts.append((wide, out))

    def done(self, degree: int) -> Product:
        """All of them as one layer; products of too few factors are filled up with the constant."""
        if self.one_out:
            out = torch.zeros(self.width_out, 1, dtype=torch.float64)
            out[0] = 1
            self.parts.append(([], out))
        one = torch.eye(1, self.width, dtype=torch.float64)
        factors = [
            torch.cat([wide[i] if i < len(wide) else one.expand(out.shape[1], -1) for wide, out in self.parts])
            for i in range(degree)
        ]
        return Product(factors=torch.stack(factors), down=torch.cat([out for _, out in self.parts], 1))


def _add_attention(builder: _Builder, w: dict[str, Tensor], at: int, other: int, place: int, share: float) -> None:
    d = w["value"].shape[1]
    r1, r2, r3 = (r.flatten() for r in torch.meshgrid(*[torch.arange(d)] * 3, indexing="ij"))
    for head in range(len(w["value"])):
        q1, k1, q2, k2, v, o = (w[name][head] for name in _NAMES["attention"])
        read = [(at, q1[r1]), (other, k1[r1]), (at, q2[r2]), (other, k2[r2]), (other, v[r3])]
        builder.add(read, place, share * o[:, r3])


def random_bilinear(config: BilinearConfig, seed: int) -> BilinearModel:
    """Every weight uniform within 1 / sqrt(numbers read), as torch starts a linear map."""
    generator = torch.Generator().manual_seed(seed)
    model = BilinearModel(config)
    with torch.no_grad():
        for p in model.weights.values():
            bound = 1 / math.sqrt(p.shape[-1])
            p.uniform_(-bound, bound, generator=generator)
    return model


@dataclass(frozen=True, kw_only=True)
class BilinearRun:
    """The checkpoints of one training, first to last, with their steps and what was measured at each (equally long)."""

    config: BilinearConfig
    steps: tuple[int, ...]
    models: tuple[BilinearModel, ...]
    measured: dict[str, tuple[float, ...]]
    record: Record


def save_bilinear(run: BilinearRun, folder: Path) -> Path:
    """Write a run folder under a temporary name and rename it; an existing run folder is replaced whole.

    Errors: BadInput for an existing `folder` that is not such a run's.
    """
    with whole_folder(folder, "run folder", holds=CHECKPOINTS) as work:
        stacks = {name: torch.stack([m.state_dict()[name] for m in run.models]) for name in run.models[0].state_dict()}
        write_parts(work, run.config, stacks, run.record, weights=CHECKPOINTS)
        (work / MEASURED).write_text(json.dumps({"steps": run.steps, **run.measured}, indent=1), encoding="utf-8")
    return folder


def load_bilinear(folder: str | Path) -> BilinearRun:
    """The inverse of save_bilinear. Errors: BadInput for another folder, CorruptFile for a damaged one."""
    folder = Path(folder)
    if not (folder / CHECKPOINTS).is_file():
        raise BadInput(f"Expected the run folder of a bilinear model with {CHECKPOINTS} at {folder}.")
    config, stacks, record = read_parts(folder, BilinearConfig, "run", weights=CHECKPOINTS)
    measured = {k: tuple(v) for k, v in read_object(folder / MEASURED).items()}
    steps = tuple(int(s) for s in measured.pop("steps", ()))
    wanted = {"weights." + name.replace(".", "_"): (len(steps), *shape) for name, shape in config.shapes().items()}
    if {n: tuple(t.shape) for n, t in stacks.items()} != wanted or any(len(v) != len(steps) for v in measured.values()):
        raise CorruptFile(f"{folder}: the checkpoints are not those of {CONFIG} and {MEASURED}; restore it.")
    models = []
    for i in range(len(steps)):
        model = BilinearModel(config)
        model.load_state_dict({name: t[i] for name, t in stacks.items()})
        models.append(model.eval().requires_grad_(False))
    return BilinearRun(config=config, steps=steps, models=tuple(models), measured=measured, record=record)
