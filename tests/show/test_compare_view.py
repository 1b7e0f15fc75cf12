"""The card, the cuts, the compared circuit and what is shared, of a real run in a real browser."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pytest
from example_bundle import example_bundle
from head_bundle import head_bundle
from live_bundle import live_bundle, tiny
from toys import planted_model, planted_task

from gossamer import Circuit, commands
from gossamer.commands.bundle_of_other import compared
from gossamer.errors import Unsupported
from gossamer.evidence import load_evidence
from gossamer.formats import neuronpedia
from gossamer.graph import HeadShape, head_graph
from gossamer.models.files import save_model
from gossamer.show import read_bundle, write_page
from gossamer.show.bundle import Bundle, ComparedCell

SEARCH = {"steps": 60, "lr": 3e-2, "batch_pairs": 16, "k_coef": (3e-3,), "target_loss": 0.6}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `run`, put on trial and shown beside its twin, and with `other`, a run on the same model."""
    folder = tmp_path_factory.mktemp("runs")
    rows = [
        {"clean": e.clean, "counterfactual": e.counterfactual, "answer": e.answer, "wrong_answer": e.wrong_answer,
         "split": split}
        for split, part in (("train", planted_task().train), ("heldout", planted_task().heldout)) for e in part
    ]  # fmt: skip
    pairs = folder / "sides.jsonl"
    pairs.write_text("\n".join(map(json.dumps, rows)))
    for name, decoys in (("model", True), ("dense", False)):
        m = planted_model(decoys)
        save_model(m.model, folder / name, tokenizer=m.tokenizer, reference=m.reference, record={"details": {}})
    commands.prune(folder / "model", pairs, out=folder / "run", **SEARCH)
    commands.prune(folder / "model", pairs, out=folder / "other", **{**SEARCH, "seed": 1, "target_loss": 0.4})
    commands.prune(folder / "dense", pairs, out=folder / "twin", **SEARCH)
    commands.verify(folder / "run", quick=True)
    commands.show(folder / "run", twin=folder / "twin")
    return folder


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("needs chromium and chromedriver (.ci/run installs them)")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--window-size=1280,900"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    found = webdriver.Chrome(options=options, service=Service(driver))
    folder = tmp_path_factory.mktemp("downloads")
    found.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(folder)})
    found.downloads = folder
    yield found
    found.quit()


def opened(browser: Any, page: Path, where: str = "") -> None:
    browser.get("about:blank")
    browser.get(page.as_uri() + where)
    quiet(browser)


def quiet(browser: Any) -> None:
    assert [e for e in browser.get_log("browser") if e["level"] == "SEVERE"] == []


def js(browser: Any, code: str, *args: Any) -> Any:
    return browser.execute_script(code, *args)


def sites(browser: Any) -> set[str]:
    """Of the nodes in the figure that is shown."""
    return set(
        js(browser, "return [...document.querySelectorAll('.stage:not([hidden]) g.node')].map((g) => g.dataset.site)")
    )


def saved(browser: Any, what: str) -> Path:
    """The JSON file that a button saves: Chromium puts an empty one in its place until it has the whole."""
    from selenium.webdriver.support.ui import WebDriverWait

    for old in browser.downloads.iterdir():
        old.unlink()
    browser.find_element("css selector", f"[data-export={what}]").click()  # a page may not save twice by itself
    return WebDriverWait(browser, 10, 0.05).until(
        lambda _: [p for p in browser.downloads.glob("*.json") if p.stat().st_size]
    )[0]


def until(holds: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.02)


def keys(browser: Any, *pressed: str) -> None:
    browser.switch_to.active_element.send_keys(*pressed)


def test_a_circuit_is_compared_with_one_of_its_model_by_what_they_share(runs: Path) -> None:
    own, other = (Circuit.load(runs / name / "circuit.safetensors") for name in ("run", "other"))
    graph = planted_model().graph()
    found = compared(runs / "other", own, graph)
    both = set(own.nodes.tolist()) & set(other.nodes.tolist())
    assert found.nodes is not None
    assert (found.nodes.shared, found.nodes.left, found.nodes.right) == (
        len(both), own.n_nodes - len(both), other.n_nodes - len(both),
    )  # fmt: skip
    assert found.nodes.iou == pytest.approx(len(both) / len(set(own.nodes.tolist()) | set(other.nodes.tolist())))
    assert 0 <= found.nodes.chance < 1
    itself = compared(runs / "run", own, graph)
    assert itself.nodes is not None
    assert itself.edges is not None
    assert (itself.nodes.iou, itself.edges.iou, itself.edges.left) == (1, 1, 0)
    assert set(itself.outline.nodes) == set(map(str, own.sites))
    shown = read_bundle(runs / "run" / "bundle.json")
    weights = {n.site: n.direct_logit for n in shown.circuit.nodes if n.direct_logit is not None}
    assert {itself.outline.nodes[i]: w for i, w in itself.outline.direct} == pytest.approx(weights, rel=1e-6)
    assert shown.cuts is not None
    assert len({shown.cuts.nodes[i] for i, _ in shown.cuts.direct} & weights.keys()) == len(weights)
    assert itself.heldout_pairs == shown.circuit.heldout_pairs == len(planted_task().heldout)
    assert {(e[0], e[1]) for e in itself.outline.edges} == {
        (int(np.searchsorted(own.nodes, s)), int(np.searchsorted(own.nodes, d)))
        for s, d in zip(own.src, own.dst, strict=True)
    }


def test_sites_of_another_model_are_not_matched(runs: Path) -> None:
    own = Circuit.load(runs / "run" / "circuit.safetensors")
    twin = compared(runs / "twin", own, planted_model().graph(), twin=True)
    assert (twin.nodes, twin.edges, twin.twin, twin.d_head) == (None, None, True, 8)
    shape = HeadShape(n_heads=2, n_groups=2, parallel=(False,))
    graph = head_graph(shape)
    heads = Circuit.from_edges(graph, np.arange(3), np.ones(3), record=own.record)
    with pytest.raises(Unsupported, match="grain head"):
        compared(runs / "twin", heads, graph)


def test_every_cut_has_the_size_that_was_measured(runs: Path) -> None:
    bundle = read_bundle(runs / "run" / "bundle.json")
    assert bundle.cuts is not None
    for point in bundle.curve:
        if point.nodes <= len(bundle.cuts.nodes):
            assert sum(max(a, b) < point.nodes for a, b, _, _ in bundle.cuts.edges) == point.edges
    assert set(bundle.cuts.nodes[: bundle.circuit.n_nodes]) == {n.site for n in bundle.circuit.nodes}


@pytest.mark.browser
def test_numbers_on_the_page_are_those_of_the_run_folder(browser: Any, runs: Path) -> None:
    circuit = Circuit.load(runs / "run" / "circuit.safetensors")
    opened(browser, runs / "run" / "page.html")
    cells = "[...document.querySelectorAll('.check')].map((c) => [...c.querySelectorAll('.nulls tbody .figure-cell')]"
    shown = js(browser, f"return {cells}.map((e) => Number(e.dataset.tip)))")
    evidence = load_evidence(runs / "run" / "evidence.json")
    kept = [[v for v in (e.value, *(n.value for n in e.nulls)) if v is not None] for e in evidence]
    assert len(shown) == len(kept) > 0
    for row, values in zip(shown, kept, strict=True):
        assert row == pytest.approx(values, abs=1e-6)
    number = {str(site): int(n) for site, n in zip(circuit.sites, circuit.nodes, strict=True)}
    weights = 0
    for site in number:
        js(browser, "location.hash = new URLSearchParams({selected: arguments[0]})", site)
        browser.execute_async_script("requestAnimationFrame(() => setTimeout(arguments[0]))")
        rows = js(
            browser, "return [...document.querySelectorAll('.links tr')].map((r) => "
            "[r.querySelector('.site').textContent, r.querySelector('.figure-cell')?.dataset.tip.split(': ')[1]])",
        )  # fmt: skip
        for other, weight in rows:
            if weight is not None:
                ends = {(number[site], number[other]), (number[other], number[site])}
                own = [w for s, d, w in zip(circuit.src, circuit.dst, circuit.weight, strict=True) if (s, d) in ends]
                assert min(abs(float(weight) - w) for w in own) < 1e-6
                weights += 1
    assert weights == 2 * circuit.n_edges
    quiet(browser)


@pytest.mark.browser
def test_a_node_is_found_by_the_keyboard_alone_and_its_card_has_effects_beside_their_null(
    browser: Any, runs: Path
) -> None:
    from selenium.webdriver.common.keys import Keys

    bundle = read_bundle(runs / "run" / "bundle.json")
    node = next(n for n in bundle.circuit.nodes if n.location == "0.attn.resid_delta")
    opened(browser, runs / "run" / "page.html")
    for _ in range(30):
        keys(browser, Keys.TAB)
        if browser.switch_to.active_element.get_attribute("role") == "combobox":
            break
    keys(browser, node.site)
    keys(browser, Keys.ENTER)
    assert js(browser, "return document.querySelector('[data-card]').dataset.card") == node.site
    values = js(browser, "return [...document.querySelectorAll('.effects [data-value]')].map((e) => e.dataset.value)")
    assert node.direct_effect is not None
    expected = [node.ablation_effect_nats, node.model_effect_nats, *node.direct_effect]
    assert [float(v) for v in values] == pytest.approx(expected, abs=1e-12)
    null = js(browser, "return document.querySelector('.effects [data-null]').dataset.null")
    assert float(null) == pytest.approx(bundle.circuit.effect_nulls[node.location].value, abs=1e-12)
    text = js(browser, "return document.querySelector('[data-card]').innerText")
    assert "silent" in text or all(e.level != 0 for e in node.levels)
    spoken = js(browser, "return [...document.querySelectorAll('.histogram')].map((e) => e.ariaLabel)")
    assert [s.split(".")[0] for s in spoken] == ["At the last token", "At the first token that differs"]
    keys(browser, Keys.ESCAPE)
    assert js(browser, "return document.activeElement.dataset.site") == node.site
    assert js(browser, "return document.querySelector('[data-card]')") is None
    quiet(browser)


@pytest.mark.browser
def test_the_slider_draws_the_cut_and_the_address_brings_everything_back(browser: Any, runs: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    bundle = read_bundle(runs / "run" / "bundle.json")
    assert bundle.cuts is not None
    opened(browser, runs / "run" / "page.html")
    assert sites(browser) == {n.site for n in bundle.circuit.nodes}
    slider = browser.find_element("css selector", ".cut input")
    slider.send_keys(Keys.ARROW_RIGHT)
    until(lambda: "cut=" in js(browser, "return location.hash"))
    larger = int(js(browser, "return new URLSearchParams(location.hash.slice(1)).get('cut')"))
    assert larger > bundle.circuit.n_nodes
    assert sites(browser) == set(bundle.cuts.nodes[:larger])
    loss = js(browser, "return document.querySelector('.cut-said').dataset.loss")
    assert float(loss) == next(p.loss_nats for p in bundle.curve if p.nodes == larger)
    assert "not the circuit" in js(browser, "return document.querySelector('.cut-note').innerText")
    site = bundle.circuit.nodes[0].site
    js(
        browser, "document.querySelector(`.stage:not([hidden]) g.node[data-site='${arguments[0]}']`)"
        ".dispatchEvent(new MouseEvent('click', {bubbles: true})); document.querySelector('.theme').click()", site,
    )  # fmt: skip
    state = (
        "return [location.hash, document.querySelector('.stage:not([hidden]) [data-card]').dataset.card, "
        "document.querySelector('.gossamer').dataset.theme, document.querySelector('.cut input').value]"
    )
    until(lambda: "theme=light" in js(browser, "return location.hash"))
    before = js(browser, state)
    assert before[1:3] == [site, "light"]
    browser.refresh()
    assert js(browser, state) == before
    assert sites(browser) == set(bundle.cuts.nodes[:larger])
    js(browser, "document.querySelector('.cut-note button').click()")
    assert sites(browser) == {n.site for n in bundle.circuit.nodes}
    quiet(browser)


@pytest.mark.browser
@pytest.mark.parametrize(
    "where", ["#%E0%A4%A", "#selected=<img>&strongest=-3&cut=x&compare=..&theme=%00", "#" + "a=b&" * 5000, "#cut=1e9"]
)
def test_a_malformed_address_opens_the_page_as_it_is(browser: Any, runs: Path, where: str) -> None:
    bundle = read_bundle(runs / "run" / "bundle.json")
    opened(browser, runs / "run" / "page.html", where)
    assert sites(browser) == {n.site for n in bundle.circuit.nodes}
    assert js(
        browser, "return [...document.querySelectorAll('[aria-pressed=true].mode')].map((e) => e.dataset.mode)"
    ) == ["circuit"]


@pytest.mark.browser
def test_the_twin_and_another_circuit_are_drawn_beside_this_one(browser: Any, runs: Path, tmp_path: Path) -> None:
    bundle = read_bundle(runs / "run" / "bundle.json")
    assert bundle.other is not None
    opened(browser, runs / "run" / "page.html")
    js(browser, "document.querySelector('[data-mode=other]').click()")
    assert sites(browser) == set(bundle.other.outline.nodes)
    direct = dict(bundle.other.outline.direct)
    assert {bundle.other.outline.nodes[i].split(":")[0] for i in direct} == {"final_resid"}
    drawn = "return document.querySelectorAll('.stage:not([hidden]) .edge[data-site]').length"
    assert js(browser, drawn) == len(direct)
    roots = "return document.querySelectorAll('.stage:not([hidden]) .root').length"
    assert js(browser, roots) > 1
    js(browser, "document.querySelector('[data-mode=both]').click()")
    natural = js(browser, "return [...document.querySelectorAll('.pane svg')].map((e) => e.viewBox.baseVal.width)")
    panes = js(
        browser, "return [...document.querySelectorAll('.pane svg')].map((e) => [e.querySelectorAll('.mini').length, "
        "e.getBoundingClientRect().width / e.viewBox.baseVal.width])",
    )  # fmt: skip
    assert [n for n, _ in panes] == [bundle.circuit.n_nodes, len(bundle.other.outline.nodes)]
    assert panes[0][1] == pytest.approx(panes[1][1], rel=0.02)  # one scale
    browser.set_window_size(800, 900)
    browser.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
    left, right = js(
        browser,
        "return [...document.querySelectorAll('.pane svg')].map((e) => e.getBoundingClientRect().toJSON())",
    )
    sizes = js(
        browser, "return [...document.querySelectorAll('.pane .sketch-title')]"
        ".map((e) => parseFloat(getComputedStyle(e).fontSize) * e.getScreenCTM().a)",
    )  # fmt: skip
    assert right["top"] > left["bottom"]  # one under the other
    assert left["width"] / right["width"] == pytest.approx(natural[0] / natural[1], rel=0.01)
    assert min(sizes) > 10
    assert js(browser, "const e = document.documentElement; return e.scrollWidth - e.clientWidth") <= 0
    browser.set_window_size(1280, 900)
    assert "nothing is matched" in js(browser, "return document.querySelector('.both').innerText")

    own = Circuit.load(runs / "run" / "circuit.safetensors")
    beside = compared(runs / "other", own, planted_model().graph())
    assert beside.nodes is not None
    opened(browser, write_page(bundle.model_copy(update={"other": beside}), tmp_path / "page.html"), "#compare=both")
    looks = js(browser, "return [...document.querySelectorAll('.union .mini')].map((e) => e.classList[1])")
    expected = (beside.nodes.shared, beside.nodes.left, beside.nodes.right)
    assert tuple(looks.count(look) for look in ("both", "left", "right")) == expected
    shown = js(browser, "return [...document.querySelectorAll('.sizes [data-tip]')].map((e) => Number(e.dataset.tip))")
    assert shown[:2] == pytest.approx([beside.nodes.iou, beside.nodes.chance], abs=1e-12)
    quiet(browser)


@pytest.mark.browser
def test_markup_in_a_run_folders_name_stays_text_on_the_page(browser: Any, runs: Path, tmp_path: Path) -> None:
    nasty = tmp_path / "<img src=x onerror=window.hit=1>"
    shutil.copytree(runs / "other", nasty)
    report = commands.compare([runs / "run", nasty], pairs=4, draws=2, out=tmp_path / "found")
    assert report.names == ("run", nasty.name)
    page = Path(commands.show(tmp_path / "found").page)
    bundle = read_bundle(page)
    assert bundle.comparison is not None
    cells = [
        ComparedCell(ablated=a, on=b, size=3, share=0.5, interval=None, random=0.25, random_interval=None)
        for a in report.names for b in report.names
    ]  # fmt: skip
    found = bundle.comparison.model_copy(update={"cells": tuple(cells), "parts": tuple(cells), "finding": nasty.name})
    opened(browser, write_page(bundle.model_copy(update={"comparison": found}), page), "#compare=numbers")
    text = js(browser, "return document.querySelector('.compared').textContent")
    assert text.count(nasty.name) > 5
    assert js(browser, "return document.querySelectorAll('img').length") == 0
    assert js(browser, "return window.hit ?? null") is None
    assert "<img" not in page.read_text()
    assert "<img" not in Path(report.svg).read_text()
    quiet(browser)


@pytest.mark.browser
def test_what_a_comparison_found_is_on_the_page(browser: Any, runs: Path, tmp_path: Path) -> None:
    """Every number of the tables is that of the files; a page without a comparison has no such button."""
    report = commands.compare([runs / "run", runs / "other"], pairs=4, draws=2, out=tmp_path / "found")
    page = Path(commands.show(runs / "run", compare=tmp_path / "found").page)
    opened(browser, page)
    js(browser, "document.querySelector('[data-mode=numbers]').click()")
    assert report.finding in js(browser, "return document.querySelector('.compared').innerText")
    shown = js(
        browser, "return [...document.querySelectorAll('.overlaps [data-tip]')].map((e) => Number(e.dataset.tip))"
    )
    numbers = [
        x for kind in (True, False) for r in report.overlap if (r.kind == "all") == kind and r.iou is not None
        for x in (r.iou, r.iom, r.chance, r.p_value) if x is not None
    ]  # fmt: skip
    assert shown == pytest.approx(numbers, abs=1e-12)
    checks = js(browser, "return [...document.querySelectorAll('.compared .check h3')].map((e) => e.innerText)")
    assert checks == [e.name.capitalize() for e in report.similarity]
    assert js(browser, "return document.querySelectorAll('.losses').length") == 0  # the runs are of one task
    until(lambda: "compare=numbers" in js(browser, "return location.hash"))
    cells = [
        ComparedCell(ablated=a, on=b, size=3, share=None if a == b == "no" else 0.5 + i / 10, interval=(0.1, 0.9),
                     random=0.25, random_interval=None)
        for i, (a, b) in enumerate((a, b) for a in ("sides", "no") for b in ("sides", "no"))
    ]  # fmt: skip
    bundle = read_bundle(page)
    assert bundle.comparison is not None
    found = bundle.comparison.model_copy(
        update={"names": ("sides", "no"), "cells": tuple(cells), "parts": tuple(cells)}
    )
    opened(
        browser, write_page(bundle.model_copy(update={"comparison": found}), tmp_path / "page.html"), "#compare=numbers"
    )
    rows = js(
        browser, "return [...document.querySelectorAll('.losses tbody tr')].map((e) => e.innerText.split(/\\s+/))"
    )
    assert rows == [["sides", "0.5", "0.25", "0.6", "0.25"], ["no", "0.7", "0.25", "empty"]]
    browser.set_window_size(500, 900)
    assert js(browser, "const e = document.documentElement; return e.scrollWidth - e.clientWidth") <= 0
    browser.set_window_size(1280, 900)
    names = ("a", "a b", "b c", "c")  # "a" on "b c" is not "a b" on "c"
    cells = [
        cells[0].model_copy(update={"ablated": a, "on": b, "share": (4 * i + j) / 16})
        for i, a in enumerate(names) for j, b in enumerate(names)
    ]  # fmt: skip
    found = bundle.comparison.model_copy(update={"names": names, "cells": tuple(cells)})
    opened(
        browser, write_page(bundle.model_copy(update={"comparison": found}), tmp_path / "page.html"), "#compare=numbers"
    )
    tips = js(browser, "return [...document.querySelectorAll('.losses td.shaded')].map((e) => e.dataset.tip)")
    assert [float(re.findall(r": ([\d.]+)", t)[0]) for t in tips] == [i / 16 for i in range(16)]
    opened(
        browser, write_page(bundle.model_copy(update={"comparison": None}), tmp_path / "page.html"), "#compare=numbers"
    )
    assert js(browser, "return document.querySelector('[data-mode=numbers]')") is None
    quiet(browser)


def test_thousands_of_edges_of_the_other_circuit_are_drawn_at_once(browser: Any, tmp_path: Path) -> None:
    bundle = hairy(example_bundle(), 3000)
    opened(browser, write_page(bundle, tmp_path / "page.html"))
    took = js(
        browser, "const start = performance.now(); document.querySelector('[data-mode=both]').click();"
        "document.querySelector('.both').getBoundingClientRect(); return performance.now() - start",
    )  # fmt: skip
    drawn = js(
        browser, "return [...document.querySelectorAll('.pane:last-child .edge')]"
        ".reduce((n, e) => n + e.getAttribute('d').split('M').length - 1, 0)",
    )  # fmt: skip
    assert drawn == 3000
    assert took < 3000, f"{took} ms"  # about 150 on one quiet core; the bound is for a busy one


def hairy(bundle: Bundle, edges: int) -> Bundle:
    """The bundle beside a circuit with so many edges from reads to neurons."""
    from gossamer.show.bundle import OtherCircuit, Outline

    reads, neurons = 50, 100
    nodes = [f"0.mlp.act_in:{i}" for i in range(reads)] + [f"0.mlp.post_act:{i}" for i in range(neurons)]
    outline = Outline(
        nodes=tuple(nodes), matrices=("0.mlp.c_fc",), carries=(),
        edges=tuple((i // neurons, reads + i % neurons, (-1) ** i * (1 + i % 7), 0) for i in range(edges)),
    )  # fmt: skip
    other = OtherCircuit(
        model="hair", task=bundle.task.name, method="prune", twin=True, n_layer=1, d_head=8, reached=True,
        loss_heldout_nats=0.1, outline=outline, nodes=None, edges=None,
    )  # fmt: skip
    return bundle.model_copy(update={"other": other})


@pytest.mark.browser
def test_a_host_keeps_the_notes_and_its_address_is_left_alone(browser: Any, runs: Path, tmp_path: Path) -> None:
    """As a notebook hosts it: an element among others, notes written through the host, no address of its own."""
    page = (runs / "run" / "page.html").read_text()
    boot = """
const kept = {circuit: "from the host"}; window.written = [];
const notes = {read: async () => kept, write: async (n) => { window.written.push(n); }};
const bundle = JSON.parse(document.getElementById("gossamer-bundle").textContent);
const el = document.getElementById("gossamer-page"); el.id = "a-cell";
render({model: {get: (name) => ({bundle, notes})[name]}, el});
"""
    start, end = page.rindex("{\n  const bundle"), page.rindex("</script>")
    hosted = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page[:start] + boot + page[end:])
    (tmp_path / "cell.html").write_text(hosted)
    opened(browser, tmp_path / "cell.html", "#selected=final_resid%3A6")
    assert js(browser, "return document.querySelector('[data-card]')") is None
    assert js(browser, "return document.querySelector('.note-text').value") == "from the host"
    browser.find_element("css selector", ".note-text").send_keys("!")
    js(browser, "document.querySelector('.theme').click()")
    until(lambda: bool(js(browser, "return window.written.length")))
    assert js(browser, "return [window.written, location.hash]") == [
        [{"circuit": "from the host!"}], "#selected=final_resid%3A6",
    ]  # fmt: skip
    assert "Copy link" not in js(browser, "return document.querySelector('.share').innerText")


@pytest.mark.browser
def test_the_graph_and_the_notes_leave_as_files_that_are_read(browser: Any, runs: Path, tmp_path: Path) -> None:
    bundle = read_bundle(runs / "run" / "bundle.json")
    opened(browser, runs / "run" / "page.html")
    graph = neuronpedia.read_graph(saved(browser, "neuronpedia"))
    assert {n.clerp for n in graph.nodes} == {n.site for n in bundle.circuit.nodes}
    assert sum(bool((link.model_extra or {}).get("reads")) for link in graph.links) == bundle.circuit.n_edges

    browser.find_element("css selector", ".note-text").send_keys("it closes <b>strings</b>")
    assert json.loads(saved(browser, "notes").read_text()) == {"circuit": "it closes <b>strings</b>"}
    browser.refresh()  # less than the pause after which they are kept
    assert js(browser, "return document.querySelector('.note-text').value") == "it closes <b>strings</b>"
    more = tmp_path / "notes.json"
    more.write_text(json.dumps({bundle.circuit.nodes[0].site: "read"}))
    browser.find_element("css selector", ".share input[type=file]").send_keys(str(more))
    until(lambda: "(2)" in js(browser, "return document.querySelector('[data-export=notes]').innerText"))
    assert len(json.loads(saved(browser, "notes").read_text())) == 2
    js(browser, "localStorage.clear()")

    live = live_bundle()
    opened(browser, write_page(live, tmp_path / "live.html"))
    made = json.loads(saved(browser, "neuronpedia").read_text())["metadata"]
    prompt = live.task.examples[0].clean
    tokenizer = tiny().tokenizer
    ids = tokenizer.encode(prompt, add_special_tokens=False).ids
    assert made["prompt_tokens"] == [
        "<|endoftext|>", *(tokenizer.decode([i], skip_special_tokens=False) for i in ids)
    ]  # fmt: skip

    heads = head_bundle(groups=2)
    opened(browser, write_page(heads, tmp_path / "heads.html"))
    m = heads.model
    shape = HeadShape(n_heads=m.n_head, n_groups=m.n_group or m.n_head, parallel=(False,) * m.n_layer)
    found = neuronpedia.read_circuit(saved(browser, "neuronpedia"), head_graph(shape))
    assert found.n_edges == heads.circuit.n_edges
    assert sorted(found.weight.tolist()) == pytest.approx(sorted(e.weight or 0 for e in heads.circuit.edges), abs=1e-12)
    quiet(browser)


@pytest.mark.browser
def test_notes_of_two_tabs_are_all_kept(browser: Any, runs: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    bundle = read_bundle(runs / "run" / "bundle.json")
    site = bundle.circuit.nodes[0].site
    page, note = runs / "run" / "page.html", "return document.querySelector('.note-text').value"

    def kept() -> list[dict[str, str]]:
        return [json.loads(text) for text in js(browser, "return Object.values(localStorage)")]

    opened(browser, page)
    first = browser.current_window_handle
    browser.switch_to.new_window("tab")
    browser.get(f"{page.as_uri()}#{urlencode({'selected': site})}")
    second = browser.current_window_handle
    try:
        browser.find_element("css selector", ".note-text").send_keys("of a node")
        until(lambda: kept() == [{site: "of a node"}])
        browser.switch_to.window(first)
        browser.find_element("css selector", ".note-text").send_keys("of all")
        until(lambda: kept() == [{site: "of a node", "circuit": "of all"}])
        browser.switch_to.window(second)
        count = "return document.querySelector('[data-export=notes]').innerText"
        until(lambda: js(browser, count) == "Save notes (2)")
        js(browser, "document.querySelector('.close').click()")
        assert js(browser, note) == "of all"
        field = browser.find_element("css selector", ".note-text")
        field.send_keys(Keys.CONTROL, "a")
        field.send_keys(Keys.DELETE)  # what one tab takes away is gone in the other
        until(lambda: kept() == [{site: "of a node"}])
        browser.switch_to.window(first)
        until(lambda: js(browser, note) == "")
    finally:
        browser.switch_to.window(second)
        js(browser, "localStorage.clear()")
        browser.close()
        browser.switch_to.window(first)


@pytest.mark.browser
def test_a_sketch_has_no_layer_without_a_node(browser: Any, runs: Path) -> None:
    opened(browser, runs / "run" / "page.html")
    counts = js(
        browser, "const i = document.querySelector('.cut input'), out = [];"
        "for (let v = 0; v <= Number(i.max); v++) { i.value = v; i.dispatchEvent(new Event('input', {bubbles: true}));"
        "const boxes = (what) => [...document.querySelectorAll(`.cut-picture ${what}`)].map((e) => "
        "e.getBoundingClientRect()); const minis = boxes('.mini');"
        "out.push(boxes('.band').map((b) => minis.filter((m) => m.top > b.top && m.bottom < b.bottom).length)); }"
        "return out",
    )  # fmt: skip
    assert len({len(bands) for bands in counts}) > 1  # some layers come with larger cuts only
    assert min(n for bands in counts for n in bands) > 0
