"""A standalone circuit as an ONNX graph, for any runtime: inputs `tokens` [batch, length] and `last` [batch], int64.

Output `logits` [batch, answers], in the order of `answers` in the metadata entry `gossamer` (the whole configuration as
JSON). Batch and length are free. When it lies: as the circuit does; and in float32 a channel at the edge of an AbsTopK
may fall on the other side than in torch.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from gossamer.errors import BadInput
from gossamer.models.standalone import StandaloneCircuit
from gossamer.whole_file import whole_file

MISSING = "ONNX needs three packages: pip install 'gossamer-interp[onnx]'."


def require_onnx() -> None:
    """BadInput where the packages are missing."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise BadInput(MISSING) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks about libraries that are not here and names of dimensions."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)


def save_onnx(circuit: StandaloneCircuit, path: Path) -> Path:
    """Write one .onnx file (temporary name, then rename). Errors: BadInput without the packages."""
    require_onnx()
    last = torch.tensor([1, 3, 4])
    tokens = torch.zeros(3, 5, dtype=torch.int64)
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length")
    with _quiet():
        made = torch.onnx.export(
            circuit, (tokens, last), input_names=["tokens", "last"], output_names=["logits"], dynamo=True,
            dynamic_shapes={"tokens": {0: batch, 1: length}, "last": {0: batch}}, verbose=False,
        )  # fmt: skip
    assert made is not None
    made.model.metadata_props["gossamer"] = circuit.config.model_dump_json()
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as partial:
        made.save(partial, external_data=False)
    return path


def run_onnx(path: Path, tokens: Tensor, last: Tensor) -> Tensor:
    """Logits [batch, answers] of an .onnx file under onnxruntime."""
    require_onnx()
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"tokens": tokens.numpy(), "last": last.numpy()})
    return torch.from_numpy(logits)
