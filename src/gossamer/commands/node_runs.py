"""Methods that give a number per node, or per pair of writers: patching and direct attribution. No circuit is cut."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from gossamer.commands.edge_discovery import load_for, needed_by
from gossamer.commands.edge_runs import WHOLE_ANSWERS, sign_of
from gossamer.commands.progress import Say, Steps
from gossamer.commands.reports import NodeReport
from gossamer.commands.run_folder import REPORT, SCORES, new_folder, next_free, write_json
from gossamer.discover import (
    QueryKeyAttribution,
    activation_patching_config,
    attribution_patching_config,
    direct_logit_attribution_config,
    path_patching_config,
    query_key_attribution_config,
)
from gossamer.errors import BadInput, Unsupported, nearest, require_new
from gossamer.registry import method
from gossamer.scores import Scores

CONFIGS: dict[str, Callable[..., Any]] = {
    "activation-patching": activation_patching_config, "attribution-patching": attribution_patching_config,
    "path-patching": path_patching_config, "direct-logit-attribution": direct_logit_attribution_config,
    "query-key-attribution": query_key_attribution_config,
}  # fmt: skip

GRAINS = ("head", "block")


def discover(
    name: str, model: str | Path, task: str | Path, *, grain: str, out: str | Path | None, device: str, dtype: str,
    task_seed: int, force: bool, progress: Steps | None, say: Say, options: dict[str, Any],
) -> NodeReport:  # fmt: skip
    """See gossamer.commands.discover_nodes."""
    from gossamer.models.huggingface import Blocks

    started = time.perf_counter()
    config = CONFIGS[name](**options)
    if grain not in GRAINS:
        raise BadInput(f"Unknown grain {grain!r}: {nearest(grain, dict.fromkeys(GRAINS))}")
    if grain == "block" and name == "query-key-attribution":
        raise Unsupported("query-key-attribution at grain block", "a score is of one head", "grain head")
    positions, several = getattr(config, "positions", "all"), getattr(config, "metric", "") == WHOLE_ANSWERS
    loaded, asked = load_for(model, task, task_seed, device, dtype, force, say, positions, several)
    folder = Path(out) if out else next_free(Path("runs") / f"{asked.name}-{loaded.name}-{name}")
    require_new(folder)
    subject = loaded if grain == "head" else Blocks(loaded)
    say(f"{name} over {subject.graph().layout.n_nodes} nodes{needed_by(subject, asked, name, config)}")
    found = method[name](subject, asked, config, progress=progress)
    with new_folder(folder) as work:
        if isinstance(found, QueryKeyAttribution):
            names = [f"{q} & {k}" for q in found.names for k in found.names]
            values = found.values.reshape(-1)
        else:
            assert isinstance(found, Scores)
            names = [str(found.layout.site(n)) for n in range(found.layout.n_nodes)]
            values = found.values
            found.save(work / SCORES)
        order = np.argsort(-np.abs(values), kind="stable")
        report = NodeReport(
            run=str(folder), model=loaded.name, task=asked.name, method=name, sign=sign_of(found.record),
            scores=tuple((names[i], float(values[i])) for i in order), record=found.record.model_dump(mode="json"),
            seconds=time.perf_counter() - started,
        )  # fmt: skip
        write_json(report, work / REPORT)
    return report
