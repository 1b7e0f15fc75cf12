"""The doctor's view of a weight-sparse model: its nodes are channels, each replaced by its mean (or zero)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gossamer.evidence import Evidence
from gossamer.models import LoadedModel
from gossamer.task import Encoded
from gossamer.verify.doctor import (
    OF_LARGEST,
    ROUNDING_WHY,
    ROUNDINGS,
    SWAPPED,
    Part,
    Patient,
    Slopes,
    judged,
    not_measured,
    relative,
    rounding_noise,
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Channels(Patient):
    """A weight-sparse model: masks on its channels take the place of ablated edges."""

    model: LoadedModel

    @property
    def value(self) -> str:
        """What an ablated node becomes: its mean where the model has means."""
        return "zero" if self.model.reference is None else "mean"

    @property
    def dtypes_do_not_apply(self) -> str:
        return "weight-sparse models run in float32: in bfloat16 other channels would be among the largest"

    def observe(self, batch: Encoded) -> dict[str, Tensor]:
        with torch.no_grad():
            gap = self.model.run(batch).gap
            masked = self.model.run(batch, masks=self._masks(self._half), value=self.value).gap
        found = {"logit gap": gap, "masked logit gap": masked, "mask gradients": self._gradient(batch)}
        return {k: v.cpu().double() for k, v in found.items()}

    @cached_property
    def _half(self) -> np.ndarray:
        """Half of the nodes ablated, 0 or 1."""
        return np.random.default_rng(self.seed).integers(0, 2, self.model.layout.n_nodes).astype(np.float64)

    def _masks(self, keep: np.ndarray) -> dict[str, Tensor]:
        weight = self.model.model.lm_head.weight
        return {k: torch.from_numpy(v).to(weight) for k, v in self.model.layout.split(keep).items()}

    def _gradient(self, batch: Encoded) -> Tensor:
        """Of the sum of the logit gaps to the share kept of every node, at all kept, [nodes]."""
        masks = {k: m.requires_grad_() for k, m in self._masks(np.ones(self.model.layout.n_nodes)).items()}
        with torch.enable_grad():
            total = self.model.run(batch, masks=masks, value=self.value).gap.sum()
        return torch.cat(torch.autograd.grad(total, list(masks.values())))

    @contextmanager
    def moved(self, size: float, seed: int) -> Iterator[None]:
        def move(module: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor:
            normal = torch.randn(out.shape, generator=torch.Generator().manual_seed(seed)).to(out)
            return out * (1 + size * normal)

        handle = self.model.model.wte.register_forward_hook(move)
        try:
            yield
        finally:
            handle.remove()

    def copied(self, dtype: torch.dtype, device: torch.device) -> Channels:
        module = copy.deepcopy(self.model.model).to(device=device, dtype=dtype)
        kept = self.model.reference
        if kept is not None:
            kept = replace(kept, means={k: v.to(dtype) for k, v in kept.means.items()})
        return replace(self, model=replace(self.model, model=module, reference=kept), _kept={})

    def own_checks(self) -> Mapping[str, Callable[[], Evidence]]:
        why = "a weight-sparse model has no edges between heads; `gossamer verify` tries its circuits of channels"
        return {
            "reconstruction": self.reconstruction, "hooks": self.hooks, "ends": self.ends,
            "EAP against exact patching": lambda: not_measured("EAP against exact patching", "rank correlation", why),
        }  # fmt: skip

    def _read(self) -> tuple[Tensor, dict[str, Tensor]]:
        """(logit gap, the writes and what the final norm reads) of a run that keeps them."""
        deltas = [k for k, _ in self.model.layout.locations if k.endswith("resid_delta")]
        found = self.model.run(self.batch, reads=[*deltas, "final_resid"])
        return found.gap.cpu().double(), {k: v.cpu().double() for k, v in found.reads.items()}

    @torch.no_grad()
    def reconstruction(self) -> Evidence:
        """The embeddings and what every layer writes add up to what the final norm reads."""
        _, reads = self._read()
        read = reads.pop("final_resid")
        writes = torch.stack(
            [self.model.model.embed(self.batch.tokens.to(self.device)).cpu().double(), *reads.values()]
        )
        size = float(writes.abs().sum(0).max())
        without = [float((writes.sum(0) - w - read).abs().max()) / size for w in writes[1:]]
        part = Part(
            "the sum of the writes", float((writes.sum(0) - read).abs().max()) / size,
            ROUNDINGS * torch.finfo(self.dtype).eps, max(without),
        )  # fmt: skip
        return judged(
            "reconstruction: what is written adds up to what the final norm reads", [part],
            unit="of the largest sum of the sizes of the writes", null="without one sublayer's write", n=read.numel(),
            seed=self.seed, why=f"{ROUNDINGS} roundings of such a sum at the model's dtype",
        )  # fmt: skip

    @torch.no_grad()
    def hooks(self) -> Evidence:
        """Reading every write, and masks of ones, leave the logits alone; prefixes computed once give the same."""
        gap = self.seen["logit gap"]
        ones = self.model.run(self.batch, masks=self._masks(np.ones(self.model.layout.n_nodes)), value=self.value).gap
        null, limit = relative(self.swapped["logit gap"], gap), self.tolerance("logit gap")
        ways = {"with every write read": self._read()[0], "with masks of ones": ones.cpu().double()}
        parts = [Part(k, relative(v, gap), limit, null) for k, v in ways.items()]
        return judged(
            "hooks: reading the model's parts leaves its logits alone", parts, unit=OF_LARGEST, why=ROUNDING_WHY,
            null=SWAPPED, n=len(gap), seed=self.seed,
        )  # fmt: skip

    @torch.no_grad()
    def ends(self) -> Evidence:
        """With every node ablated, the logits are those of the last node's replacement alone, whatever the prompt."""
        m, batch = self.model.model, self.batch
        masks = self._masks(np.zeros(self.model.layout.n_nodes))
        gap = self.model.run(batch, masks=masks, value=self.value).gap.cpu().double()
        final = self.model.means(self.value)["final_resid"].to(m.lm_head.weight)
        seen = batch.tokens[torch.arange(len(batch.last)), batch.last].to(self.device)
        logits = m.unembed(m.ln_f(final.expand(len(seen), -1)), seen)
        right, wrong = (logits.gather(1, t.to(self.device)[:, None])[:, 0] for t in (batch.answer, batch.wrong))
        wanted = (right - wrong).cpu().double()
        whole = self.seen["logit gap"]
        size = max(float(whole.abs().max()), float(wanted.abs().max()), 1e-30)
        part = Part(
            "every node ablated", float((gap - wanted).abs().max()) / size, self.tolerance("logit gap"),
            float((whole - wanted).abs().max()) / size,
        )  # fmt: skip
        return judged(
            "ends: with every node ablated the logits are those of the replacement alone", [part], unit=OF_LARGEST,
            why=ROUNDING_WHY, null="the whole model", n=len(gap), seed=self.seed,
        )  # fmt: skip

    def slopes(self) -> Slopes:
        locations = self.model.layout.locations
        group = np.repeat(np.arange(len(locations)), [width for _, width in locations])
        kind = {name: name.partition(".")[2] or name for name, _ in locations}
        names = np.array([kind[locations[g][0]] for g in group])

        @torch.no_grad()
        def metric(change: np.ndarray) -> float:
            return float(self.model.run(self.batch, masks=self._masks(1 + change), value=self.value).gap.sum())

        def whole() -> dict[str, Tensor]:
            return {"metric": torch.tensor(metric(np.zeros(len(group))), dtype=torch.float64)}

        return Slopes(
            kinds={k: np.flatnonzero(names == k) for k in dict.fromkeys(kind.values())},
            gradient=self._gradient(self.batch).cpu().double().numpy(), metric=metric, group=group,
            group_name=lambda g: locations[g][0], noise=rounding_noise(self, whole, whole(), draws=4)["metric"],
            rounding=f"in {str(self.dtype).removeprefix('torch.')}; a jump where other channels become the largest is "
            "no slope",
        )  # fmt: skip
