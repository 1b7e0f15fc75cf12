"""Screenshots of a page for the docs: `python docs/screenshots.py [PAGE.html [FOLDER]]` writes FOLDER/page-*.png.

Default: docs/demo/page.html to docs/figures. Needs chromium, chromedriver, selenium and pillow (`pip install -e
'.[dev]'`).
"""

from __future__ import annotations

import base64
import io
import shutil
import sys
from pathlib import Path
from typing import Any

from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

HERE = Path(__file__).parent
SHOTS: dict[str, tuple[str, str, int]] = {  # name -> (hash of the page, what of it, width of the window)
    "circuit": ("", ".stage-figure", 1320),
    "card": ("#selected={node}", ".panel", 1040),
    "trial": ("", "[data-part=trial]", 1320),
    "curve": ("#cut={cut}", "[data-part=curve]", 1320),
    "compare": ("#compare=both", ".comparison", 1320),
}
CHOICES = """
const b = JSON.parse(document.getElementById('gossamer-bundle').textContent), c = b.circuit;
const best = [...c.nodes].sort((x, y) => y.ablation_effect_nats - x.ablation_effect_nats)[0];
return [best.site, Math.max(...b.curve.map((p) => p.nodes).filter((n) => n < 0.8 * c.n_nodes))];
"""  # the node that matters most, and a cut that has lost a fifth of the circuit or more
MARGIN = 20
SHARPNESS = 1.5  # device pixels per pixel
COLOURS = 96
LARGEST = 300 * 1024
TALLEST = 1700  # pixels of the page: a longer part is cut off


def browser() -> Any:
    """Headless Chromium without scroll bars."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        raise SystemExit("Expected chromium and chromedriver on the path; install them first.")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"):
        options.add_argument(flag)
    return webdriver.Chrome(options=options, service=Service(driver))


def shoot(page: Path, out: Path) -> list[Path]:
    """Every shot of SHOTS as a PNG of a small palette, each under 300 KiB."""
    found, chrome, address = [], browser(), page.resolve().as_uri()
    try:
        chrome.get(address)
        node, cut = chrome.execute_script(CHOICES)
        for name, (where, what, window) in SHOTS.items():
            chrome.set_window_size(window, 1000)
            chrome.get("about:blank")
            chrome.get(address + where.format(node=node, cut=cut))
            box = chrome.execute_script(
                "document.activeElement?.blur();"
                "for (const e of document.querySelectorAll(arguments[1])) e.style.display = 'none';"
                "for (const e of document.querySelectorAll('.panel'))"
                "Object.assign(e.style, {maxHeight: 'none', position: 'static', boxShadow: 'none', borderTop: 0});"
                "const r = document.querySelector(arguments[0]).getBoundingClientRect();"
                "return [r.x + scrollX, r.y + scrollY, r.width, r.height]",
                what, ".modes, .toolbar" if name == "circuit" else ".nothing",
            )  # fmt: skip
            x, y, w, h = box
            width, height = w + 2 * MARGIN, min(h, TALLEST) + 2 * MARGIN
            clip = {"x": max(0, x - MARGIN), "y": max(0, y - MARGIN), "width": width, "height": height,
                    "scale": SHARPNESS}  # fmt: skip
            shot = chrome.execute_cdp_cmd("Page.captureScreenshot", {"clip": clip, "captureBeyondViewport": True})
            image = Image.open(io.BytesIO(base64.b64decode(shot["data"]))).convert("RGB")
            path = out / f"page-{name}.png"
            for colours in (COLOURS, COLOURS // 2, COLOURS // 4):
                image.quantize(colours, dither=Image.Dither.NONE).save(path, optimize=True)
                if path.stat().st_size < LARGEST:
                    break
            found.append(path)
    finally:
        chrome.quit()
    return found


if __name__ == "__main__":
    page = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "demo" / "page.html"
    out = Path(sys.argv[2]) if len(sys.argv) > 2 else HERE / "figures"
    for path in shoot(page, out):
        print(f"{path}  {path.stat().st_size / 1024:.0f} KiB")
