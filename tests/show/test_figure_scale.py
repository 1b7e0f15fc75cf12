"""A circuit of 20,000 edges: opens folded, shows all on a canvas, moves, and is the same when drawn in one piece."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from typing import Any

import pytest
from figure_scale import ALL_EDGES, COMPARE, READY, ZOOM, drag, large_bundle, start_browser

from gossamer.show import write_page

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def bundle() -> Any:
    return large_bundle(20_000, 3_000, 4)


@pytest.fixture(scope="module")
def browser(bundle: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Two pixels to a CSS pixel, as in a saved PNG; the page is open."""
    try:
        found = start_browser(ratio=2)
    except SystemExit as missing:
        pytest.skip(str(missing))
    found.set_window_size(860, 640)
    found.set_script_timeout(60)
    found.get(write_page(bundle, tmp_path_factory.mktemp("page") / "page.html").as_uri())
    found.execute_async_script(READY)
    yield found
    assert [e for e in found.get_log("browser") if e["level"] == "SEVERE"] == []
    found.quit()


def share_off(found: dict[str, Any]) -> float:
    """The share of the picture's values that differ by more than 8 of 255."""
    return float(found["off"] / (4 * found["width"] * found["height"]))


def test_it_opens_with_the_strongest_edges_and_every_other_node_in_a_super_node(browser: Any, bundle: Any) -> None:
    tips = browser.execute_script("return [...document.querySelectorAll('g.node.super')].map((g) => g.dataset.tip)")
    alone = browser.execute_script("return document.querySelectorAll('g.node:not(.super)').length")
    folded = sum(int(tip.split("\n")[0].split()[-2].replace(",", "")) for tip in tips)
    assert folded + alone == bundle.circuit.n_nodes
    strongest = sorted(bundle.circuit.edges, key=lambda e: -abs(e.weight or 0))[:60]
    ends = {end for e in strongest for end in (e.src, e.dst)}
    sites = browser.execute_script(
        "return [...document.querySelectorAll('g.node:not(.super)')].map((g) => g.dataset.site)"
    )
    assert ends <= set(sites)
    assert len(sites) <= len(ends) + len(tips)  # a lone node of a place is no group
    single = "return document.querySelectorAll('.edges .edge:not(.hidden, .sum, [data-site])').length"
    assert browser.execute_script(single) == 60


def test_moved_and_zoomed_the_canvas_is_what_is_drawn_in_one_piece(browser: Any) -> None:
    browser.execute_async_script(ALL_EDGES)
    moved = drag(browser, ".figure-surface", 7, 5, -3)
    assert moved["median_ms"] < 100, moved  # 17 on a quiet core; the bound is for a busy one
    whole = browser.execute_async_script(COMPARE)
    assert whole["same"]
    assert whole["inked"] > 10_000
    assert share_off(whole) < 1e-3, whole
    browser.execute_async_script(ZOOM, 500, 200, -400)
    drag(browser, ".figure-surface", 7, -5, 3)
    near = browser.execute_async_script(COMPARE)
    assert share_off(near) < 3e-3, near  # dashes


def test_the_keyboard_walks_the_canvas_and_each_node_is_read_out(browser: Any, bundle: Any) -> None:
    # Fed and feeding nodes of the one that is selected are in its card; the SVG of what is in sight has its name.
    walk = (
        "const c = document.querySelector('.figure-canvas'); c.focus();"
        "const key = (k) => c.dispatchEvent(new KeyboardEvent('keydown', {key: k, bubbles: true}));"
        "key('Home'); const first = document.querySelector('.figure-frame [aria-live]').textContent;"
        "key('ArrowRight'); const second = document.querySelector('.figure-frame [aria-live]').textContent;"
        "key('Enter'); return [first, second, document.querySelector('.panel').innerText, c.getAttribute('aria-label')]"
    )
    first, second, card, label = browser.execute_script(walk)
    sites = {n.site for n in bundle.circuit.nodes}
    a, b = first.split(": ")[0], second.split(": ")[0]
    assert {a, b} <= sites
    assert a != b
    assert card.startswith(b)
    assert "Arrow keys" in label
    svg = browser.execute_async_script(
        "const done = arguments[0], make = URL.createObjectURL;"
        "URL.createObjectURL = (blob) => { URL.createObjectURL = make; blob.text().then(done); return make(blob); };"
        "[...document.querySelectorAll('.figure-bar button')].find((x) => x.textContent === 'SVG').click()"
    )
    names = {t.text for t in ET.fromstring(svg.encode()).iter("{http://www.w3.org/2000/svg}title")}
    assert b in names
    assert len(names) < len(sites) / 2  # what is out of sight is not in it


def test_the_comparison_sees_a_raster_that_is_a_pixel_off(browser: Any) -> None:
    browser.execute_script(
        "const c = document.querySelector('.raster:not([hidden])'), g = c.getContext('2d');"
        "g.setTransform(1, 0, 0, 1, 0, 0); g.globalCompositeOperation = 'copy'; g.drawImage(c, 2, 1)"
    )
    off = browser.execute_async_script(COMPARE)
    assert share_off(off) > 0.05, off
