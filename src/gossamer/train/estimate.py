"""What a training run will need, told before it starts: bytes of memory, and seconds from a trial of its own step."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import NamedTuple

import torch

from gossamer.errors import BadInput
from gossamer.models.kernels import LOSS_CHUNK_TOKENS
from gossamer.train.learner import Learner, shapes
from gossamer.train.presets import TrainConfig

WORKING_BYTES = 150_000_000  # what libraries and the allocator keep, beside the tensors of a step


class Estimate(NamedTuple):
    """Bytes of memory that training takes at its peak beside what the process holds already, bytes free on the device,
    and seconds for the whole run."""

    memory_bytes: int
    available_bytes: int
    seconds: float


def memory_bytes(config: TrainConfig, micro_batch: int | None = None) -> int:
    """Weights, gradients and two moments, the activations one part of a batch saves, one chunk of logits."""
    c = config.model_config_()
    parameters = sum(p.numel() for p in shapes(config).parameters())
    tokens = (micro_batch or config.batch_size) * config.n_ctx
    per_layer = 5 * c.d_model + 8 * c.d_attn + 3 * c.d_mlp
    activations = tokens * (c.n_layer * per_layer + 6 * c.d_model) * 4
    loss = 2 * min(LOSS_CHUNK_TOKENS, tokens) * c.vocab_size * 4
    return int(16 * parameters + activations + loss + WORKING_BYTES)


def available_memory(device: str) -> int:
    """Free bytes on the device: CUDA's own figure, else the system's, a container's limit counted."""
    if device.startswith("cuda"):
        return int(torch.cuda.mem_get_info(torch.device(device))[0])
    free = int(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                free = int(line.split()[1]) * 1024
        own = Path("/sys/fs/cgroup")
        limit = (own / "memory.max").read_text().strip()
        if limit != "max":
            stat = dict(line.split() for line in (own / "memory.stat").read_text().splitlines())
            used = int((own / "memory.current").read_text()) - int(stat["inactive_file"])  # a cache gives way
            free = min(free, int(limit) - used)
    except (OSError, ValueError, KeyError):
        pass  # not Linux, or no container
    return free


def _fits(config: TrainConfig, available: int) -> int:
    """The most sequences per pass that fit, a power of two; 0 if not even one does."""
    found = 1 << (config.batch_size.bit_length() - 1)
    while found and memory_bytes(config, found) > available:
        found //= 2
    return found


def check_memory(config: TrainConfig, device: str, micro_batch: int | None = None) -> tuple[int, int]:
    """(bytes needed, bytes free); BadInput, with what would fit, when the run would not."""
    need, available = memory_bytes(config, micro_batch), available_memory(device)
    if need > available:
        fits = _fits(config, available)
        advice = (
            f"--micro-batch {fits} fits and trains the same recipe in parts"
            if fits
            else "lower the width or the layers"
        )
        raise BadInput(
            f"This run needs about {need / 2**30:.1f} GiB and {available / 2**30:.1f} GiB are free on {device}; "
            f"{advice}."
        )
    return need, available


def estimate(config: TrainConfig, device: str, dtype: str = "float32", micro_batch: int | None = None) -> Estimate:
    """Check the memory, then time one part of a batch and one update of a throw-away model (each twice, the second
    counts). The seconds are of the machine as it is now: another heavy job beside it doubles them. Errors: BadInput
    when the run does not fit, by the arithmetic or by the device's own word."""
    need, available = check_memory(config, device, micro_batch)
    try:
        return Estimate(need, available, _seconds(config, device, dtype, micro_batch))
    except torch.OutOfMemoryError as error:
        parts = (micro_batch or config.batch_size) // 2
        raise BadInput(
            f"This run does not fit into the {available / 2**30:.1f} GiB free on {device}; try --micro-batch {parts}."
            if parts
            else f"Not even one sequence fits into the {available / 2**30:.1f} GiB free on {device}; lower the width."
        ) from error


def _seconds(config: TrainConfig, device: str, dtype: str, micro_batch: int | None) -> float:
    """Seconds for all steps, from two passes and updates of a throw-away model."""
    learner = Learner(config, device, dtype, micro_batch)
    part = torch.randint(
        config.vocab_size, (learner.micro_batch, config.n_ctx + 1), generator=torch.Generator().manual_seed(0)
    )
    pass_seconds = update_seconds = 0.0
    for _ in range(2):
        started = time.perf_counter()
        learner.accumulate(part, 1.0)
        learner.wait()
        pass_seconds, started = time.perf_counter() - started, time.perf_counter()
        learner.apply(0)
        learner.wait()
        update_seconds = time.perf_counter() - started
    passes = -(-config.batch_size // learner.micro_batch)
    return (passes * pass_seconds + update_seconds) * config.steps
