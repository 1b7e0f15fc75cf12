"""One head's score between two positions, as a form in its query and its key.

The model's own attention computes it, and what its softmax is given is noted; so rotations, scales, ALiBi, grouped keys
and norms of queries and keys need no code here.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gossamer.errors import BadInput, Unsupported
from gossamer.models.huggingface.anatomy import Layer, _is_norm
from gossamer.models.huggingface.decoder import Decoder
from gossamer.models.huggingface.patterns import Softmax, eager
from gossamer.models.huggingface.reads import Frozen, frozen
from gossamer.task import Encoded


class ScoreForm(NamedTuple):
    """A head's score before the softmax as a form in its query and key, as the linear maps return them.

    Of each row: score = q . matrix . k + q . left + right . k + rest. q, k, left, right: [rows, d_head]; matrix: [rows,
    d_head, d_head]; rest: [rows], ALiBi's bias among it; score: [rows], the model's own. cap: the softcap that the
    model puts on this score, 0 without.
    """

    matrix: Tensor
    left: Tensor
    right: Tensor
    rest: Tensor
    q: Tensor
    k: Tensor
    score: Tensor
    cap: float


def score_form(decoder: Decoder, batch: Encoded, layer: int, head: int, query: Tensor, key: Tensor) -> ScoreForm:
    """The score of a head between positions `query` and `key` ([rows] each) of every row, norms of queries and keys at
    the scale that they have there.

    Rotations, scales and ALiBi are the model's own: the form is its derivative, and proven by a run with another query
    and key. Unsupported for an attention whose softmax cannot be seen, or whose score is no such form.
    """
    part = decoder.parts.layers[layer]
    group = head // (decoder.parts.n_heads // decoder.parts.n_groups)
    run = _ScoreRun(decoder, batch, part, head, part.q.rows[head], part.k.rows[group], query, key)
    with eager(decoder.model):
        plain = run.score(None, None)
        q, k = run.q.detach().requires_grad_(), run.k.detach().requires_grad_()
        with torch.enable_grad():
            score = run.score(q, k)
            (by_q,) = torch.autograd.grad(score.sum(), q, create_graph=True)
            (by_k,) = torch.autograd.grad(score.sum(), k, retain_graph=True)
            columns = [torch.autograd.grad(by_q[:, i].sum(), k, retain_graph=True)[0] for i in range(by_q.shape[1])]
        matrix = torch.stack(columns, dim=1)
        q, k, by_q, by_k = q.detach(), k.detach(), by_q.detach(), by_k.detach()
        left = by_q - torch.einsum("rij,rj->ri", matrix, k)
        right = by_k - torch.einsum("rij,ri->rj", matrix, q)
        rest = score.detach() - (q * by_q).sum(1) - (right * k).sum(1)
        elsewhere = run.score(2 * q, k / 2)
    scale = float(score.detach().abs().max()) + 1
    eps = max(torch.finfo(score.dtype).eps, torch.finfo(torch.float32).eps)
    made = torch.einsum("ri,rij,rj->r", q, matrix, k) + 2 * (q * left).sum(1) + (right * k).sum(1) / 2 + rest
    if max(float((elsewhere - made).abs().max()), float((plain - score.detach()).abs().max())) > 1024 * eps * scale:
        raise Unsupported(
            f"the attention of {decoder.name}", "its scores are not linear in queries and keys", "activation-patching"
        )
    return ScoreForm(matrix, left, right, rest, q, k, plain, run.cap)


class _ScoreRun:
    """Runs up to the softmax of one layer, with a query and a key of one head put in; norms inside attention keep the
    scale of the first run."""

    def __init__(
        self, decoder: Decoder, batch: Encoded, layer: Layer, head: int, q_rows: Tensor, k_rows: Tensor, query: Tensor,
        key: Tensor,
    ) -> None:  # fmt: skip
        self.decoder, self.batch, self.layer, self.head = decoder, batch, layer, head
        self.rows = torch.arange(len(batch.tokens), device=decoder.device)
        self.places = {"q": (query.to(self.rows), q_rows), "k": (key.to(self.rows), k_rows)}
        self.scales: dict[nn.Module, Frozen] = {}
        self.q = self.k = torch.empty(0)
        self.cap = 0.0

    def score(self, q: Tensor | None, k: Tensor | None) -> Tensor:
        """The score [rows]; q, k: [rows, d_head] in place of those of the run, which are noted where None is given."""

        class Reached(Exception):
            pass

        mode, measured = Softmax(), set[nn.Module]()

        def put(module: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor:
            whole = out.reshape(*self.batch.tokens.shape, -1)
            for name, reader, given in (("q", self.layer.q, q), ("k", self.layer.k, k)):
                if reader.linear is not module:
                    continue
                at, channels = self.places[name]
                place = (self.rows[:, None], at[:, None], channels.to(at)[None])
                if given is None:
                    setattr(self, name, whole[place])
                else:
                    whole = whole.index_put(place, given.to(whole))
            return whole.view_as(out)

        def hold(module: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor | None:
            if module in measured:
                return None  # called by frozen()
            if module not in self.scales:
                measured.add(module)
                with torch.no_grad():
                    self.scales[module] = frozen(module, args[0])
                measured.remove(module)
            return self.scales[module](args[0]) + self.scales[module].bias

        def begin(module: nn.Module, args: Any, kwargs: Any) -> None:
            mode.on = True

        def end(module: nn.Module, args: Any) -> None:
            raise Reached

        inner = [m for m in self.layer.attention.modules() if _is_norm(m)]
        with ExitStack() as stack:
            for m in dict.fromkeys((self.layer.q.linear, self.layer.k.linear)):
                stack.callback(m.register_forward_hook(put).remove)
            for m in inner:
                stack.callback(m.register_forward_hook(hold).remove)
            stack.callback(self.layer.attention.register_forward_pre_hook(begin, with_kwargs=True).remove)
            stack.callback(self.layer.out.register_forward_pre_hook(end).remove)
            try:
                with torch.set_grad_enabled(q is not None and q.requires_grad), mode:
                    self.decoder.model(self.batch.tokens.to(self.decoder.device), use_cache=False)
            except Reached:
                pass
        n, heads = self.batch.tokens.shape[1], self.decoder.parts.n_heads
        shape = (len(self.rows), heads, n, n)
        seen = [s for s in mode.seen if tuple(s.shape) == shape]
        capped = [s for s in mode.capped if tuple(s.shape) == shape]
        if len(seen) != 1:
            raise Unsupported(
                f"the attention of {self.decoder.name}", "it shows no softmax over scores",
                "the model loaded with attn_implementation='eager'",
            )  # fmt: skip
        at = (self.rows, self.head, self.places["q"][0], self.places["k"][0])
        if bool((seen[0][at] < torch.finfo(seen[0].dtype).min / 4).any()):
            raise BadInput("Expected a key that the query can see; this one lies after it or outside its window.")
        if capped:
            self.cap = float(self.decoder.model.config.get_text_config().attn_logit_softcapping)
            return capped[0][at] * self.cap
        return seen[0][at]
