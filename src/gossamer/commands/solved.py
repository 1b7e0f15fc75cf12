"""How a model does on a task, or on one's own pairs: `gossamer tasks` and `gossamer tasks check`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from gossamer.commands.reports import PairCheck, PairsReport, TaskReport
from gossamer.errors import BadInput
from gossamer.metric import (
    calibrate,
    fit_calibration,
    ordered_accuracy,
    paired_accuracy,
    sequence_log_probability,
    task_loss_nats,
)
from gossamer.models import LoadedModel, any_model
from gossamer.registry import task as registry
from gossamer.task import Example, Task, asked, check_pair, unequal
from gossamer.tasks import asks_by_token_number, is_pairs_file, load_task

if TYPE_CHECKING:
    from gossamer.models.huggingface import Channels, Decoder

ROWS = 32  # pairs of a decoder in a pass
SOLVED = 0.9  # calibrated paired accuracy from which a model counts as doing a task
CALIBRATION_PAIRS = 512


def at_channels(name_or_folder: str | Path, device: str, task: Task) -> LoadedModel | Channels:
    """A model whose channels can be pruned: a weight-sparse one, or a Hugging Face decoder with the means of a task's
    training prompts."""
    found = any_model(name_or_folder, device)
    if isinstance(found, LoadedModel):
        return found
    from gossamer.models.huggingface import channels_of

    return channels_of(found, task)


@torch.no_grad()
def gap_of(model: LoadedModel | Channels | Decoder, examples: Sequence[Example]) -> Tensor:
    """Logit gap of every prompt, right answer minus wrong one, [2 pairs]; of answers of several tokens the gap of their
    log probabilities."""
    if not hasattr(model, "writes"):
        return model.run(model.encode(examples)).gap
    decoder = cast("Decoder", model)
    # nothing is exchanged: both prompts may have any length
    batch = decoder.encode(examples, positions="last", several=True)
    parts = (asked(batch.pairs(start, start + ROWS)) for start in range(0, batch.n_pairs, ROWS))
    return torch.cat([sequence_log_probability(decoder.writes(part)[1], part) for part in parts]).float()


def scores_of(model: LoadedModel | Channels | Decoder, examples: tuple[Example, ...]) -> tuple[float, float, float]:
    """(paired accuracy, ordered accuracy, task loss) of the whole model."""
    z = gap_of(model, examples)
    return float(paired_accuracy(z).mean()), float(ordered_accuracy(z).mean()), float(task_loss_nats(z).mean())


def fitted(model: LoadedModel | Channels | Decoder, task: Task, say: Callable[[str], None]) -> Task:
    """The pairs of a task that the model can be asked; how many are left out is said."""
    found = model.fitting(task)
    if found.left_out:
        which = ", ".join(f"{n} {split}" for split, n in found.left_out.items())
        say(f"{task.name}: {which} pairs left out, {model.name} cannot be asked them")
    return found


def task_reports(model: LoadedModel | Decoder | None) -> Iterator[TaskReport]:
    """Every task that is registered, asked of the model if there is one."""
    for name in registry:
        yield _task_report(load_task(name), model)


def _task_report(task: Task, model: LoadedModel | Decoder | None) -> TaskReport:
    """A task and, with a model, how it does on each split of it, or why it cannot be asked."""
    about = {
        "name": task.name, "description": task.description, "train_pairs": len(task.train),
        "heldout_pairs": len(task.heldout),
    }  # fmt: skip
    if model is None:
        return TaskReport.model_validate(about)
    try:
        task = model.fitting(task)
    except BadInput as error:
        return TaskReport.model_validate({**about, "solved": False, "problem": str(error)})
    about |= {
        "train_pairs": len(task.train), "heldout_pairs": len(task.heldout), "left_out": dict(task.left_out),
    }  # fmt: skip
    asked = {"train": task.train[:CALIBRATION_PAIRS], "heldout": task.heldout, **task.ood}
    paired, ordered, loss = scores_of(model, task.heldout)
    fit = fit_calibration(gap_of(model, asked.pop("train")))
    calibrated = {
        name: float(paired_accuracy(calibrate(gap_of(model, part), *fit)).mean()) for name, part in asked.items()
    }
    own = calibrated.pop("heldout")
    solved = own >= SOLVED
    problem = "does not know it" if ordered < SOLVED else "orders pairs, around no one threshold"
    return TaskReport.model_validate({
        **about, "paired_accuracy": paired, "ordered_accuracy": ordered, "calibrated_accuracy": own, "loss_nats": loss,
        "ood": calibrated, "solved": solved, "problem": "" if solved else problem,
    })  # fmt: skip


def check_pairs(pairs: str | Path, model: str | Path) -> PairsReport:
    """See gossamer.commands.tasks_check."""
    if not is_pairs_file(str(pairs)):
        raise BadInput(f"Expected a file of pairs (.jsonl, .csv or .json), got {str(pairs)!r}.")
    asked = None if asks_by_token_number(str(pairs)) else load_task(str(pairs), numbered=True)
    loaded = any_model(model)
    task = asked or load_task(str(pairs), 0, loaded.tokenizer, numbered=True)
    n_ctx, bos = loaded.limits
    examples = sorted((*task.train, *task.heldout), key=lambda e: e.line)

    def pieces(ids: list[int]) -> tuple[str, ...]:
        return tuple(str(loaded.tokenizer.decode([i], skip_special_tokens=False)) for i in ids)

    checks = []
    for e in examples:
        r = check_pair(e, loaded.tokenizer, n_ctx, bos, several=not isinstance(loaded, LoadedModel))
        answers = [pieces(ids) if max(map(len, r.answers)) > 1 else () for ids in r.answers]
        spans = {
            name: (pieces(r.clean[a:b]), pieces(r.counterfactual[c:d])) for name, ((a, b), (c, d)) in r.spans.items()
        }
        exchanged = any(len(one) == len(other) for one, other in spans.values())
        by_position = () if isinstance(loaded, LoadedModel) or exchanged else unequal(r)
        check = PairCheck(
            line=e.line, clean=pieces(r.clean), counterfactual=pieces(r.counterfactual), answer=e.answer,
            wrong_answer=e.wrong_answer, aligned=r.aligned, problems=(*r.problems, *by_position), spans=spans,
            answer_tokens=answers[0], wrong_answer_tokens=answers[1],
        )  # fmt: skip
        checks.append(check)
    usable = tuple(e for e, c in zip(examples, checks, strict=True) if not c.problems)
    scores = scores_of(loaded, usable) if usable else (None, None, None)
    return PairsReport(
        pairs_file=str(pairs), model=loaded.name, pairs=len(examples), usable=len(usable),
        aligned=sum(c.aligned for c in checks), paired_accuracy=scores[0], ordered_accuracy=scores[1],
        loss_nats=scores[2], checks=tuple(checks),
    )  # fmt: skip
