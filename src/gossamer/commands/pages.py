"""A run's page: one file, or served."""

from __future__ import annotations

import webbrowser
from collections.abc import Callable
from functools import partial
from pathlib import Path

from gossamer.commands import edge_runs
from gossamer.commands.bundle_of_comparison import beside, is_comparison
from gossamer.commands.bundle_of_edges import build_edge_bundle
from gossamer.commands.bundle_of_run import build_bundle
from gossamer.commands.live import answer, tokenize
from gossamer.commands.progress import Say
from gossamer.commands.reports import ServeReport, ShowReport
from gossamer.commands.run_folder import COMPOSITION, EVIDENCE, Run, read_run, write_json
from gossamer.errors import BadInput, Unsupported
from gossamer.evidence import load_evidence
from gossamer.show import Bundle, write_page
from gossamer.show.desk import BUNDLE, NOTES, PAGE, Desk
from gossamer.subject import require_model_of

AnyRun = Run | edge_runs.EdgeRun


def read_any(folder: Path, model: str | None, device: str) -> AnyRun:
    """A run of either kind, with the very model that its circuit was found in."""
    if edge_runs.is_edge_run(folder):
        return edge_runs.read(folder, model, device)
    found = read_run(folder, model, device)
    require_model_of(found.circuit.record, found.model)
    return found


def write(
    folder: Path, model: str | None, twin: Path | None, compare: Path | None, device: str, say: Say
) -> tuple[AnyRun, Bundle]:
    """The run, and the bundle that its page now has: both files are written into the run folder. Of a comparison's
    folder the page is that of its first run, written there."""
    out, found = folder, None
    if is_comparison(folder):
        if twin or compare:
            raise BadInput(f"Expected {folder} alone, it is a comparison; `gossamer show RUN --compare {folder}`.")
        folder, compare, found = beside(folder)
    elif compare and is_comparison(compare):
        _, compare, found = beside(compare, folder)
    if twin and edge_runs.is_edge_run(folder):
        raise Unsupported("a twin beside a circuit of edges", "the two are not compared yet", "no --twin")
    run = read_any(folder, model, device)
    path = folder / EVIDENCE
    evidence = load_evidence(path) if path.is_file() else ()
    composition = folder / COMPOSITION
    if not evidence:
        by = "compose" if composition.is_file() else "discover"
        say(f"no trial yet: the page has only what `{by}` measured; `gossamer verify` adds the checks")
    evidence += load_evidence(composition) if composition.is_file() else ()
    bundle = (
        build_edge_bundle(run, evidence, compare)
        if isinstance(run, edge_runs.EdgeRun)
        else build_bundle(run, evidence, twin, compare)
    )
    bundle = bundle.model_copy(update={"comparison": found})
    write_json(bundle, out / BUNDLE)
    write_page(bundle, out / PAGE)
    return run, bundle


def show(folder: Path, model: str | None, twin: Path | None, compare: Path | None, device: str, say: Say) -> ShowReport:
    """See gossamer.commands.show."""
    write(folder, model, twin, compare, device, say)
    page = folder / PAGE
    return ShowReport(run=str(folder), page=str(page), bundle=str(folder / BUNDLE), bytes=page.stat().st_size)


def serve(
    folder: Path, model: str | None, twin: Path | None, compare: Path | None, device: str, host: str, port: int,
    token: str | None, open_browser: bool, ready: Callable[[ServeReport], None], say: Say,
) -> ServeReport:  # fmt: skip
    """See gossamer.commands.serve."""
    from gossamer.show.server import listen, serve

    place = listen(host, port, token)
    with place.socket:
        run, bundle = write(folder, model, twin, compare, device, say)
        desk = Desk(
            bundle=bundle, answer=partial(answer, run), tokenize=partial(tokenize, run), notes=folder / NOTES
        )  # fmt: skip
        report = ServeReport(run=str(folder), url=place.url, token=place.token)

        def started() -> None:
            ready(report)
            if open_browser:
                webbrowser.open(report.url)

        serve(place, desk, started)
    return report
