"""The scales of norms in one run, so that another run of the same prompts can be held at them.

Ablation shrinks the residual stream, and a norm then makes more of what is left: a circuit may lean on that. Held at
the scales of the run with nothing ablated, norms are linear maps and do not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

Hook = Callable[..., Tensor | None]


class Scales:
    """Per norm what its input was multiplied by at each place of a run, before the gain."""

    def __init__(self) -> None:
        self._found: dict[nn.Module, dict[int, Tensor]] = {}

    def note(self, norm: nn.Module, scale: Tensor) -> None:
        """scale: [..., 1] of one call; a norm may be called on all places and on the last ones."""
        self._found.setdefault(norm, {})[scale.numel()] = scale.detach().flatten()

    def of(self, norm: nn.Module, x: Tensor) -> Tensor:
        """[..., 1] for x [..., channels], which is the noted run's input or several blocks like it, one after the
        other (trials, or readers of their own)."""
        places = x.shape[:-1].numel()
        own = self._found[norm]
        n = max(n for n in own if places % n == 0)
        return own[n].repeat(places // n).view(*x.shape[:-1], 1)


@contextmanager
def hooked(norms: Iterable[nn.Module], hook: Hook) -> Iterator[None]:
    """A hook (norm, args, kwargs, output) after each of the norms; what it returns takes the output's place."""
    with ExitStack() as stack:
        for norm in norms:
            stack.callback(norm.register_forward_hook(hook, with_kwargs=True).remove)
        yield


def scales_of(norms: Iterable[nn.Module], run: Callable[[], Any], scale: Callable[..., Tensor]) -> Scales:
    """The scales of the norms in a run; scale: (norm, input) -> [..., 1]."""
    found = Scales()

    def note(norm: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Tensor) -> None:
        if args[0].ndim > 1:  # a norm that is asked for its gain is given a vector
            found.note(norm, scale(norm, args[0]))

    with hooked(norms, note):
        run()
    return found
