"""The first three minutes with the checked-in page, from disk and from the server, as a reader spends them."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.keys import Keys

from gossamer.show import read_bundle, render_page
from gossamer.show.desk import Desk
from gossamer.show.server import listen, server_at

PAGE = Path(__file__).parents[2] / "docs" / "demo" / "page.html"
SHARES = "return [...document.querySelectorAll('[data-share]')].map((e) => Number(e.dataset.value))"
TYPE = (
    "const p = document.querySelector('.lab-prompt'); p.value = arguments[0];"
    "p.dispatchEvent(new Event('input', {bubbles: true}))"
)


def test_the_checked_in_page_is_what_the_present_view_makes() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text == render_page(read_bundle(PAGE)), "run `make page`"
    assert len(text.encode()) < 6 * 2**20


@pytest.fixture(params=["disk", "server"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "disk":
        yield PAGE.as_uri()
        return

    def unasked(*_: Any) -> Any:
        raise AssertionError("the page has a model of its own")

    bundle = read_bundle(PAGE)
    place = listen()
    desk = Desk(bundle=bundle, answer=unasked, tokenize=unasked, notes=tmp_path / "notes.json", most_tokens=128)
    server = server_at(place, desk)
    thread = threading.Thread(target=server.run, args=([place.socket],), daemon=True)
    thread.start()
    yield place.url
    server.should_exit = True
    thread.join(10)
    place.socket.close()


@pytest.mark.browser
def test_the_first_three_minutes(browser: Any, address: str, tmp_path: Path) -> None:
    js: Callable[..., Any] = browser.execute_script
    browser.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})

    def until(holds: Callable[[], Any]) -> None:
        end = time.monotonic() + 20
        while not holds():
            assert time.monotonic() < end, "it did not come about"
            time.sleep(0.02)

    def button(text: str, where: str = ".gossamer") -> None:
        js(
            "[...document.querySelectorAll(arguments[0] + ' button')]"
            ".find((b) => !b.closest('[hidden]') && b.textContent.trim() === arguments[1]).click()", where, text,
        )  # fmt: skip

    browser.set_window_size(1280, 900)
    browser.get(address)
    until(lambda: len(js(SHARES)) == 2)
    bundle = read_bundle(PAGE)

    # Which quote closes my string? Both probabilities move, and nodes light up.
    js(TYPE, "    raise ValueError('no such thing here")
    until(lambda: min(js(SHARES)) > 0.5)
    js(TYPE, '    raise ValueError("no such thing here')
    until(lambda: max(js(SHARES)) < 0.5)
    until(lambda: js("return document.querySelectorAll('.stage .halo').length") > 0)
    whole = js(SHARES)

    # The node that matters most: found by search, its card read, ablated; the right answer falls; undone.
    node = max(bundle.circuit.nodes, key=lambda n: n.ablation_effect_nats or 0)
    search = browser.find_element("css selector", ".stage:not([hidden]) [role=combobox]")
    search.send_keys(node.site, Keys.ENTER)
    card = js("return document.querySelector('.stage:not([hidden]) [data-card]').innerText")
    assert node.site in card
    assert f"{node.ablation_effect_nats:.3g}" in card
    button("Ablate", ".lab")
    until(lambda: js(SHARES)[1] > whole[1] + 0.1)
    button("Undo", ".lab")
    until(lambda: js(SHARES) == whole)

    # Clamp the quote type: the answer flips.
    until(lambda: js("return document.querySelector('.lab-flip')"))
    js("document.querySelector('.lab-flip').click()")
    until(lambda: min(js(SHARES)) > 0.5)
    button("Undo all", ".lab")
    until(lambda: js(SHARES) == whole)

    # Another size, the twin, and the same again from the address.
    slider = browser.find_element("css selector", ".cut input")
    slider.send_keys(Keys.ARROW_RIGHT)
    button("Both")
    assert bundle.other is not None
    drawn = "return [...document.querySelectorAll('.pane svg')].map((e) => e.querySelectorAll('.mini').length)"
    until(lambda: len(js(drawn)) == 2)
    assert js(drawn)[1] == len(bundle.other.outline.nodes)
    state = (
        "return [location.hash, document.querySelector('.mode[aria-pressed=true]').dataset.mode, "
        "document.querySelector('.cut input').value, document.querySelector('.lab-prompt').value]"
    )
    until(lambda: "compare=both" in js("return location.hash"))
    before = js(state)
    assert before[1] == "both"
    browser.refresh()
    until(lambda: len(js(SHARES)) == 2)
    assert js(state) == before

    # Is it real? The failures are there, said in words.
    verdicts = [e.verdict for e in bundle.evidence]
    assert "fail" in verdicts
    said = js("return document.querySelector('[data-part=trial]').innerText").splitlines()
    assert said.count("fail") == verdicts.count("fail")

    # Away with the picture and the graph.
    button("Circuit")
    button("PNG")
    js("[...document.querySelectorAll('button')].find((b) => /JSON/.test(b.textContent) && !b.disabled).click()")
    until(lambda: len([p for p in tmp_path.iterdir() if p.suffix in (".png", ".json") and p.stat().st_size]) >= 2)
    (picture,) = tmp_path.glob("*.png")
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    graphs = [p for p in tmp_path.glob("*.json") if p.name != "notes.json"]
    assert json.loads(graphs[0].read_text())["nodes"]

    assert [e for e in browser.get_log("browser") if e["level"] == "SEVERE"] == []
    if address.startswith("file:"):
        assert js("return performance.getEntriesByType('resource').length") == 0
