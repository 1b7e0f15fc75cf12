"""`gossamer claim`, `verify`, `verdict`: what is claimed of a run's circuit, its trial, and what the trial says of it.

A trial is a claim put through the battery. Each check is written to trial.jsonl as soon as it is made, so that a trial
that was stopped goes on; evidence.json replaces that file when all are made.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from gossamer.ablation import of_edges
from gossamer.claim import HASH, Claim, load_claim
from gossamer.commands import edge_runs
from gossamer.commands.edge_runs import EdgeRun
from gossamer.commands.progress import Say, Steps
from gossamer.commands.reports import ClaimReport, VerifyReport
from gossamer.commands.run_folder import CIRCUIT, EVIDENCE, Run, read_run
from gossamer.errors import BadInput, Unsupported
from gossamer.evidence import Evidence, load_evidence, load_record, save_evidence
from gossamer.graph import count_branches
from gossamer.record import Record, code_sha256
from gossamer.subject import require_model_of
from gossamer.verdict import TRIED_PAIRS, TrialVerdict, judge
from gossamer.verify import ChannelTrial, Trial, asks, checks_of, known_checks, run_battery
from gossamer.verify.battery import OF_HYPOTHESIS
from gossamer.verify.causal_scrubbing import hypothesis_of, read_hypothesis
from gossamer.verify.causal_scrubbing import stated as claims_of
from gossamer.whole_file import write_whole

TRIAL = "trial.jsonl"
PAIRS: int = Claim.model_fields["pairs"].default


class _Made(BaseModel):
    """A line of trial.jsonl: the rows of one check, and how long it took."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    check: str
    seconds: float
    rows: tuple[Evidence, ...]


def read_any(folder: Path, model: str | None = None, device: str = "cpu") -> Run | EdgeRun:
    """A run of a circuit of channels or of edges."""
    if edge_runs.is_edge_run(folder):
        return edge_runs.read(folder, model, device)
    return read_run(folder, model, device)


def grain_of(run: Run | EdgeRun) -> str:
    return run.circuit.layout.grain


def default_claim(run: Run | EdgeRun, *, quick: bool = False, **fields: Any) -> Claim:
    """Every check of the battery (quick: those that take seconds) with its usual thresholds, at the loss or the
    faithfulness that the run was made for."""
    grain = grain_of(run)
    known = known_checks(grain)
    checks = {name: dict(known[name]) for name in checks_of(grain, quick=quick)}
    if fields.get("hypothesis"):
        checks[OF_HYPOTHESIS] = dict(known[OF_HYPOTHESIS])
    if isinstance(run, Run):
        checks["sufficiency"]["target_loss"] = run.about.result.target_loss_nats
    elif (fields.get("ablation") or edge_runs.own_ablation(run.circuit.record)) != "resample":
        del checks["restoration"]  # it has a meaning under resampling alone
    if isinstance(run, EdgeRun):
        for name in checks.keys() & {"faithfulness", "restoration"}:
            checks[name]["target"] = run.f
    own = {"model": model_of(run), "task": run.task.name, "pairs": max(2, min(PAIRS, len(run.task.heldout)))}
    return Claim.of({**own, "checks": checks, **fields}, known)


def model_of(run: Run | EdgeRun) -> str:
    """The name that the circuit's record has for its model, wherever that is now."""
    return run.circuit.record.model or run.model.name


def claim_of(run: Run | EdgeRun, record: Record) -> Claim:
    """The claim that a trial was made under; trials before there were claims named a few thresholds only."""
    grain, config = grain_of(run), record.config
    known = known_checks(grain)
    if "claim" in config:
        return Claim.of(config["claim"], known, f"the record of {run.folder / EVIDENCE}")
    if isinstance(run, EdgeRun):
        names = [n for n in checks_of(grain, quick=True) if n != "restoration" or config["ablation"] == "resample"]
        checks: dict[str, dict[str, float]] = {name: {} for name in names}
        for name in checks.keys() & {"faithfulness", "restoration"}:
            checks[name] = {"target": config["target"]}
        named = ("ablation", "granularity", "pairs", "positions")
        more: dict[str, Any] = {k: config[k] for k in named if k in config}
        return Claim.of({"checks": checks, "seed": record.seed, **more}, known)
    checks = {name: {} for name in config["checks"]}
    if "sufficiency" in checks:
        checks["sufficiency"] = {"target_loss": config["target_loss"]}
    return Claim.of({"checks": checks, "seed": record.seed, "pairs": len(run.task.heldout)}, known)


def trial_of(run: Run | EdgeRun, claim: Claim, progress: Steps | None = None) -> Trial:
    """The trial of a run's circuit under a claim."""
    if isinstance(run, EdgeRun):
        ablation = claim.ablation or edge_runs.own_ablation(run.circuit.record)
        of_edges(ablation, granularity=claim.granularity)  # a wrong name is told before anything is written
        return edge_runs.edge_trial(
            run.model, run.task, run.circuit, ablation, claim.granularity, claim.seed, claim.pairs, progress,
            claim.positions or edge_runs.own_positions(run.circuit.record),
        )  # fmt: skip
    own = {"ablation": claim.ablation, "granularity": claim.granularity != "edge", "positions": claim.positions}
    if given := " and ".join(f"--{name}" for name, value in own.items() if value):
        raise Unsupported(f"{given} of a circuit of channels", "its checks name their own", f"without {given}")
    heldout = run.model.encode(run.task.heldout[: claim.pairs])
    return ChannelTrial(
        model=run.model, circuit=run.circuit, task=run.task, heldout=heldout, seed=claim.seed, progress=progress
    )


def stated_of(claim: Claim) -> dict[str, dict[str, Any]]:
    """What checks are given beside their thresholds."""
    if claim.hypothesis is None:
        return {}
    if OF_HYPOTHESIS not in claim.checks:
        raise BadInput(
            f"Expected the check {OF_HYPOTHESIS} beside a hypothesis; claim it, or leave the hypothesis out."
        )
    return {OF_HYPOTHESIS: {"hypothesis": hypothesis_of(claim.hypothesis, "the claim's hypothesis")}}


def write_claim(folder: Path, out: Path | None, quick: bool, model: str | None) -> ClaimReport:
    """See gossamer.commands.claim."""
    run = read_any(folder, model)
    made = default_claim(run, quick=quick)
    path = out or folder / "claim.yaml"
    if path.exists():
        raise BadInput(f"Expected no file at {path}; a claim is written once: give another --out, or remove it.")
    made.save(path, asks(grain_of(run)))
    return ClaimReport(claim=str(path), sha256=made.sha256, checks={k: dict(v) for k, v in made.checks.items()})


def put_on_trial(
    run: Run | EdgeRun, claim: Claim, *, progress: Steps | None, say: Say, notes: tuple[str, ...] = ()
) -> VerifyReport:  # fmt: skip
    """The trial of a run under a claim: evidence.json in its folder, and the verdict."""
    started = time.perf_counter()
    record, circuit = run.circuit.record, run.circuit
    require_model_of(record, run.model)
    for what, wanted, got in (("model", claim.model, model_of(run)), ("task", claim.task, run.task.name)):
        if wanted and wanted != got:
            raise BadInput(f"Expected a circuit of the {what} {wanted}, as claimed; {run.folder} is of {got}.")
    trial, stated = trial_of(run, claim, progress), stated_of(claim)
    if stated:
        claims_of(trial.of_nodes(), stated[OF_HYPOTHESIS]["hypothesis"])  # a wrong name is told before the trial
    model_hash, means_hash = run.model.hashes()
    made = claim.recorded(Record.now(
        method="verify", config={"claim": claim.model_dump(mode="json")}, seed=claim.seed, model=model_of(run),
        model_sha256=model_hash, means_sha256=means_hash, task=run.task.name, task_version=run.task.version,
        details={TRIED_PAIRS: trial.n_pairs, CIRCUIT: hashlib.sha256((run.folder / CIRCUIT).read_bytes()).hexdigest()},
    ))  # fmt: skip
    state = run.folder / TRIAL
    done = _resumed(state, made)
    if done:
        say(f"going on with the trial in {state}: {', '.join(done)} were made before")
    size = f"{circuit.n_nodes} nodes" if isinstance(run, Run) else f"{circuit.n_edges} edges"
    if isinstance(run, EdgeRun) and claim.granularity == "branch":
        graph = run.model.graph()
        own = graph.numbers(circuit.src, circuit.dst, circuit.matrix)
        few, all_ = (_in_words(count_branches(graph, edges)) for edges in (own, np.arange(graph.n_edges)))
        size += f" ({few} of {all_} branches)"
    say(f"trying {size} on {trial.n_pairs} held-out pairs, {len(claim.checks)} checks")
    begun = time.perf_counter()

    def after(name: str, rows: tuple[Evidence, ...]) -> None:
        nonlocal begun
        seconds, begun = time.perf_counter() - begun, time.perf_counter()
        with state.open("a", encoding="utf-8") as file:
            file.write(_Made(check=name, seconds=seconds, rows=rows).model_dump_json() + "\n")
        verdicts = ", ".join(dict.fromkeys(r.verdict for r in rows))
        if len(claim.checks) > len(checks_of(grain_of(run), quick=True)):
            say(f"{name}: {verdicts} ({seconds:.0f} s)")

    evidence = run_battery(trial, claim.checks, stated=stated, done=done, after=after)
    save_evidence(evidence, run.folder / EVIDENCE, made)
    state.unlink()
    return VerifyReport(
        run=str(run.folder), model=run.model.name, task=run.task.name, evidence=evidence, notes=notes,
        verdict=judge(evidence, claim, made), seconds=time.perf_counter() - started,
    )  # fmt: skip


def _in_words(n: int) -> str:
    """A count of branches, which may exceed any float: powers of ten from a billion on."""
    return f"{n:,}" if n < 10**9 else f"10^{math.log10(n):.1f}"


def _resumed(state: Path, record: Record) -> dict[str, tuple[Evidence, ...]]:
    """What an unfinished trial of the same claim, model, means, task and code has made; else nothing, in a new file."""
    fields = ("model_sha256", "means_sha256", "task_version", "versions")
    own = {f: getattr(record, f) for f in fields}
    own |= {"claim": record.details[HASH], CIRCUIT: record.details[CIRCUIT], "code": code_sha256()}
    if state.is_file():
        try:
            first, *lines = state.read_text(encoding="utf-8").split("\n")
            if json.loads(first) == own:
                whole = [_Made.model_validate_json(line) for line in lines[:-1]]  # the last is empty or cut off
                _start(state, own, lines[:-1])
                return {made.check: made.rows for made in whole}
        except ValueError:
            pass  # damaged: it is made again
    _start(state, own, [])
    return {}


def _start(state: Path, own: dict[str, Any], lines: list[str]) -> None:
    write_whole("".join(f"{line}\n" for line in [json.dumps(own), *lines]), state)


def verdict_of(folder: Path, claim: Path | None, model: str | None = None) -> tuple[TrialVerdict, tuple[Evidence, ...]]:
    """See gossamer.commands.verdict."""
    evidence, record = load_evidence(folder / EVIDENCE), load_record(folder / EVIDENCE)
    run = read_any(folder, model)
    stated = load_claim(claim, known_checks(grain_of(run))) if claim else claim_of(run, record)
    if HASH not in record.details and claim is None:  # before there were claims
        return judge(evidence, None, record), evidence
    return judge(evidence, stated, record), evidence


def claim_for(
    run: Run | EdgeRun, file: Path | None, *, quick: bool, changes: dict[str, Any], target: float | None,
    hypothesis: Path | None = None,
) -> Claim:  # fmt: skip
    """The claim of a file, or the default one with changes."""
    if hypothesis is not None:
        changes = {**changes, "hypothesis": read_hypothesis(hypothesis).model_dump(mode="json")}
    if file is not None:
        given = [f"--{name}" for name, value in changes.items() if value is not None] + ["--quick"] * quick
        given += ["--faithfulness"] * (target is not None)
        if given:
            raise BadInput(f"Expected the claim {file} alone: it says what {', '.join(given)} would; change it there.")
        return load_claim(file, known_checks(grain_of(run)))
    claim = default_claim(run, quick=quick, **{k: v for k, v in changes.items() if v is not None})
    if isinstance(run, EdgeRun) and target is not None:
        checks = {name: dict(limits) for name, limits in claim.checks.items()}
        for name in checks.keys() & {"faithfulness", "restoration"}:
            checks[name] = {"target": target}
        claim = claim.model_copy(update={"checks": checks})
    elif target is not None:
        raise Unsupported("a faithfulness of a circuit of channels", "its losses are what is claimed", "a --claim")
    return Claim.of(claim.model_dump(mode="json"), known_checks(grain_of(run)))


def verify(
    run: Path, claim: Path | None, *, quick: bool, model: str | None, task: str | Path | None, out: str | Path | None,
    edges: int | None, changes: dict[str, Any], target: float | None, hypothesis: Path | None, device: str, dtype: str,
    progress: Steps | None, say: Say,
) -> VerifyReport:  # fmt: skip
    """See gossamer.commands.verify; `changes`: fields of the claim that are given beside it."""
    if changes["seed"] is not None and changes["seed"] < 0:
        raise BadInput(f"Expected a seed of at least 0, got {changes['seed']}.")
    if changes["pairs"] is not None and changes["pairs"] < 2:
        raise BadInput(f"Expected at least 2 held-out pairs, got {changes['pairs']}.")
    of_edges(changes["ablation"] or "resample", granularity=changes["granularity"] or "edge")
    if not run.exists() and task is not None:
        raise BadInput(f"Expected a circuit file at {run}, found none.")
    file = run.is_file()
    unused = [n for n, v in (("--task", task), ("--out", out), ("--edges", edges)) if v is not None]
    if unused and not file:
        raise Unsupported(f"{' and '.join(unused)} of a run folder", "it names its own", "a circuit file, or without")
    if claim is not None and not claim.is_file():
        raise BadInput(f"Expected a claim at {claim}, found none; `gossamer claim RUN --out {claim}` writes one.")
    found = edge_runs.put_in_run(run, model, task, out, edges, device, dtype) if file else read_any(run, model, device)
    stated = claim_for(found, claim, quick=quick, changes=changes, target=target, hypothesis=hypothesis)
    notes = tuple(map(str, found.circuit.record.details.get("notes", ())))
    return put_on_trial(found, stated, progress=progress, say=say, notes=notes)
