"""Eight bits per entry for a table that a model adds to its logits: whole numbers times one power of two per row.

A power of two, so that rounding is exact to undo and to repeat: the rounded table is stored small without a further
change, whoever saves it again.
"""

from __future__ import annotations

import torch
from torch import Tensor

LARGEST = 127  # of a signed byte, kept symmetric


def rounded_rows(table: Tensor) -> tuple[Tensor, Tensor]:
    """(codes int8 [rows, columns], exponents int8 [rows]) with |table - codes * 2^exponent| <= 2^exponent / 2.

    table: float32 [rows, columns], finite and below 2^127. The exponent is the smallest with which the row's largest
    entry fits, so the error of an entry is at most 1/127 of that.
    """
    exact = table.detach().cpu().double()
    exponents = (exact.abs().amax(1) / LARGEST).clamp_min(2.0**-128).log2().ceil()
    codes = (exact * torch.exp2(-exponents)[:, None]).round()
    return codes.to(torch.int8), exponents.to(torch.int8)


def from_rounded_rows(codes: Tensor, exponents: Tensor) -> Tensor:
    """The float32 table of codes and exponents, exact."""
    return (codes.double() * torch.exp2(exponents.double())[:, None]).float()
