"""Train the masks of `prune`: Heaviside masks over all nodes, many in one pass (Gao et al. 2025, section A.5)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from gossamer.errors import BadInput
from gossamer.graph import Graph
from gossamer.mask import heaviside
from gossamer.metric import task_loss_nats
from gossamer.subject import Subject
from gossamer.task import Encoded

if TYPE_CHECKING:
    from gossamer.discover.prune import PruneConfig


def owners(graph: Graph, tied: bool) -> np.ndarray:
    """For each node the node whose mask it uses: itself, or for a key channel its query channel when tied."""
    owner = np.arange(graph.layout.n_nodes)
    if tied:
        for name, width in graph.layout.locations:
            if name.endswith(".attn.k"):
                start, query = graph.layout.starts[name], graph.layout.starts[name[:-1] + "q"]
                if (queries := graph.layout.width(name[:-1] + "q")) != width:
                    raise BadInput(f"Expected as many key as query channels to tie, got {width} and {queries}; untie.")
                owner[start : start + width] = np.arange(query, query + width)
    return owner


def learning_rate(step: int, steps: int, peak: float, warmup: float) -> float:
    """Linear warm-up, then linear decay to 0 (the paper's text says no warm-up, its table lists one)."""
    p = (step + 1) / steps
    return peak * (p / warmup if p < warmup else max(0.0, (1 - p) / (1 - warmup) + 1 / steps))


def split_masks(graph: Graph, m: Tensor) -> dict[str, Tensor]:
    """A mask over all nodes [..., n_nodes] as one view per location."""
    widths = [w for _, w in graph.layout.locations]
    return dict(zip((n for n, _ in graph.layout.locations), m.split(widths, dim=-1), strict=True))


def train_masks(
    model: Subject, graph: Graph, train: Encoded, configs: Sequence[PruneConfig],
    progress: Callable[[int, int, float], None] | None = None,
) -> Tensor:  # fmt: skip
    """tau [trials, n_nodes] after training all trials in one batched pass: a row per value of k_coef of each config.

    A row starts from the noise of its config's seed. The configs share steps, batch_pairs, tied and ablated, and
    see the batches of the first one's seed.
    """
    each = [c for c in configs for _ in c.k_coef]
    first = each[0]
    shared = ("steps", "batch_pairs", "tied", "ablated")
    if any(getattr(c, k) != getattr(first, k) for c in each for k in shared):
        raise BadInput(f"Expected trials of one {', '.join(shared)} in a pass, got several; train them apart.")
    n = graph.layout.n_nodes
    noise = torch.stack([torch.randn(n, generator=torch.Generator().manual_seed(c.seed)) for c in each])
    column = {k: torch.tensor([[getattr(c, k)] for c in each]) for k in _OF_A_ROW}
    tau = (column["init_noise_bias"] + column["init_noise_scale"] * noise).clamp_(-1, 1).requires_grad_()
    owner = torch.from_numpy(owners(graph, first.tied))
    penalty = torch.tensor([k for c in configs for k in c.k_coef])
    adam = Adam(tau, column["beta2"], column["weight_decay"], column["grad_clip"])
    batches = train.batches(first.batch_pairs, first.seed)
    generator = torch.Generator().manual_seed(first.seed + 1)
    for step in range(first.steps):
        batch = next(batches)
        m = heaviside(tau, column["temperature"])[:, owner]
        inside = m
        if first.ablated != "all":
            rate = torch.randn(tau.shape, generator=generator)
            if first.ablated == "adversarial":
                rate = _worst_half(model, graph, batch, m.detach(), rate, owner)
            inside = m + (1 - m) * (rate[:, owner] > 0)
        loss = _losses(model, graph, batch, inside)
        (loss.sum() + (penalty.to(m) * m.sum(-1)).sum().to(loss.device)).backward()
        adam.step(torch.tensor([[learning_rate(step, c.steps, c.lr, c.warmup_fraction)] for c in each]))
        if progress and (step % 20 == 19 or step + 1 == first.steps):
            progress(step + 1, first.steps, float(loss.detach().mean()))
    return tau.detach()


def _losses(model: Subject, graph: Graph, batch: Encoded, m: Tensor) -> Tensor:
    """Mean task_loss_nats per row of masks [rows, n_nodes]."""
    gap = model.run(batch, masks=split_masks(graph, m)).gap
    return task_loss_nats(gap.unflatten(0, (len(m), -1))).mean(-1)


def _worst_half(
    model: Subject, graph: Graph, batch: Encoded, m: Tensor, rate: Tensor, owner: Tensor, steps: int = 3
) -> Tensor:
    """Logits [rows, n_nodes] of which nodes outside the masks are spared (> 0), moved to raise the task loss.

    They start as given (standard normal: half of the nodes) and go a unit up or down in each step, by the sign of the
    gradient through the step function's slope.
    """
    for _ in range(steps):
        rate = rate.detach().requires_grad_()
        spared = heaviside(rate)[:, owner]
        (grad,) = torch.autograd.grad(_losses(model, graph, batch, m + (1 - m) * spared).sum(), rate)
        rate = rate + grad.sign()
    return rate.detach()


_OF_A_ROW = ("init_noise_bias", "init_noise_scale", "temperature", "beta2", "weight_decay", "grad_clip")


class Adam:
    """AdamW over mask parameters [rows, n], each row clipped to its own gradient norm, with options of its own
    ([rows, 1]); the parameters stay in [-1, 1]. (torch's needs an optimizer per row, and two seconds to import.)"""

    def __init__(self, tau: Tensor, beta2: Tensor, weight_decay: Tensor, grad_clip: Tensor) -> None:
        self.tau, self.beta2, self.weight_decay, self.grad_clip = tau, beta2, weight_decay, grad_clip
        self.first, self.second, self.steps = torch.zeros_like(tau), torch.zeros_like(tau), 0

    @torch.no_grad()
    def step(self, lr: Tensor) -> None:
        """One step at learning rates [rows, 1]; the gradient is used up."""
        grad, tau = self.tau.grad, self.tau
        assert grad is not None
        grad.mul_((self.grad_clip / (grad.norm(dim=1, keepdim=True) + 1e-6)).clamp_(max=1))
        self.steps += 1
        self.first.lerp_(grad, 0.1)
        self.second.mul_(self.beta2).addcmul_(grad * (1 - self.beta2), grad)
        scale = (self.second / (1 - self.beta2**self.steps)).sqrt_().add_(1e-8)
        tau.mul_(1 - lr * self.weight_decay).sub_(lr * self.first / (1 - 0.9**self.steps) / scale).clamp_(-1, 1)
        tau.grad = None
