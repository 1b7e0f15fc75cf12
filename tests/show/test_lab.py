"""A reader asks the page's model, intervenes and takes it back, in a real Chromium, from disk."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from live_bundle import circuit_of, live_bundle, tiny

from gossamer.circuit import Calibration
from gossamer.explain import Change, Said, ask
from gossamer.show import write_page
from gossamer.show.live import Question

pytestmark = pytest.mark.browser

TYPE = (
    "const p = document.querySelector('.lab-prompt'); p.value = arguments[0];"
    "p.dispatchEvent(new Event('input', {bubbles: true}))"
)
SHARES = "return [...document.querySelectorAll('[data-share]')].map((e) => Number(e.dataset.value))"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_page(live_bundle(), tmp_path_factory.mktemp("lab") / "page.html").as_uri()


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """The page when it has answered its example; afterwards it has logged no error and asked for nothing."""
    browser.set_window_size(1280, 900)
    browser.get(address)
    until(lambda: len(shares(browser)) == 2)
    yield browser
    assert [e for e in browser.get_log("browser") if e["level"] == "SEVERE"] == []
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0


def until(holds: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.02)


def shares(page: Any) -> list[float]:
    """What the first candidate has of the two: in the model, in the circuit."""
    return list(page.execute_script(SHARES))


def click(page: Any, text: str) -> None:
    """Press the button of this text (from the keyboard: focus and a click, as Enter makes)."""
    page.execute_script(
        "const b = [...document.querySelectorAll('.lab button')].find((b) => b.textContent.trim() === arguments[0]);"
        "b.focus(); b.click()",
        text,
    )


def test_probabilities_move_together_as_one_types(page: Any) -> None:
    example = live_bundle().task.examples[0]
    assert min(shares(page)) > 0.8
    page.execute_script(TYPE, 'warnings.warn("no such file here')
    until(lambda: max(shares(page)) < 0.2)
    words = page.execute_script("return [...document.querySelectorAll('.lab-token')].map((e) => e.textContent)")
    assert words[0] == "<|endoftext|>"
    assert "".join(words[1:]).replace("␣", " ") == 'warnings.warn("no such file here'
    assert page.execute_script("return document.querySelector('.lab-error').hidden")
    before = shares(page)
    page.execute_script(TYPE, "x = 1\n" * 200)
    until(lambda: not page.execute_script("return document.querySelector('.lab-error').hidden"))
    assert "at most 128 tokens" in page.execute_script("return document.querySelector('.lab-error').textContent")
    assert shares(page) == before
    page.execute_script(TYPE, example.clean)
    until(lambda: min(shares(page)) > 0.8)
    assert "omputed in this page" in page.execute_script("return document.body.innerText")


def test_ablating_the_node_that_matters_lowers_the_answer_and_undo_restores_it(page: Any) -> None:
    circuit, example = live_bundle().circuit, live_bundle().task.examples[0]
    node = max(circuit.nodes, key=lambda n: n.ablation_effect_nats or 0)
    page.execute_script(TYPE, example.counterfactual)
    until(lambda: max(shares(page)) < 0.2)
    page.execute_script(
        "document.querySelector(`g.node[data-site='${arguments[0]}']`).dispatchEvent("
        "new MouseEvent('click', {bubbles: true}))",
        node.site,
    )
    assert page.execute_script("return document.querySelector('.lab select[aria-label=Node]').value") == node.site
    whole = shares(page)
    click(page, "Ablate")
    until(lambda: shares(page) != whole)
    ablated = shares(page)
    assert ablated[1] > whole[1] + 0.05, "the right answer, the second of the two, falls"
    text = page.execute_script("return document.querySelector('.lab').innerText")
    assert f"ablate {node.site}" in text
    assert "→" in text, "before and after"
    click(page, "Undo")
    until(lambda: shares(page) == whole)
    click(page, "Redo")
    until(lambda: shares(page) == ablated)
    edge = max((e for e in circuit.edges if e.dst == node.site), key=lambda e: abs(e.weight or 0))
    click(page, "Cut")
    until(lambda: shares(page) != ablated)
    assert f"cut {edge.src} → {node.site}" in page.execute_script(
        "return document.querySelector('.lab-done').innerText"
    )
    page.execute_script("document.querySelectorAll('.lab-done .close')[0].click()")
    page.execute_script("document.querySelectorAll('.lab-done .close')[0].click()")
    until(lambda: shares(page) == whole)


def test_clamping_the_node_that_is_suggested_flips_the_answer(page: Any) -> None:
    whole = shares(page)
    assert min(whole) > 0.5
    until(lambda: bool(page.execute_script("return document.querySelector('.lab-flip')")))
    page.execute_script("document.querySelector('.lab-flip').click()")
    until(lambda: max(shares(page)) < 0.5)
    assert page.execute_script("return document.querySelectorAll('.lab-done li').length") == 1
    click(page, "Undo all")
    until(lambda: shares(page) == whole)


def test_what_a_clamp_does_to_this_prompt_is_asked_before_it_is_said(page: Any) -> None:
    bundle = live_bundle()
    example, fit = bundle.task.examples[0], bundle.circuit.calibration
    circuit = replace(
        circuit_of(tiny(), [node.site for node in bundle.circuit.nodes]),
        calibration=None if fit is None else Calibration(scale=fit.scale, shift=fit.shift),
    )
    two = (example.answer, example.wrong_answer)

    def first(said: Said) -> bool:
        return said.candidates[0] >= said.candidates[1]

    until(lambda: bool(page.execute_script("return document.querySelector('.lab-flip')")))
    seen = [ask(tiny(), circuit, text) for text in (example.clean, example.counterfactual)]
    told = set()
    for text in (example.clean, example.counterfactual, "x = 1", "print(", "def f('", 'a = b("c'):
        page.execute_script(TYPE, text)
        page.execute_script("document.querySelector('.lab-suggestion').lastChild.textContent = ''")
        until(
            lambda: bool(page.execute_script("return document.querySelector('.lab-suggestion').lastChild.textContent"))
        )
        whole = ask(tiny(), circuit, text, (), two)
        offered = page.execute_script("return document.querySelector('.lab-flip').textContent")
        site, value = offered.removeprefix("Clamp ").replace("\u2212", "-").split(" to ")
        turned = ask(tiny(), circuit, text, [Change("clamp", site, float(value))], two)
        flips = [first(whole.model) != first(turned.model), first(whole.circuit) != first(turned.circuit)]
        hidden, claim = page.execute_script(
            "const s = document.querySelector('.lab-suggestion'); return [s.hidden, s.lastChild.textContent]"
        )
        assert hidden == (not any(flips)), text
        if all(flips):
            assert "the answer flips" in claim
        elif any(flips):
            assert f"the {'circuit' if flips[1] else 'model'}'s answer flips, the" in claim
        told.add(tuple(flips))
        at = int((seen[0].circuit.traces[site] - seen[1].circuit.traces[site]).abs().argmax())
        other = seen[first(whole.model)]
        assert f"{float(other.circuit.traces[site][at]):.3g}" == f"{float(value):.3g}"
        assert f"is at {tiny().tokenizer.decode([other.tokens[at]])} in a prompt of the other answer" in claim
        assert at > 0, "not what is before every prompt"
    assert len(told) > 1, told
    page.execute_script("document.querySelector('.lab-suggestion').hidden = false")
    page.execute_script(
        "const c = document.querySelector('.lab-candidate'); c.value = '(';"
        "c.dispatchEvent(new Event('input', {bubbles: true}))"
    )
    until(lambda: bool(page.execute_script("return document.querySelector('.lab-suggestion').hidden")))


def test_what_is_taken_back_leaves_the_field_and_the_focus_stays_with_what_can_be_done(page: Any) -> None:
    focused = "return document.activeElement.ariaLabel || document.activeElement.textContent"
    field = "return document.querySelector('.lab-number-in').value"
    until(lambda: bool(page.execute_script("return document.querySelector('.lab-flip')")))
    page.execute_script("const b = document.querySelector('.lab-flip'); b.focus(); b.click()")
    clamped = page.execute_script(field)
    assert f"to {clamped}".replace("-", "\u2212") in page.execute_script(
        "return document.querySelector('.lab-done').innerText"
    )
    assert page.execute_script(focused) == "Undo"
    click(page, "Undo")
    mean = page.execute_script(field)
    assert mean != clamped
    assert page.execute_script("return document.querySelector('.lab input[type=range]').value") == mean
    assert page.execute_script(focused) == "Redo"
    click(page, "Redo")
    assert (page.execute_script(field), page.execute_script(focused)) == (clamped, "Undo")
    click(page, "Undo all")
    assert (page.execute_script(field), page.execute_script(focused)) == (mean, "Undo")
    click(page, "Undo")
    click(page, "Cut")
    take_back = "const b = document.querySelector('.lab-done .close'); b.focus(); b.click()"
    page.execute_script(take_back)
    assert page.execute_script(field) == mean
    assert page.execute_script(focused).startswith("Take back: cut ")
    page.execute_script(take_back)
    assert page.execute_script(focused) == "Undo"


def test_tokens_are_reached_by_keyboard_and_activations_and_attention_are_text(page: Any) -> None:
    circuit = live_bundle().circuit
    page.execute_script("document.querySelector('.lab-deep').open = true")
    until(lambda: bool(page.execute_script("return document.querySelector('.lab-traces tbody tr')")))
    told = page.execute_script("return document.querySelector('.lab-insides').innerText")
    assert all(node.site in told for node in circuit.nodes)
    heads = {f"a{n.layer}.h{n.head}" for n in circuit.nodes if n.head is not None}
    assert heads
    assert all(f"{head} from" in told for head in heads)
    checked = "return [...document.querySelectorAll('.lab-token')].map((e) => e.getAttribute('aria-checked'))"
    page.execute_script(
        "const t = document.querySelector('.lab-token[aria-checked=true]'); t.focus();"
        "t.dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowLeft', bubbles: true}))"
    )
    assert page.execute_script(checked)[-2:] == ["true", "false"]
    assert page.execute_script("return document.activeElement.getAttribute('aria-checked')") == "true"
    assert page.execute_script("return document.querySelector('.lab-insides').innerText") != told


def test_a_recipe_is_loaded_and_what_is_none_is_refused(page: Any, tmp_path: Path) -> None:
    node = live_bundle().circuit.nodes[0].site
    clamp = {"kind": "clamp", "site": node, "value": 3.5}
    recipe = {"text": "print('hello", "candidates": ["')", '")'], "interventions": [clamp]}
    field = page.find_element("css selector", ".lab input[type=file]")
    for name, content, says in (
        ("good", recipe, f"clamp {node} to 3.5"), ("bad", {**recipe, "interventions": [{"kind": "burn"}]}, "no recipe"),
    ):  # fmt: skip
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
        field.send_keys(str(tmp_path / f"{name}.json"))
        words = says.replace("no recipe", "not a recipe")
        until(lambda words=words: words in page.execute_script("return document.querySelector('.lab').innerText"))  # type: ignore[misc]
    assert page.execute_script("return document.querySelector('.lab-prompt').value") == "print('hello"
    page.execute_script(
        "URL.createObjectURL = (blob) => { window.saved = blob; return '#'; };"
        "HTMLAnchorElement.prototype.click = () => undefined"
    )
    click(page, "Save as recipe")
    saved = Question.model_validate_json(page.execute_async_script("window.saved.text().then(arguments[0])"))
    assert saved == Question.model_validate(recipe)
    assert page.execute_script("return document.querySelectorAll('.lab-done li').length") == 1


@pytest.mark.parametrize("width", [1280, 800])
def test_the_lab_fits_the_width(page: Any, width: int) -> None:
    page.set_window_size(width, 900)
    page.execute_script("document.querySelectorAll('.lab details').forEach((d) => { d.open = true; })")
    assert page.execute_script("const e = document.documentElement; return e.scrollWidth - e.clientWidth") <= 0
    unnamed = page.execute_script(
        "return [...document.querySelectorAll('.lab :is(input, select, textarea)')]"
        ".filter((e) => !e.ariaLabel && !e.closest('label')).length"
    )
    assert unnamed == 0
