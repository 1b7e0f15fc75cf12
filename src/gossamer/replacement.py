"""What an ablated write becomes, by the value of a methodology.

| value         | an ablated writer writes                                                                           |
| ------------- | -------------------------------------------------------------------------------------------------- |
| zero          | nothing                                                                                            |
| mean          | its mean over all tokens of the training prompts                                                   |
| position-mean | its mean over the training prompts at the same position                                            |
| resample      | what it writes at the same position of the pair's other prompt, or of the same span there          |
| noise         | its own write and noise of 3 standard deviations (Meng et al. 2022, there of the embeddings alone) |
| optimal       | the constant under which the ablated model is nearest to the whole (Li and Janson 2024)            |

A branch is a path from the input to the logits: in the computation unrolled to a tree, in which every node is computed
anew for each of its readers, the input is copied once per path (paper 9: Miller et al. 2024, arXiv 2407.08734; the tree
of Chan et al. 2022). To ablate a branch is to replace that copy of the input, at the chosen positions; what lies on the
way computes from it. So of the table only the line of the input counts, and noise is that of Meng et al. The branches
of a circuit are all paths of its edges. The tree need not be built: its copies of a node are of two kinds.

- Complement ablated: a node reads its like along the circuit's edges, and along all others what the writer writes in a
  run on the replaced input. By resampling at all positions that is the run of the other prompt: a branch then is kept
  where each of its edges is, and branches are as good as edges.
- Circuit ablated: along the circuit's edges a node reads its like, which starts at the replaced input, and along all
  others what the writer writes when nothing is ablated. A node on an ablated branch keeps its value for readers that
  it reaches by others; ablated edges would be lost for all branches through them.

When they lie: zero and noise take the model where it never is, a mean of different things may mean nothing, resampling
hides what both prompts share, and the optimal constant is fitted to the very circuit that it is to judge.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gossamer.ablation import Methodology
from gossamer.errors import BadInput, Unsupported
from gossamer.metric import divergence
from gossamer.subject import ResidualSubject
from gossamer.task import Encoded, counterparts, sides

NOISE = 3.0  # standard deviations
OPTIMAL_STEPS, OPTIMAL_LR = 50, 0.1


@dataclass(frozen=True, kw_only=True, eq=False)
class Replacement:
    """Replacement values by prompt. mean: [writers, 1 or positions, d] and spread: [writers], over training prompts."""

    model: ResidualSubject
    how: Methodology
    seed: int
    training: Encoded
    mean: Tensor
    spread: Tensor
    pairs_at_once: int = 16

    def __call__(self, run: Encoded, other: Encoded) -> Tensor:
        """[writers, rows, pos, d] for the prompts that run; other: the other prompt of each one's pair.

        At granularity branch for `everywhere` of those prompts. Unsupported by noise and position-mean for rows that
        give answers of several tokens, whatever the training.
        """
        if run.marks.prompt is not None:
            _require_several(self.how)
        values = self._values(run, other)
        return self._of_branches(run, values) if self.how.granularity == "branch" else values

    def _of_branches(self, run: Encoded, values: Tensor) -> Tensor:
        """What edges carry where an ablation of branches does not leave them alone: see the head of this file."""
        at_all = run.marks.chosen is None
        if self.how.set == "complement" and at_all and self.how.value == "resample":
            return values
        if self.how.set == "complement" and at_all:
            return self.model.writes(run, start=values[0])[0]
        own = self.model.writes(run)[0]
        start = run.where_chosen(values[0], own[0])
        if self.how.set == "complement":
            return self.model.writes(run, start=start)[0]
        own[0] = start
        return own

    def _values(self, run: Encoded, other: Encoded) -> Tensor:
        if self.how.value == "resample":
            return resampled(self.model, run, other)
        own = self.model.writes(run)[0]
        if self.how.value == "zero":
            return torch.zeros_like(own)
        if self.how.value == "noise":
            return own + NOISE * self.spread[:, None, None, None] * self._noise(run, own)
        longest = own.shape[2]
        if self.how.value == "position-mean" and self.mean.shape[1] < longest:
            raise BadInput(
                f"Expected prompts of at most {self.mean.shape[1]} tokens, the longest of the training prompts that "
                f"the means of positions are of, got {longest}; use value mean."
            )
        return self.mean[:, None, :longest].expand_as(own)

    def _noise(self, run: Encoded, own: Tensor) -> Tensor:
        """Standard normal numbers that depend on the seed and a prompt's tokens, not on the batch it comes in."""
        found = torch.zeros(own.shape, dtype=torch.float32)
        for row, (tokens, last) in enumerate(zip(run.tokens.tolist(), run.last.tolist(), strict=True)):
            words = hash((self.seed, *tokens[: last + 1]))  # of whole numbers: the same in every process
            generator = torch.Generator().manual_seed(words)
            shape = (own.shape[0], last + 1, own.shape[3])
            found[:, row, : last + 1] = torch.randn(shape, generator=generator)
        return found.to(own)

    def fitted(self, shares: Tensor) -> Replacement:
        """For value `optimal`: the constants that are best for these shares [edges]; for all others, itself."""
        if self.how.value != "optimal":
            return self
        change = torch.zeros_like(self.mean, dtype=torch.float32, requires_grad=True)
        scale = self.spread[:, None, None]
        optimizer = torch.optim.Adam([change], lr=OPTIMAL_LR)
        batches = self.training.batches(self.pairs_at_once, self.seed)
        for _ in range(OPTIMAL_STEPS):
            clean, _other = sides(next(batches))
            writes, whole = self.model.writes(clean)
            with torch.enable_grad():
                constant = (self.mean + scale * change).to(writes)[:, None].expand_as(writes)
                logits = self.model.patched(clean, shares.to(writes), constant)
                loss = divergence(whole, logits).mean()
                optimizer.zero_grad()
                loss.backward()
            optimizer.step()
        return replace(self, mean=(self.mean + scale * change).detach().to(self.mean))


def everywhere(run: Encoded, how: Methodology) -> Encoded:
    """The prompts that run, for `patched`: what a branch changes at chosen positions is read at all of them."""
    return run.choose("all") if how.granularity == "branch" else run


def resampled(model: ResidualSubject, run: Encoded, other: Encoded) -> Tensor:
    """What every writer writes in the other prompts, [writers, rows, pos, d], at the positions of those that run."""
    there, at = model.writes(other)[0], counterparts(run, other)
    if at is None:
        return there
    return there[:, torch.arange(len(at), device=there.device)[:, None], at.to(there.device)]


def replacement(
    model: ResidualSubject, training: Encoded, how: Methodology, *, seed: int = 0, pairs_at_once: int = 16
) -> Replacement:
    """The replacement values of a methodology. training: pairs whose both prompts give means and spreads."""
    if training.marks.answers is not None:
        _require_several(how)
    mean, spread = torch.zeros(0), torch.zeros(0)
    if how.value in ("mean", "position-mean", "noise", "optimal"):
        mean, spread = _moments(model, training, how.value == "position-mean", pairs_at_once)
    return Replacement(
        model=model, how=how, seed=seed, training=training, mean=mean, spread=spread, pairs_at_once=pairs_at_once
    )


def _require_several(how: Methodology) -> None:
    if how.value in ("noise", "position-mean"):
        raise Unsupported(
            f"ablation by {how.value} of pairs with answers of several tokens",
            "the positions of answers are not in the prompts that it is made from", "resample, zero or mean",
        )  # fmt: skip


def _moments(model: ResidualSubject, training: Encoded, by_position: bool, pairs_at_once: int) -> tuple[Tensor, Tensor]:
    """(mean write [writers, 1 or positions, d], root mean square distance of a write's numbers from it [writers])."""

    def real(chunks: Iterator[Encoded]) -> Iterator[tuple[Tensor, Tensor]]:
        for part in chunks:
            writes = model.writes(part)[0]
            inside = torch.arange(writes.shape[2], device=writes.device) <= part.last.to(writes.device)[:, None]
            yield writes, inside

    def chunks() -> Iterator[Encoded]:
        for start in range(0, training.n_pairs, pairs_at_once):
            yield training.pairs(start, min(start + pairs_at_once, training.n_pairs))

    n_writers, _, _, d = model.writes(training.pairs(0, 1))[0].shape
    total = torch.zeros(n_writers, int(training.last.max()) + 1, d, dtype=torch.float64)
    count = torch.zeros(total.shape[1], dtype=torch.float64)
    for writes, inside in real(chunks()):
        total[:, : writes.shape[2]] += torch.einsum("wrpd,rp->wpd", writes, inside.to(writes)).cpu().double()
        count[: inside.shape[1]] += inside.sum(0).cpu()
    mean = total / count[:, None] if by_position else total.sum(1, keepdim=True) / count.sum()
    square = torch.zeros(n_writers, dtype=torch.float64)
    for writes, inside in real(chunks()):
        off = (writes - mean[:, None, : writes.shape[2]].to(writes)).square().mean(-1)
        square += torch.einsum("wrp,rp->w", off, inside.to(off)).cpu().double()
    like = model.writes(training.pairs(0, 1))[0]
    return mean.to(like), (square / count.sum()).sqrt().to(like)
