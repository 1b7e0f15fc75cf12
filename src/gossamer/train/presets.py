"""The recipes by name. `paper` and `train-py` differ where the paper and the authors' script differ."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from gossamer.errors import BadInput, nearest, options
from gossamer.models.sparse import SparseConfig

_Share = Annotated[float, Field(ge=0, lt=1)]


class TrainConfig(BaseModel):
    """Everything that decides a training run except the text and the machine.

    density: share of non-zero weights of each attention and MLP matrix at the end; embed_density the same for the
    embedding and the unembedding; d_pos: read-only positional channels (0: no positions). Tokens per step =
    batch_size * n_ctx.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    d_model: int = Field(default=128, gt=0)
    n_layer: int = Field(default=2, gt=0)
    d_head: int = Field(default=16, gt=0)
    n_ctx: int = Field(default=128, gt=0)
    vocab_size: int = Field(default=2048, ge=257)  # 256 bytes and the end of a text
    activation_fraction: float = Field(default=0.25, gt=0, le=1)
    sink: bool = True
    bigram: bool = False
    d_pos: int = Field(default=0, ge=0)
    density: float = Field(gt=0, le=1)
    embed_density: float = Field(gt=0, le=1)
    sparse_biases: bool = False
    min_alive: int = Field(default=4, ge=0)
    start_density: float = Field(default=1.0, gt=0, le=1)
    anneal_start: float = Field(default=0.0, ge=0, lt=1)
    anneal_fraction: float = Field(default=0.5, gt=0, le=1)
    tokens: int = Field(gt=0)
    batch_size: int = Field(default=64, gt=0)
    lr: float = Field(gt=0)
    warmup_fraction: float = Field(default=0.01, gt=0, lt=1)
    betas: tuple[_Share, _Share] = (0.9, 0.95)
    eps: float = Field(default=0.1, gt=0)
    weight_decay: float = Field(default=0.1, ge=0)
    clip_only: bool = False
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _heads_fit(self) -> TrainConfig:
        if self.d_model % self.d_head:
            raise ValueError(f"d_model {self.d_model} must be a multiple of d_head {self.d_head}")
        if self.anneal_start >= self.anneal_fraction:
            raise ValueError(f"anneal_start {self.anneal_start} must lie before anneal_fraction {self.anneal_fraction}")
        if min(self.density, self.embed_density) < 1 and (self.steps - 1) / self.steps < self.anneal_fraction:
            raise ValueError(
                f"{self.steps} steps end before the density does at {self.anneal_fraction:g} of the run; give more "
                "tokens or a smaller anneal_fraction"
            )
        return self

    @property
    def steps(self) -> int:
        return max(1, self.tokens // (self.batch_size * self.n_ctx))

    def model_config_(self) -> SparseConfig:
        """The shape of the model this trains: d_mlp = 4 d_model, heads of d_head."""
        return SparseConfig(
            vocab_size=self.vocab_size, n_ctx=self.n_ctx, n_layer=self.n_layer, d_model=self.d_model,
            n_head=self.d_model // self.d_head, d_head=self.d_head, d_mlp=4 * self.d_model,
            activation_fraction=self.activation_fraction, sink=self.sink, bigram=self.bigram,
            position="channels" if self.d_pos else "none", d_pos=self.d_pos,
        )  # fmt: skip


PRESETS: dict[str, dict[str, Any]] = {
    # Ours: the policy of train.py at expansion 4 of a width-32 base, sized for two CPU cores.
    "tiny": {"density": 1 / 16, "embed_density": 1 / 4, "tokens": 32_000_000, "lr": 2e-2},
    # The same with more of everything, hours instead of minutes; solves twice the tasks (docs/models.md).
    "small": {
        "d_model": 192, "n_layer": 4, "density": 1 / 32, "embed_density": 1 / 4, "bigram": True, "batch_size": 32,
        "tokens": 60_000_000, "lr": 2e-2,
    },
    # The paper's text: one density for every matrix, embeddings and biases; 50% annealing from fully dense; no sink.
    "paper": {
        "d_model": 2048, "n_layer": 8, "n_ctx": 256, "batch_size": 512, "density": 1 / 64, "embed_density": 1 / 64,
        "sparse_biases": True, "sink": False, "bigram": True, "tokens": 32_000_000_000, "lr": 1.28e-2,
        "clip_only": True,
    },
    # The public script's defaults: width 1024 (expansion 4, pfrac 1/4), dense biases, denser embeddings; annealing
    # starts at 1% of the run.
    "train-py": {
        "d_model": 1024, "n_layer": 8, "n_ctx": 256, "batch_size": 512, "density": 1 / 64, "embed_density": 1 / 16,
        "sink": False, "bigram": True, "tokens": 32_000_000_000, "lr": 1.28e-2, "anneal_start": 0.01,
    },
}  # fmt: skip


def preset(name: Literal["tiny", "small", "paper", "train-py"] | str, **changes: Any) -> TrainConfig:
    """A recipe with fields changed; `density=1` makes the dense twin: every weight, and unless
    `activation_fraction` is given, every activation (docs/decisions/0005-dense-twin.md)."""
    if name not in PRESETS:
        raise BadInput(f"Unknown preset {name!r}: {nearest(name, PRESETS)}")
    given = {k: v for k, v in changes.items() if v is not None}
    if given.get("density") == 1:
        given = {"embed_density": 1.0, "sparse_biases": False, "activation_fraction": 1.0, **given}
    return options(TrainConfig, {**PRESETS[name], **given}, "recipe")
