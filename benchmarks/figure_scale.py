"""The page's figure at scale: opening, panning and sharp redraw, in headless Chromium with software rendering.

    python benchmarks/figure_scale.py [--edges 100000] [--nodes 20000] [--layers 12] [--pans 60] [--keep PAGE] [--json]

A synthetic circuit (random legal edges, invented weights) is written as one page and opened from disk. Measured: the
bundle checked from its JSON and the page written (seconds of processor time, Python); the page from navigation to a
drawn figure; the median, 95th percentile and largest time between frames while the figure is dragged; and the time
from the end of the drag to the sharp redraw. The same drag on an empty canvas of the same size is measured beside it.
Both are done for the figure as it opens (folded), with every edge drawn (all), and of these zoomed in five times.
cpu_ms is the processor time of all of Chromium's processes over the same span (10 ms steps), which a busy machine
changes less than the clock.
`differs`: the raster on the screen after the drag against the picture that the page draws in one piece when PNG is
pressed, at two pixels to a CSS pixel: the largest difference of a value (0 to 255) and the share over 8.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from gossamer.show import render_page, write_page
from gossamer.show.bundle import (
    Bundle,
    Carry,
    CircuitView,
    Edge,
    ExamplePair,
    ModelView,
    NodeView,
    TaskView,
)

WIDTHS = {
    "attn.act_in": 3, "attn.q": 1, "attn.k": 1, "attn.v": 2, "attn.resid_delta": 2,
    "mlp.act_in": 3, "mlp.post_act": 8, "mlp.resid_delta": 3,
}  # fmt: skip
JOINS = (
    ("attn.act_in", "attn.q", "attn.c_attn"), ("attn.act_in", "attn.k", "attn.c_attn"),
    ("attn.act_in", "attn.v", "attn.c_attn"), ("attn.v", "attn.resid_delta", "attn.c_proj"),
    ("mlp.act_in", "mlp.post_act", "mlp.c_fc"), ("mlp.post_act", "mlp.resid_delta", "mlp.c_proj"),
)  # fmt: skip
D_HEAD = 64
SHARES = (1, 1, 1, 1, 4, 4)


def _node(site: str, rng: random.Random) -> NodeView:
    location, index = site.rsplit(":", 1)
    final = location == "final_resid"
    return NodeView(
        site=site, location=location, layer=None if final else int(location.split(".")[0]), index=int(index),
        head=int(index) // D_HEAD if location.endswith((".q", ".k", ".v")) else None,
        ablation_effect_nats=round(rng.expovariate(40), 4), mean=0.0, mean_on_answer=(0.0, 0.0),
        direct_logit=round(rng.gauss(0, 1), 3) if final else None, top_tokens_in=(), top_tokens_out=(), examples=(),
        task_examples=(),
    )  # fmt: skip


def large_bundle(n_edges: int, n_nodes: int, n_layer: int = 12, seed: int = 0) -> Bundle:
    """A circuit of exactly `n_edges` random legal edges between about `n_nodes` nodes of `n_layer` layers.

    Residual channels are shared by the layers, as in a real one; nodes have no example texts.
    """
    rng = random.Random(seed)
    unit = n_nodes / (n_layer * sum(WIDTHS.values()))
    channels = range(max(8, round(6 * unit)))
    lists: dict[str, list[int]] = {"final_resid": sorted(rng.sample(channels, max(4, len(channels) // 10)))}
    for layer in range(n_layer):
        for part, width in WIDTHS.items():
            n = max(2, round(width * unit))
            residual = part.endswith(("act_in", "resid_delta"))
            pool = channels if residual else range(4 * n)
            lists[f"{layer}.{part}"] = sorted(rng.sample(pool, min(n, len(pool))))
    edges: dict[tuple[str, str], Edge] = {}
    while len(edges) < n_edges:
        layer = rng.randrange(n_layer)
        src, dst, matrix = rng.choices(JOINS, SHARES)[0]
        a, b = rng.choice(lists[f"{layer}.{src}"]), rng.choice(lists[f"{layer}.{dst}"])
        ends = (f"{layer}.{src}:{a}", f"{layer}.{dst}:{b}")
        if ends not in edges:
            weight = round(rng.choice((1, 1, -1)) * rng.lognormvariate(-1.3, 0.7), 4)
            edges[ends] = Edge(src=ends[0], dst=ends[1], weight=weight, matrix=f"{layer}.{matrix}")
    nodes = tuple(_node(f"{location}:{c}", rng) for location, cs in lists.items() for c in cs)
    reads = [f"{i}.{part}" for i in range(n_layer) for part in ("attn.act_in", "mlp.act_in")] + ["final_resid"]
    order = {location: i for i, location in enumerate([*(k for k in lists if k != "final_resid"), "final_resid"])}
    sets = {location: set(cs) for location, cs in lists.items()}
    carries = tuple(
        Carry(src=f"{i}.{part}:{c}", dst=f"{read}:{c}")
        for i in range(n_layer) for part in ("attn.resid_delta", "mlp.resid_delta")
        for read in [r for r in reads if order[r] > order[f"{i}.{part}"]][:2] for c in lists[f"{i}.{part}"]
        if c in sets[read]
    )  # fmt: skip
    return Bundle(
        format_version=1, title=f"{n_edges:,} random edges", gossamer_version="0", twin=None, evidence=(), curve=(),
        task=TaskView(name="synthetic", description="None: the edges are random", examples=(
            ExamplePair(clean="a", counterfactual="b", answer="c", wrong_answer="d"),)),
        model=ModelView(name="synthetic", n_layer=n_layer, d_model=len(channels), n_head=16, d_head=D_HEAD, d_mlp=4096,
                        vocab_size=1, nonzero_weights=None, total_weights=1, val_loss_nats=None),
        circuit=CircuitView(
            reached=True, target_loss_nats=0.0, loss_train_nats=0.0, loss_heldout_nats=0.0, n_nodes=len(nodes),
            n_edges=n_edges, calibration=None, nodes=nodes, edges=tuple(edges.values()), carries=carries,
        ),
        record={"method": "random", "seed": seed},
    )  # fmt: skip


def start_browser(ratio: int = 1) -> Any:
    """Headless Chromium without a GPU; `ratio` pixels to a CSS pixel."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        raise SystemExit("needs chromium and chromedriver on the path")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (
        "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
        "--disable-background-networking", "--disable-component-update", "--window-size=1280,900",
        f"--force-device-scale-factor={ratio}",
    ):  # fmt: skip
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options, service=Service(driver))


# Drags the element by one step per frame; calls back with the times between frames and from the end to sharp, in ms.
DRAG = """
const [selector, steps, dx, dy, done] = arguments;
const at = document.querySelector(selector);
const box = at.getBoundingClientRect();
const send = (type, i) => at.dispatchEvent(new PointerEvent(type, {
  bubbles: true, button: 0, pointerId: 1, clientX: box.left + 400 + i * dx, clientY: box.top + 200 + i * dy }));
at.setPointerCapture = () => {};
const frames = [];
let last = 0, i = 0;
send("pointerdown", 0);
const sharp = (from) => {
  const tick = () => document.querySelector(".figure-canvas.blurred")
    ? setTimeout(tick, 4) : requestAnimationFrame(() => done({ frames, sharp: performance.now() - from }));
  tick();
};
const frame = (now) => {
  if (last) frames.push(now - last);
  last = now;
  if (i++ < steps) { send("pointermove", i); requestAnimationFrame(frame); }
  else { send("pointerup", i); sharp(performance.now()); }
};
requestAnimationFrame(frame);
"""

# An empty canvas that is moved as the page moves its raster.
EMPTY = """
<!doctype html><body style="margin:0"><div id="place" style="position:relative;overflow:hidden;height:800px">
<canvas id="c" width="1544" height="1120" style="position:absolute;will-change:transform"></canvas></div><script>
const at = document.getElementById("place"), c = document.getElementById("c"); let grip = null;
c.getContext("2d");
at.addEventListener("pointerdown", (e) => { grip = [e.clientX, e.clientY]; });
at.addEventListener("pointermove", (e) => {
  c.style.transform = `translate(${e.clientX - grip[0]}px, ${e.clientY - grip[1]}px)`; });
</script>
"""

READY = """
const done = arguments[0];
const tick = () => {
  const at = document.querySelector(".figure-surface");
  if (at && at.firstChild && !document.querySelector(".figure-canvas.blurred"))
    requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now())));
  else setTimeout(tick, 5);
};
tick();
"""

ALL_EDGES = """
const i = document.querySelector(".strength input"); i.value = 100;
i.dispatchEvent(new Event("input", { bubbles: true }));
const done = arguments[0]; const start = performance.now();
const tick = () => {
  const c = document.querySelector(".figure-canvas");
  if (c && !c.classList.contains("blurred")) requestAnimationFrame(() => done(performance.now() - start));
  else setTimeout(tick, 10);
};
setTimeout(tick, 400);
"""

ZOOM = """
const [x, y, wheel, done] = arguments;
const at = document.querySelector(".figure-surface"), box = at.getBoundingClientRect(), start = performance.now();
at.dispatchEvent(new WheelEvent("wheel", { bubbles: true, cancelable: true, ctrlKey: true, deltaY: wheel,
  clientX: box.left + x, clientY: box.top + y }));
const tick = () => document.querySelector(".figure-canvas.blurred")
  ? setTimeout(tick, 4) : requestAnimationFrame(() => done(performance.now() - start));
tick();
"""

# The raster on the screen against the picture that PNG saves: drawn afresh, in one piece, at twice the size of CSS.
COMPARE = """
const done = arguments[0];
const make = URL.createObjectURL;
URL.createObjectURL = (blob) => {
  URL.createObjectURL = make;
  createImageBitmap(blob).then((whole) => {
    const [w, t] = [whole.width, whole.height];
    const flat = document.createElement("canvas");
    [flat.width, flat.height] = [w, t];
    const g = flat.getContext("2d", { willReadFrequently: true });
    g.drawImage(whole, 0, 0);
    const a = g.getImageData(0, 0, w, t).data;
    const paper = a.slice(0, 4);
    const front = document.querySelector(".raster:not([hidden])"), over = document.querySelector(".over");
    g.fillStyle = `rgb(${paper[0]} ${paper[1]} ${paper[2]})`;
    g.fillStyle = getComputedStyle(document.querySelector(".gossamer")).backgroundColor;
    g.fillRect(0, 0, w, t);
    const margin = (front.width - over.width) / 2;
    g.drawImage(front, -margin, -(front.height - over.height) / 2);
    g.drawImage(over, 0, 0);
    const b = g.getImageData(0, 0, w, t).data;
    let most = 0, off = 0, inked = 0;
    for (let i = 0; i < a.length; i++) {
      const d = Math.abs(a[i] - b[i]);
      if (d > most) most = d;
      if (d > 8) off += 1;
      if (i % 4 === 0 && Math.abs(a[i] - paper[0]) > 8) inked += 1;
    }
    done({ most, off, inked, width: w, height: t, same: over.width === w && over.height === t });
  });
  return make(blob);
};
[...document.querySelectorAll(".figure-bar button")].find((b) => b.textContent === "PNG").click();
"""


def processor_ms(browser: Any) -> int:
    """Processor time so far of the driver and of every process under it, in ms."""
    parents: dict[int, int] = {}
    spent: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue  # it ended
        pid = int(stat.parent.name)
        parents[pid], spent[pid] = int(fields[1]), int(fields[11]) + int(fields[12])
    root = browser.service.process.pid

    def under(pid: int) -> bool:
        while pid not in (root, 0):
            pid = parents.get(pid, 0)
        return pid == root

    return 10 * sum(ticks for pid, ticks in spent.items() if under(pid))


def drag(browser: Any, selector: str, steps: int, dx: int, dy: int) -> dict[str, Any]:
    before = processor_ms(browser)
    found = browser.execute_async_script(DRAG, selector, steps, dx, dy)
    frames = sorted(found["frames"])
    return {
        "median_ms": statistics.median(frames), "p95_ms": frames[int(0.95 * (len(frames) - 1))],
        "largest_ms": frames[-1], "sharp_ms": found["sharp"], "cpu_ms": processor_ms(browser) - before,
    }  # fmt: skip


def difference(browser: Any) -> dict[str, float]:
    found = browser.execute_async_script(COMPARE)
    return {"most": found["most"], "share_over_8": found["off"] / (4 * found["width"] * found["height"])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edges", type=int, default=100_000)
    parser.add_argument("--nodes", type=int, default=20_000)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--pans", type=int, default=60, help="frames of the drag")
    parser.add_argument("--keep", type=Path, help="write the page here and keep it")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    out: dict[str, Any] = {}
    bundle = large_bundle(given.edges, given.nodes, given.layers)
    text = bundle.model_dump_json()
    started = time.process_time()
    Bundle.model_validate_json(text)
    out["check_s"] = time.process_time() - started
    started = time.process_time()
    out["page_mib"] = len(render_page(bundle).encode()) / 2**20
    out["render_s"] = time.process_time() - started
    out["nodes"], out["edges"] = bundle.circuit.n_nodes, bundle.circuit.n_edges
    with tempfile.TemporaryDirectory() as folder:
        page = write_page(bundle, (given.keep or Path(folder) / "page.html").resolve())
        empty = Path(folder) / "empty.html"
        empty.write_text(EMPTY)
        browser = start_browser()
        browser.set_script_timeout(120)
        try:
            browser.get(empty.as_uri())
            drag(browser, "#place", 10, 2, 1)
            out["empty"] = drag(browser, "#place", given.pans, 2, 1)
            before = processor_ms(browser)
            browser.get(page.as_uri())
            out["open_ms"] = browser.execute_async_script(READY)
            out["open_cpu_ms"] = processor_ms(browser) - before
            out["folded"] = drag(browser, ".figure-surface", given.pans, 2, 1)
            before = processor_ms(browser)
            out["unfold_ms"] = browser.execute_async_script(ALL_EDGES)
            out["unfold_cpu_ms"] = processor_ms(browser) - before
            out["all"] = drag(browser, ".figure-surface", given.pans, 2, 1)
            out["zoom_sharp_ms"] = browser.execute_async_script(ZOOM, 500, 300, -400)
            out["all_zoomed"] = drag(browser, ".figure-surface", given.pans, -3, -2)
            errors = [e["message"] for e in browser.get_log("browser") if e["level"] == "SEVERE"]
        finally:
            browser.quit()
        browser = start_browser(ratio=2)
        browser.set_script_timeout(120)
        try:
            browser.get(page.as_uri())
            browser.execute_async_script(READY)
            browser.execute_async_script(ALL_EDGES)
            drag(browser, ".figure-surface", 7, 3, 2)
            out["differs"] = difference(browser)
            browser.execute_async_script(ZOOM, 500, 300, -400)
            drag(browser, ".figure-surface", 7, -5, 3)
            out["differs_zoomed"] = difference(browser)
        finally:
            browser.quit()
    if given.json:
        print(json.dumps(out))
    else:
        for name, value in out.items():
            parts = value if isinstance(value, dict) else {"": value}
            print(f"{name}:", ", ".join(f"{key} {number:.4g}".strip() for key, number in parts.items()))
    if errors:
        sys.exit(f"the console has errors: {errors[:3]}")


if __name__ == "__main__":
    main()
