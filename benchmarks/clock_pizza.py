"""Tensor similarity within and between the clock and the pizza of Zhong et al. 2023 (two models of a + b mod 59).

    python benchmarks/clock_pizza.py [--data shared/data/clock-pizza] [--draws 200]

Neither model is a polynomial, so what is compared is stated: (1) the function, as the table of logits of all 59 x 59
pairs, which is exactly a bilinear form of two one-hot inputs; (2) the best bilinear surrogate of the weights: inputs of
the MLP as a sum of one part per token (least squares), each ReLU as the parabola closest to it on all pairs. The
models use different frequencies w, so each is cut into slices: the outputs along cos and sin of w c, with tokens
relabelled to w a, so that every slice computes the same thing at frequency 1. A frequency counts that holds 1% of the
logits' variance.

Null: the tokens of one of two slices in a random order (the same for both inputs). Is a slice more like those of its
own model than like the other's? The difference of means against every way to share the slices out to two models.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gossamer.compare import tensor_similarity
from gossamer.models.bilinear import BilinearConfig, BilinearModel

DATA = Path(__file__).parents[2] / "shared" / "data" / "clock-pizza"
MODELS = {"pizza": "p99zdpze5l", "clock": "l8k1hzciux"}
P, SHARE = 59, 0.01


class Tables:
    """What one model computes on all pairs [59, 59, ..], in float64, and the maps that read it."""

    def __init__(self, folder: Path, name: str) -> None:
        config = json.loads((folder / f"config_{name}.json").read_text())
        w = torch.load(folder / f"model_{name}.pt", weights_only=True, map_location="cpu")
        w = {k.removeprefix("blocks.0."): v.double() for k, v in w.items()}
        a, b = torch.meshgrid(torch.arange(P), torch.arange(P), indexing="ij")
        x = w["embed.W_E"].T[torch.stack([a.flatten(), b.flatten()], 1)] + w["pos_embed.W_pos"][:2]
        q, k, v = (torch.einsum("hde,npe->nhpd", w[f"attn.W_{m}"], x) for m in "QKV")
        c = config["attn_coeff"]
        pattern = (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1) * c + (1 - c)
        self.middle = (x + (pattern @ v).transpose(1, 2).flatten(2) @ w["attn.W_O"].T)[:, -1].view(P, P, -1)
        self.neurons = self.middle @ w["mlp.W_in"].T + w["mlp.b_in"]
        self.out, self.bias, self.unembed = w["mlp.W_out"], w["mlp.b_out"], w["unembed.W_U"]
        self.logits = (self.middle + self.neurons.relu() @ self.out.T + self.bias) @ self.unembed
        self.qk_norm = float(torch.einsum("hde,hdf->hef", w["attn.W_Q"], w["attn.W_K"]).norm())

    def distance_irrelevance(self) -> float:
        """Zhong et al. 2023: spread of the right logit at equal a - b over its whole spread."""
        t = torch.arange(P)
        right = self.logits.gather(2, ((t[:, None] + t) % P)[..., None])[..., 0]
        at_equal = torch.stack([right[t, (t + d) % P].std(correction=0) for d in range(P)])
        return float(at_equal.mean() / right.std(correction=0))

    def surrogate(self) -> BilinearModel:
        """The best bilinear surrogate, of a constant and two one-hots."""
        neurons, middle = additive(self.neurons), additive(self.middle)
        h, target = at_pairs(neurons).flatten(0, 1), self.neurons.relu().flatten(0, 1)
        powers = torch.stack([torch.ones_like(h), h, h**2], 2)  # [pairs, neurons, 3]
        c = torch.linalg.lstsq(powers.transpose(0, 1), target.T[..., None]).solution[..., 0]
        one = torch.eye(2 * P + 1, dtype=torch.float64)
        read = self.unembed.T @ self.out
        linear = (middle @ self.unembed).T + (read * c[:, 1]) @ neurons.T  # [59, 119]
        linear[:, 0] += read @ c[:, 0] + self.unembed.T @ self.bias
        config = BilinearConfig(
            sizes=(2 * P, P), kinds=("bilinear",), hidden=len(neurons.T) + 2 * P + 1, constant=True
        )  # fmt: skip
        model = BilinearModel(config).double().requires_grad_(False)
        model.weights["0_left"].copy_(torch.cat([neurons.T, one]))
        model.weights["0_right"].copy_(torch.cat([neurons.T, one[:1].expand_as(one)]))
        model.weights["0_down"].copy_(torch.cat([read * c[:, 2], linear], 1))
        return model


def additive(table: Tensor) -> Tensor:
    """The closest sum of a constant and one part per token, [1 + 59 + 59, width]."""
    mean = table.mean((0, 1))
    return torch.cat([mean[None], table.mean(1) - mean, table.mean(0) - mean])


def at_pairs(parts: Tensor) -> Tensor:
    return parts[0] + parts[1 : P + 1, None] + parts[None, P + 1 :]


def explained(table: Tensor, by: Tensor) -> float:
    """Share of the variance over pairs."""
    return 1 - float((table - by).square().sum() / (table - table.mean((0, 1))).square().sum())


def pairs_inputs() -> Tensor:
    one = torch.eye(P, dtype=torch.float64)
    return torch.cat([one[:, None].expand(P, P, P), one[None].expand(P, P, P)], 2).flatten(0, 1)


def frequencies(logits: Tensor) -> list[int]:
    power = torch.fft.rfft(logits - logits.mean(-1, keepdim=True)).abs().square().sum((0, 1))
    return [int(w) for w in power.argsort(descending=True) if power[w] > SHARE * power.sum()]


def waves(w: int) -> Tensor:
    """cos and sin of w c, [2, 59]."""
    angle = 2 * math.pi * w * torch.arange(P, dtype=torch.float64) / P
    return torch.stack([angle.cos(), angle.sin()])


def relabelled(w: int) -> Tensor:
    """At place t the token a with w a = t."""
    return torch.arange(P) * pow(w, -1, P) % P


def slice_of(model: BilinearModel, w: int, order: Tensor) -> BilinearModel:
    config = model.config.model_copy(update={"sizes": (2 * P, 2)})
    found = BilinearModel(config).double().requires_grad_(False)
    columns = torch.cat([torch.zeros(1, dtype=torch.int64), 1 + order, 1 + P + order])
    for side in ("0_left", "0_right"):
        found.weights[side].copy_(model.weights[side][:, columns])
    found.weights["0_down"].copy_(waves(w) @ model.weights["0_down"])
    return found


def within_and_between(names: list[str], value: np.ndarray, null: np.ndarray) -> None:
    """The table and its test; value [slices, slices], null: draws."""
    for name, row in zip(names, value, strict=True):
        print("    " + " ".join(f"{v:6.3f}" for v in row) + f"  {name}")
    pairs = list(itertools.combinations(range(len(names)), 2))

    def gap(owner: tuple[bool, ...]) -> float:
        own = [value[i, j] for i, j in pairs if owner[i] == owner[j]]
        return float(np.mean(own) - np.mean([value[i, j] for i, j in pairs if owner[i] != owner[j]]))

    owner = tuple(name.startswith("clock") for name in names)
    ways = set(itertools.permutations(owner))
    for kind in ("pizza", "clock"):
        own = [value[i, j] for i, j in pairs if names[i].startswith(kind) and names[j].startswith(kind)]
        print(f"    within {kind}: {np.mean(own):.4f}")
    between = np.mean([value[i, j] for i, j in pairs if owner[i] != owner[j]])
    at_least = sum(gap(o) >= gap(owner) - 1e-12 for o in ways)
    print(
        f"    between: {between:.4f}; within - between {gap(owner):.4f}, as much in {at_least} of {len(ways)} ways to "
        f"share the slices out; null, tokens in a random order: mean {null.mean():.4f}, highest {null.max():.4f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--draws", type=int, default=200)
    given = parser.parse_args()
    torch.set_num_threads(1)
    t = torch.arange(P)
    tables: dict[str, Tensor] = {}
    surrogates: dict[str, BilinearModel] = {}
    names, functions, weights = [], [], []
    for name, file in MODELS.items():
        own = Tables(given.data, file)
        model = own.surrogate()
        by = model(pairs_inputs()).view(P, P, P)
        centred = [x - x.mean(-1, keepdim=True) for x in (own.logits, by)]
        tables[name], surrogates[name] = centred[0], model
        right = (t[:, None] + t) % P
        print(
            f"{name}: accuracy {float((own.logits.argmax(-1) == right).double().mean()):.4f}, distance irrelevance "
            f"{own.distance_irrelevance():.5f}, norm of the QK forms {own.qk_norm:.3f}; additive share of MLP inputs "
            f"{explained(own.neurons, at_pairs(additive(own.neurons))):.4f}; the surrogate explains "
            f"{explained(centred[0], centred[1]):.4f} of the logits, its accuracy "
            f"{float((by.argmax(-1) == right).double().mean()):.4f}; frequencies {frequencies(own.logits)}"
        )
        for w in frequencies(own.logits):
            order = relabelled(w)
            names.append(f"{name} w={w}")
            functions.append(torch.einsum("kc,abc->kab", waves(w), tables[name][order][:, order]))
            weights.append((model, w, order))
    print(f"whole tables of logits: {cosine(*tables.values()):.4f}; whole surrogates: "
          f"{tensor_similarity(*surrogates.values()).value:.4f}")  # fmt: skip
    rng = np.random.default_rng(0)
    draws = []
    for _ in range(given.draws):
        draws.append((*rng.choice(len(names), 2, replace=False), torch.from_numpy(rng.permutation(P))))
    print("the function, slice by slice:")
    value = np.array([[cosine(x, y) for y in functions] for x in functions])
    within_and_between(names, value, np.array([cosine(functions[i], functions[j][:, p][:, :, p]) for i, j, p in draws]))
    for metric in ("symmetric", "gaussian"):
        print(f"the bilinear surrogates, slice by slice, {metric}:")
        slices = [slice_of(*w) for w in weights]
        value = np.array([[tensor_similarity(x, y, metric=metric).value for y in slices] for x in slices])
        null = [
            tensor_similarity(slices[i], slice_of(weights[j][0], weights[j][1], weights[j][2][p]), metric=metric).value
            for i, j, p in draws[:20]
        ]
        within_and_between(names, value, np.array(null))


def cosine(a: Tensor, b: Tensor) -> float:
    return float((a * b).sum() / (a.norm() * b.norm()))


if __name__ == "__main__":
    main()
