"""The work behind commands.export: what is exported is measured against the ablated model before it is handed over."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from gossamer.commands.reports import ExportReport
from gossamer.commands.run_folder import RECORD, read_run
from gossamer.discover.prune import circuit_gap
from gossamer.errors import BadInput, Unsupported, nearest, require_new
from gossamer.metric import paired_accuracy, task_loss_nats
from gossamer.models import from_pretrained
from gossamer.models.extract import extract, require_exportable
from gossamer.models.onnx_graph import require_onnx, run_onnx, save_onnx
from gossamer.models.program import program
from gossamer.models.standalone import load_standalone
from gossamer.whole_file import write_whole

FORMS = ("torch", "onnx", "python", "huggingface")
FIT_PAIRS = 512


def export_run(
    run: Path, to: str, out: Path, *, mode: str | None, model: str | None, ablation: str, all_tokens: bool,
    device: str, say: Callable[[str], None],
) -> ExportReport:  # fmt: skip
    """A run's circuit as `to`. Errors and scores: of the torch file read back; of the module written as ONNX
    (with the largest difference under onnxruntime) or as Python."""
    if to not in FORMS:
        raise BadInput(f"Unknown form {to!r}: {nearest(to, FORMS)}")
    mode = mode or ("frozen" if to == "python" else "exact")
    if mode not in ("exact", "frozen"):
        raise BadInput(f"Unknown mode {mode!r}: {nearest(mode, ('exact', 'frozen'))}")
    if to == "python" and mode == "exact":
        raise Unsupported("a Python file of exact mode", "every channel competes in it", "--mode frozen, or --to torch")
    if to == "python" and all_tokens:
        raise Unsupported("a Python file for the whole vocabulary", "nobody reads it", "--to torch or onnx")
    if to == "onnx":
        require_onnx()
    require_new(out)
    r = read_run(run, model, device)
    require_exportable(r.weight_sparse, r.circuit, ablation)
    fit, held = r.weight_sparse.encode(r.task.train).pairs(0, FIT_PAIRS), r.weight_sparse.encode(r.task.heldout)
    answers = sorted({int(t) for b in (r.weight_sparse.encode(r.task.train), held) for t in b.answer.unique()})
    say(f"exporting {r.circuit.n_nodes} nodes and {r.circuit.n_edges} edges, {mode}")
    if to == "python":
        source = program(r.weight_sparse, r.circuit, fit, answers, preset=ablation)
    made = extract(
        r.weight_sparse, r.circuit, "exact" if mode == "exact" else "frozen", preset=ablation, prompts=fit,
        answers=None if all_tokens else answers,
    )  # fmt: skip
    runtime = None
    if to == "torch":
        made.to("cpu").save(out)
        made = load_standalone(out)
    elif to == "onnx":
        save_onnx(made.float().to("cpu"), out)
        runtime = float((run_onnx(out, held.tokens, held.last) - made(held.tokens, held.last)).abs().max())
    else:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(source, out)
    with torch.no_grad():
        ours, theirs = made.gap(held), circuit_gap(r.weight_sparse, r.circuit, held, ablation).cpu()
    error = (ours - theirs).abs()

    def mean(score: Callable[[Tensor], Tensor], z: Tensor) -> float:
        return float(score(z).mean())

    return ExportReport(
        out=str(out), to=to, mode=mode, model=r.weight_sparse.name, task=r.task.name, nodes=r.circuit.n_nodes,
        edges=r.circuit.n_edges, numbers=made.n_numbers(), ablation=ablation,
        model_numbers=_numbers(r.weight_sparse.model),
        n_pairs=held.n_pairs, error_mean=float(error.mean()), error_max=float(error.max()),
        accuracy=mean(paired_accuracy, ours), ablated_accuracy=mean(paired_accuracy, theirs),
        loss=mean(task_loss_nats, ours), ablated_loss=mean(task_loss_nats, theirs), runtime_error=runtime,
    )  # fmt: skip


def export_model(
    what: str | Path, out: Path, mode: str | None, model: str | None, ablation: str, all_tokens: bool, device: str,
    say: Callable[[str], None],
) -> ExportReport:  # fmt: skip
    """A whole model as a Hugging Face folder; options that only circuits have are refused."""
    given = {"--mode": mode, "--model": model, "--all-tokens": all_tokens, "--ablation": ablation != "gao-mean"}
    if extra := [name for name, value in given.items() if value]:
        raise BadInput(f"A Hugging Face folder is of the whole model and takes no {', '.join(extra)}; leave it out.")
    if (Path(what) / RECORD).is_file() and (Path(what) / "circuit.safetensors").is_file():
        raise Unsupported(
            f"a Hugging Face folder of the run {what}", "a circuit is no language model",
            "the model's name or folder, or --to torch, onnx or python for the circuit",
        )  # fmt: skip
    from gossamer.models.huggingface import export_huggingface

    require_new(out)
    loaded = from_pretrained(what, device)
    say(f"exporting {loaded.name}")
    export_huggingface(loaded, out)
    blank = dict.fromkeys(
        ("mode", "task", "nodes", "edges", "numbers", "ablation", "n_pairs", "error_mean", "error_max", "accuracy",
         "ablated_accuracy", "loss", "ablated_loss", "runtime_error")
    )  # fmt: skip
    about = {"out": str(out), "to": "huggingface", "model": loaded.name, "model_numbers": _numbers(loaded.model)}
    return ExportReport.model_validate({**blank, **about})


def _numbers(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())
