"""Where heads look in any run of a decoder: its own attention computes, and its softmax is watched."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel

from gossamer.errors import Unsupported
from gossamer.models.huggingface.anatomy import Layer


class Softmax(TorchFunctionMode):
    """Notes what softmax is given and what it gives, and what tanh (which caps scores before it) is given, while
    `on`."""

    def __init__(self) -> None:
        super().__init__()
        self.on = False
        self.seen, self.capped, self.given = list[Tensor](), list[Tensor](), list[Tensor]()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if self.on and (name := getattr(func, "__name__", "")) in ("softmax", "tanh"):
            (self.seen if name == "softmax" else self.capped).append(args[0] if args else kwargs["input"])
            if name == "softmax":
                self.given.append(out)
        return out


@contextmanager
def eager(model: PreTrainedModel) -> Iterator[None]:
    """The model's attention in plain operations, where it lets itself be switched."""
    config: Any = model.config
    before = getattr(config, "_attn_implementation", "eager")
    if before == "eager":
        yield
        return
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)


@contextmanager
def watching(model: PreTrainedModel, layers: Sequence[Layer], shape: tuple[int, ...]) -> Iterator[list[Tensor]]:
    """A list that holds, after one run inside, the attention pattern of every layer, float32 [rows, heads, pos, keys].

    shape: (rows, heads, pos) of the run; keys are the positions and, in a model with a sink, one more. Unsupported for
    an attention whose softmax cannot be seen.
    """
    found, mode = list[Tensor](), Softmax()

    def begin(module: nn.Module, args: Any, kwargs: Any) -> None:
        mode.on = True
        mode.given.clear()

    def end(module: nn.Module, args: Any) -> None:
        mode.on = False
        own = [p for p in mode.given if tuple(p.shape[:3]) == shape and p.shape[3] - shape[2] in (0, 1)]
        if len(own) != 1:
            raise Unsupported(
                f"attention patterns of the model {model.config.model_type}", "it shows no softmax over scores",
                "the model loaded with attn_implementation='eager'",
            )  # fmt: skip
        found.append(own[0].float())

    with ExitStack() as stack:
        stack.enter_context(eager(model))
        for layer in layers:
            stack.callback(layer.attention.register_forward_pre_hook(begin, with_kwargs=True).remove)
            stack.callback(layer.out.register_forward_pre_hook(end).remove)
        stack.enter_context(mode)
        yield found
