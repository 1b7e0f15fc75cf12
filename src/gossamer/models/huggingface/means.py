"""What a decoder's channels are on average: the values that ablated channels take."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from gossamer.ablation import MEANS_OF, MeansOf
from gossamer.circuit import FORMAT_VERSION, load_arrays, save_arrays
from gossamer.errors import BadInput, CorruptFile
from gossamer.models.loaded import tensors_sha256

Batch = tuple[Tensor, Tensor]
"""(tokens [rows, pos] padded on the right, position of each row's last token [rows])"""


@dataclass(frozen=True, kw_only=True, eq=False)
class Means:
    """Mean of every channel per location ([channels]), over `n_tokens` tokens of text or of a task's prompts (`of`).

    Save them beside a circuit: its record names them by their hash, and sums differ in the last digit between machines.
    """

    values: Mapping[str, Tensor]
    n_tokens: int
    of: MeansOf

    def sha256(self) -> str:
        return tensors_sha256(self.values)

    def save(self, path: Path) -> Path:
        """One safetensors file; temporary name, then rename."""
        meta = {
            "format_version": FORMAT_VERSION, "kind": "gossamer-means",
            "about": json.dumps({"n_tokens": self.n_tokens, "of": self.of}),
        }  # fmt: skip
        return save_arrays({k: v.numpy() for k, v in self.values.items()}, meta, path)

    @classmethod
    def load(cls, path: Path) -> Means:
        """The inverse of save; a damaged file or one of another kind is CorruptFile."""
        arrays, meta = load_arrays(path, "gossamer-means")
        try:
            about = json.loads(meta["about"])
            n_tokens, of = int(about["n_tokens"]), MEANS_OF[about["of"]]
        except (LookupError, TypeError, ValueError) as error:
            raise CorruptFile(f"{path} is not a whole file of means; make it again.") from error
        return cls(values={k: torch.from_numpy(v) for k, v in arrays.items()}, n_tokens=n_tokens, of=of)


def batches_of_texts(
    texts: Iterable[str], encode: Callable[[str], list[int]], begin: int | None, window: int, size: int
) -> Iterator[Batch]:
    """Texts cut into windows of at most `window` tokens, each text's first one after the token `begin`, `size` windows
    at a time."""
    if isinstance(texts, str):
        raise BadInput("Expected a list of texts, got one string; put it in a list.")
    windows: list[list[int]] = []
    for text in texts:
        ids = ([] if begin is None else [begin]) + encode(text)
        windows += [ids[i : i + window] for i in range(0, len(ids), window)]
        while len(windows) >= size:
            yield _padded(windows[:size])
            del windows[:size]
    if windows:
        yield _padded(windows)


def _padded(windows: list[list[int]]) -> Batch:
    longest = max(map(len, windows))
    return (
        torch.tensor([w + [0] * (longest - len(w)) for w in windows]), torch.tensor([len(w) - 1 for w in windows]),
    )  # fmt: skip


class Sums:
    """Sums over the real tokens of batches: give `add` as the edit of a run under `rows` set to the batch."""

    def __init__(self) -> None:
        self.totals: dict[str, Tensor] = {}
        self.n_tokens = 0
        self.real = torch.empty(0)

    def start(self, batch: Batch) -> None:
        """Begin a batch: which of its tokens are no padding."""
        tokens, last = batch
        self.real = torch.arange(tokens.shape[1]) <= last[:, None]
        self.n_tokens += int(self.real.sum())

    def add(self, location: str, x: Tensor) -> Tensor:
        """An edit that changes nothing and adds x [rows, pos, channels] to the sums."""
        wide = torch.promote_types(x.dtype, torch.float32)
        total = (self.real.to(x.device, wide).flatten() @ x.flatten(0, 1).to(wide)).cpu().double()
        self.totals[location] = self.totals.get(location, torch.zeros(())) + total
        return x

    def means(self, of: MeansOf, dtype: torch.dtype) -> Means:
        """The means at float64 for a float64 model, else at float32; BadInput when there was no token."""
        if not self.n_tokens:
            raise BadInput("Expected a text to take means over, got none.")
        kept = torch.promote_types(dtype, torch.float32)
        return Means(
            values={k: (v / self.n_tokens).to(kept) for k, v in self.totals.items()}, n_tokens=self.n_tokens, of=of
        )
