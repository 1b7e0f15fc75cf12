"""The figure of a page in a real browser: folding, hiding, pinning, the keyboard, and pictures that open alone."""

from __future__ import annotations

import struct
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from example_bundle import example_bundle
from head_bundle import head_bundle
from live_bundle import live_bundle

from gossamer.show import write_page
from gossamer.show.bundle import Bundle

pytestmark = pytest.mark.browser
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def page(browser: Any, tmp_path: Path) -> Iterator[Any]:
    """A function that opens a bundle's page; at the end of the test no error was logged and nothing was asked for."""

    def opened(bundle: Bundle) -> Any:
        browser.set_window_size(1280, 900)
        browser.get(write_page(bundle, tmp_path / "page.html").as_uri())
        return browser

    yield opened
    assert [e for e in browser.get_log("browser") if e["level"] == "SEVERE"] == []
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0


def click(browser: Any, selector: str) -> None:
    browser.execute_script(
        "document.querySelector(arguments[0]).dispatchEvent(new MouseEvent('click', {bubbles: true}))", selector
    )


def press(browser: Any, button: str) -> None:
    browser.execute_script(
        "[...document.querySelectorAll('.figure-frame button')].find((b) => b.textContent === arguments[0]).click()",
        button,
    )


def drawn(browser: Any) -> list[str]:
    return list(
        browser.execute_script("return [...document.querySelectorAll('g.node:not(.gone)')].map((g) => g.dataset.site)")
    )


def key(browser: Any, name: str) -> str:
    """Sends a key to what has the focus; the site that has it then."""
    return str(
        browser.execute_script(
            "document.activeElement.dispatchEvent(new KeyboardEvent('keydown', {key: arguments[0], bubbles: true}));"
            "return document.activeElement.dataset.site",
            name,
        )
    )


def node(site: str) -> str:
    return f"g.node[data-site='{site}']"


def test_a_folded_head_has_the_counts_and_sums_of_its_edges_and_opens_again(page: Any) -> None:
    bundle = example_bundle()
    browser = page(bundle)
    before = drawn(browser)
    inside = {n.site for n in bundle.circuit.nodes if n.location.startswith("1.attn") and n.head == 5}
    click(browser, "[data-fold='1.h5']")
    assert set(drawn(browser)) == set(before) - inside | {"1.h5"}
    words = browser.execute_script(f'return document.querySelector("{node("1.h5")}").dataset.tip').split("\n")
    c = bundle.circuit
    for said, edges in zip(words[1:], ("dst", "src"), strict=False):
        own = [e.weight or 0 for e in c.edges if getattr(e, edges) in inside]
        assert f"{len(own)} edges" in said
        assert float(said.split()[-1]) == pytest.approx(sum(map(abs, own)), rel=1e-3)
    # What feeds it is near it when it is looked at, and nothing else.
    browser.execute_script(f'document.querySelector("{node("1.h5")}").focus()')
    near = browser.execute_script("return [...document.querySelectorAll('g.node.near')].map((g) => g.dataset.site)")
    assert set(near) == {e.src for e in c.edges if e.dst in inside} | {e.dst for e in c.edges if e.src in inside}
    click(browser, node("1.h5"))
    assert sorted(drawn(browser)) == sorted(before)


def test_a_layer_folds_around_a_pinned_node_and_the_keys_do_what_the_buttons_do(page: Any) -> None:
    bundle = example_bundle()
    browser = page(bundle)
    layer = {n.site for n in bundle.circuit.nodes if n.layer == 0}
    pin = "0.mlp.post_act:863"
    browser.execute_script(f'document.querySelector("{node(pin)}").focus()')
    assert key(browser, "p") == pin
    assert key(browser, "C") == pin
    assert set(drawn(browser)) & (layer | {"layer 0"}) == {pin, "layer 0"}
    # Pinned, it is not dimmed by the filter; another idle node is.
    browser.execute_script(
        "const i = document.querySelector('.strength input'); i.value = 0;"
        "i.dispatchEvent(new Event('input', {bubbles: true}))"
    )
    idle = browser.execute_script("return [...document.querySelectorAll('g.node.idle')].map((g) => g.dataset.site)")
    assert pin not in idle
    assert "1.mlp.post_act:33" in idle
    press(browser, "Expand all")
    assert set(drawn(browser)) == {n.site for n in bundle.circuit.nodes}
    assert browser.execute_script(f'return document.querySelectorAll("{node(pin)}.pinned .pin").length') == 1


def test_hidden_nodes_take_their_edges_along_are_listed_and_come_back(page: Any) -> None:
    bundle = example_bundle()
    browser = page(bundle)
    site = "0.mlp.post_act:863"
    count = "return document.querySelectorAll('.edges .edge:not(.hidden, [data-site])').length"
    all_edges = browser.execute_script(count)
    own = sum(site in (e.src, e.dst) for e in bundle.circuit.edges)
    click(browser, node(site))
    press(browser, "Hide")
    assert site not in drawn(browser)
    assert browser.execute_script(count) == all_edges - own
    next_one = browser.execute_script(
        f'document.querySelector("{node("0.mlp.post_act:790")}").focus(); return document.activeElement.dataset.site'
    )
    passed = {key(browser, name) for name in ("ArrowRight", "ArrowRight", "ArrowLeft", "Home", "End")}
    assert next_one == "0.mlp.post_act:790"
    assert site not in passed
    press(browser, f"{site} ↺")
    assert site in drawn(browser)
    assert browser.execute_script(count) == all_edges


def saved(browser: Any, folder: Path, ending: str) -> bytes:
    """The file that the button saves."""
    folder.mkdir()
    browser.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(folder)})
    press(browser, ending.upper())
    for _ in range(200):
        found = list(folder.glob(f"*.{ending}"))
        if found and found[0].stat().st_size:
            return found[0].read_bytes()
        time.sleep(0.05)
    raise AssertionError(f"no {ending} was saved")


@pytest.mark.parametrize("head", [False, True])
def test_the_saved_svg_stands_alone_and_the_png_is_twice_its_size(page: Any, tmp_path: Path, head: bool) -> None:
    bundle = head_bundle() if head else example_bundle()
    browser = page(bundle)
    hidden = bundle.circuit.nodes[3].site
    click(browser, node(hidden))
    press(browser, "Hide")
    text = saved(browser, tmp_path / "svg", "svg").decode()
    svg = ET.fromstring(text)
    assert {t.text for t in svg.iter(f"{SVG}title")} == {bundle.title} | {
        n.site for n in bundle.circuit.nodes if n.site != hidden
    }
    assert not [word for word in ("var(", "class=", "light-dark", "color(") if word in text]
    strokes = {p.get("stroke") for p in svg.iter(f"{SVG}path") if p.get("marker-end")}
    assert len(strokes) == 2, strokes  # one colour per sign, written out
    ids = {m.get("id") for m in svg.iter(f"{SVG}marker")}
    assert {p.get("marker-end") for p in svg.iter(f"{SVG}path")} - {None} <= {f"url(#{i})" for i in ids}
    size = browser.execute_script("return document.querySelector('.figure-svg').getBoundingClientRect().toJSON()")
    assert (float(svg.get("width") or 0), float(svg.get("height") or 0)) == pytest.approx(
        (size["width"], size["height"]), abs=1
    )
    png = saved(browser, tmp_path / "png", "png")
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", png[16:24]) == pytest.approx((2 * size["width"], 2 * size["height"]), abs=2)
    assert len(png) > 10_000  # not a blank sheet


def test_a_picture_has_the_colours_of_the_theme(page: Any, tmp_path: Path) -> None:
    browser = page(example_bundle())

    def paper(name: str) -> str | None:
        rect = ET.fromstring(saved(browser, tmp_path / name, "svg")).find(f"{SVG}rect")
        assert rect is not None
        return rect.get("fill")

    click(browser, ".theme")
    light = paper("light")
    click(browser, ".theme")
    assert (light, paper("dark")) == ("rgb(253, 253, 251)", "rgb(20, 22, 26)")


def test_nodes_that_are_active_on_the_prompt_have_a_halo_the_wider_the_denser(page: Any) -> None:
    bundle = live_bundle()
    browser = page(bundle)
    assert browser.execute_script("return document.querySelectorAll('.halo').length") == 0
    halos: list[list[float]] = []
    browser.execute_script(
        "const p = document.querySelector('.lab-prompt'); p.value = arguments[0];"
        "p.dispatchEvent(new Event('input', {bubbles: true}))",
        bundle.task.examples[1].clean,
    )
    for _ in range(400):
        halos = browser.execute_script(
            "return [...document.querySelectorAll('.halo')].map((e) => "
            "[Number(e.getAttribute('height')), Number(getComputedStyle(e).opacity)])"
        )
        if halos:
            break
        time.sleep(0.05)
    assert 1 < len(halos) <= bundle.circuit.n_nodes
    heights, opacities = zip(*sorted(halos), strict=True)
    assert list(opacities) == sorted(opacities)
    assert heights[0] < heights[-1]
    at = (
        "return [...document.querySelectorAll(arguments[0])].map((e) => e.getBoundingClientRect())"
        ".map((b) => [Math.round(b.x + b.width / 2), Math.round(b.y + b.height / 2)].join())"
    )
    assert set(browser.execute_script(at, ".halo")) <= set(browser.execute_script(at, "g.node .back"))
