"""The checked-in page's circuit with its model beside it: what the page's engine is tested on."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from gossamer.circuit import Circuit
from gossamer.commands.page_model import page_model
from gossamer.models import LoadedModel, from_pretrained
from gossamer.record import Record
from gossamer.show.bundle import Bundle
from gossamer.site import Site

ROOT = Path(__file__).parents[2]
NODE = """
import { readFileSync } from "node:fs";
const source = readFileSync(process.argv[1], "base64");
const { pageEngine, Tokenizer } = await import("data:text/javascript;base64," + source);
const { texts, tokenizer, asked } = JSON.parse(readFileSync(0, "utf8"));
const reader = tokenizer && new Tokenizer(tokenizer);
const answers = [];
for (const { bundle, questions } of asked) {
  const engine = pageEngine(bundle);
  for (const question of questions) {
    answers.push(await engine.ask(question).catch((error) => ({ error: error.message })));
  }
}
const ids = texts.map((text) => reader.encode(text));
console.log(JSON.stringify({ answers, ids, pieces: ids.map((own) => own.map((id) => reader.decode(id))) }));
"""


@cache
def tiny() -> LoadedModel:
    return from_pretrained("tiny")


@cache
def live_bundle() -> Bundle:
    """The bundle of docs/demo/page.html with the shipped model in it."""
    page = (ROOT / "docs" / "demo" / "page.html").read_text(encoding="utf-8")
    data = re.search(r'<script type="application/json" id="gossamer-bundle">(.*?)</script>', page, re.DOTALL)
    assert data is not None
    found = Bundle.model_validate_json(data.group(1)).model_copy(update={"live": page_model(tiny())})
    assert found.live is not None
    return found


def circuit_of(model: LoadedModel, sites: list[str]) -> Circuit:
    """The circuit of these nodes and all edges between them."""
    graph = model.graph()
    nodes = [model.layout.number(Site.parse(site)) for site in sites]
    record = Record(method="by-hand", config={}, seed=0, model=model.name)
    return Circuit.from_nodes(graph, model.edge_weights(graph), nodes, record=record)


def in_node(asked: Sequence[Any] = (), texts: Sequence[str] = (), tokenizer: object = None) -> dict[str, Any]:
    """What the built view answers in node: asked are {bundle, questions}, texts are cut into tokens."""
    given = json.dumps({"asked": asked, "texts": texts, "tokenizer": tokenizer})
    view = ROOT / "src" / "gossamer" / "show" / "view.js"
    found = subprocess.run(
        ["node", "--input-type=module", "-e", NODE, str(view)], input=given, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr[-2000:]
    return dict(json.loads(found.stdout))
