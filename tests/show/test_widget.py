"""The notebook widget: in an executed notebook it holds the page's module and the bundle, and draws the same page."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import nbformat
import pytest
from example_bundle import example_bundle
from nbclient import NotebookClient

from gossamer.errors import Unsupported
from gossamer.show import write_page
from gossamer.show.desk import Desk
from gossamer.show.live import Answer, Question, Reading
from gossamer.show.page import view_source
from gossamer.show.widget import page, reply

STATE = "application/vnd.jupyter.widget-state+json"
VIEW = "application/vnd.jupyter.widget-view+json"
NOTEBOOK = Path(__file__).parents[2] / "docs" / "notebook" / "circuit.ipynb"


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a notebook's front end is given to show the cell of docs/notebook/circuit.ipynb, executed."""
    folder = tmp_path_factory.mktemp("notebook")
    (folder / "runs" / "demo").mkdir(parents=True)
    (folder / "runs" / "demo" / "bundle.json").write_text(example_bundle().model_dump_json())
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    done = NotebookClient(notebook, timeout=60, resources={"metadata": {"path": str(folder)}}).execute()
    shown = [o["data"][VIEW]["model_id"] for c in done.cells for o in c.get("outputs", ()) if VIEW in o.get("data", {})]
    assert len(shown) == 1
    return dict(done.metadata["widgets"][STATE]["state"][shown[0]]["state"])


def test_an_executed_notebook_holds_the_same_module_and_bundle(state: dict[str, Any]) -> None:
    assert state["_esm"] == view_source()
    assert state["bundle"] == json.loads(example_bundle().model_dump_json())
    assert state["asks"] is True


@pytest.mark.browser
def test_the_widget_draws_the_pages_elements(state: dict[str, Any], browser: Any, tmp_path: Path) -> None:
    """The module as anywidget runs it: its default export, given a model of the synced traits; against the page.

    What differs is who answers (the page holds no model, the widget asks the kernel), where notes are kept, and that a
    cell has no address to share.
    """

    def drawn(path: Path) -> tuple[str, str]:
        browser.set_window_size(1280, 900)
        browser.get(path.as_uri())
        deadline = time.monotonic() + 10
        while not browser.execute_script("return document.querySelector('.gossamer footer')"):
            assert time.monotonic() < deadline
        found = browser.execute_script("""
            const root = document.querySelector('.gossamer').cloneNode(true);
            const asking = [...root.querySelectorAll('[data-part=ask], footer, .note-kept, .share')];
            for (const part of asking) part.remove();
            return [root.outerHTML, asking.map((part) => part.textContent).join('')];
        """)
        assert [e for e in browser.get_log("browser") if e["level"] == "SEVERE"] == []
        return found[0], found[1]

    host = tmp_path / "host.html"
    traits = json.dumps(state).replace("<", "\\u003c")
    host.write_text(
        '<!doctype html><html lang="en"><meta charset="utf-8"><link rel="icon" href="data:,">'
        f'<body style="margin:0"><div id="cell"></div><script type="module">const traits = {traits};'
        "const module = await import(URL.createObjectURL(new Blob([traits._esm], {type: 'text/javascript'})));"
        "window.sent = [];"
        "const model = {get: (name) => traits[name], on() {}, off() {}, send: (message) => sent.push(message)};"
        "window.clean = module.default.render({model, el: document.getElementById('cell')});</script></html>",
        encoding="utf-8",
    )
    page_html, page_asks = drawn(write_page(example_bundle(), tmp_path / "page.html"))
    cell_html, cell_asks = drawn(host)
    assert len(page_html) > 20_000
    assert cell_html == page_html
    assert "This page is one file and makes no request." in page_asks
    assert "Computed by the notebook's kernel" in cell_asks
    asked = browser.execute_async_script("const done = arguments[0]; setTimeout(() => done(sent), 50)")
    assert {m["what"] for m in asked} >= {"ask", "read notes"}
    assert example_bundle().task.examples[0].clean in [m["body"]["text"] for m in asked if m["what"] == "ask"]
    assert browser.execute_script("window.clean(); return document.getElementById('cell').childElementCount") == 0


def test_the_kernel_answers_messages_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(question: Question) -> Answer:
        if question.text == "refuse":
            raise Unsupported("that", "it has no meaning", "this")
        reading = Reading(top=(), candidates=(), traces=(), patterns=())
        return Answer(tokens=tuple(question.text.split()), model=reading, circuit=reading)

    desk = Desk(bundle=example_bundle(), answer=answer, tokenize=str.split, notes=tmp_path / "notes.json")
    widget, sent = page(desk.bundle, desk), list[Any]()
    monkeypatch.setattr(widget, "send", lambda content, buffers=None: sent.append(content))

    def told(message: Any) -> Any:
        widget._handle_custom_msg(message, [])
        return sent[-1]

    assert told({"id": "v-1", "what": "ask", "body": {"text": "a b"}})["found"]["tokens"] == ["a", "b"]
    assert told({"id": "v-2", "what": "tokenize", "body": {"text": "a b"}}) == {"id": "v-2", "found": ["a", "b"]}
    assert told({"id": 3, "what": "write notes", "body": {"x": "y"}}) == {"id": 3, "found": None}
    assert told({"id": 4, "what": "read notes"}) == {"id": 4, "found": {"x": "y"}}
    assert "that is not supported" in told({"id": 5, "what": "ask", "body": {"text": "refuse"}})["message"]
    for wrong in ({"id": 6, "what": "eval"}, {"what": "ask"}, "ask", None, {"id": 7, "what": "ask", "body": ["a"]},
                  {"id": 8, "what": "write notes", "body": {"x": 1}},
                  {"id": 9, "what": "ask", "body": {"text": "\ud800"}},
                  {"id": 9, "what": "tokenize", "body": {"text": "\ud800"}}):  # fmt: skip
        assert "Expected" in told(wrong)["message"]
    assert reply(desk, {"id": 9, "what": "read notes"})["found"] == {"x": "y"}
    assert page(desk.bundle).asks is False


@pytest.mark.browser
def test_notes_are_not_written_before_they_are_read(browser: Any) -> None:
    """A busy kernel, a cell that is closed or not, edited or not; then the kernel answers what it was sent."""
    browser.get("about:blank")
    bundle = example_bundle().model_dump(mode="json")
    found = browser.execute_async_script(
        """
        const [source, bundle, done] = arguments;
        const run = async (render, typed, closed) => {
          let kept = {circuit: "an hour of work", a: "b"};
          const heard = [], sent = [], el = document.body.appendChild(document.createElement("div"));
          const pause = (ms) => new Promise((r) => setTimeout(r, ms));
          const model = {get: (name) => ({bundle, asks: true})[name], send: (m) => sent.push(m),
                         on: (_, f) => heard.push(f), off: (_, f) => heard.splice(heard.indexOf(f), 1)};
          const clean = render({model, el});
          const note = el.querySelector(".note-text");
          if (typed) {
            note.value = typed;
            note.dispatchEvent(new Event("input", {bubbles: true}));
          }
          if (closed) clean();
          await pause(400);
          const early = sent.filter((m) => m.what === "write notes").length;
          for (let quiet = 0; quiet < 3; quiet++) {
            for (const m of sent.splice(0).filter((m) => m.what.endsWith("notes"))) {
              quiet = 0;
              if (m.what === "write notes") kept = m.body;
              for (const f of [...heard]) f({id: m.id, found: m.what === "read notes" ? kept : null});
            }
            await pause(10);
          }
          const shown = note.value;
          if (!closed) clean();
          await pause(10);
          el.remove();
          return [early, kept, shown, heard.length];
        };
        const cases = [["", true], ["", false], ["new", true], ["new", false]];
        import(URL.createObjectURL(new Blob([source], {type: "text/javascript"}))).then(async (view) => {
          done(await Promise.all(cases.map((one) => run(view.default.render, ...one))));
        }).catch((e) => done(String(e)));
        """,
        view_source(),
        bundle,
    )
    old, new = {"circuit": "an hour of work", "a": "b"}, {"circuit": "new", "a": "b"}
    assert [(early, kept, left) for early, kept, _, left in found] == [(0, kept, 0) for kept in (old, old, new, new)], (
        found
    )
    assert (found[1][2], found[3][2]) == ("an hour of work", "new")


@pytest.mark.browser
def test_an_engine_over_messages_keeps_its_questions_apart(browser: Any) -> None:
    """Two views of one widget: each hears all replies and takes its own, in whatever order they come."""
    browser.get("about:blank")
    found = browser.execute_async_script(
        """
        const [source, done] = arguments;
        import(URL.createObjectURL(new Blob([source], {type: "text/javascript"}))).then(async ({ hosted }) => {
          const heard = [], sent = [];
          const model = {get: (name) => name === "asks", on: (_, f) => heard.push(f), send: (m) => sent.push(m),
                         off: (_, f) => heard.splice(heard.indexOf(f), 1)};
          const views = [hosted(model), hosted(model)];
          const asked = ["a", "b", "c"].map((text, i) => views[i % 2][0].get("engine").tokenize(text));
          const refused = views[0][0].get("notes").read().catch((e) => e.message);
          for (const m of sent.reverse()) {
            const reply = m.what === "tokenize" ? {id: m.id, found: [m.body.text]} : {id: m.id, message: "no"};
            for (const f of [...heard]) f(reply);
          }
          const answers = [...(await Promise.all(asked)), await refused];
          for (const [, leave] of views) leave();
          done([answers, heard.length, views[0][0].get("bundle") ?? null]);
        }).catch((e) => done(String(e)));
        """,
        view_source(),
    )
    assert found == [[["a"], ["b"], ["c"], "no"], 0, False]
