"""Screenshots of a page for the docs: `python docs/screenshots.py [PAGE.html [FOLDER]]` writes FOLDER/page-*.png.

Needs chromium, chromedriver, selenium and pillow (`pip install -e '.[dev]'`). Default: docs/demo/page.html to docs/figures.
"""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path
from typing import Any

from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

HERE = Path(__file__).parent
SHOTS: dict[str, tuple[str, str]] = {  # name -> (hash of the page, what of it)
    "circuit": ("", ".comparison"),
    "card": ("#selected={node}", ".stage"),
    "trial": ("", "[data-part=trial]"),
    "curve": ("#cut={cut}", "[data-part=curve]"),
    "compare": ("#compare=both", ".comparison"),
}
COLOURS = 96
LARGEST = 300 * 1024


def browser() -> Any:
    """Headless Chromium, two device pixels per pixel."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        raise SystemExit("Expected chromium and chromedriver on the path; install them first.")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--force-device-scale-factor=1.5", "--hide-scrollbars"):
        options.add_argument(flag)
    return webdriver.Chrome(options=options, service=Service(driver))


def shoot(page: Path, out: Path) -> list[Path]:
    """Every shot of SHOTS as a PNG of a small palette, each under 300 KiB."""
    found, chrome = [], browser()
    try:
        chrome.set_window_size(1320, 1000)
        for name, (where, what) in SHOTS.items():
            chrome.get("about:blank")
            chrome.get(page.resolve().as_uri())
            if where:
                node, cut = chrome.execute_script(
                    "const b = JSON.parse(document.getElementById('gossamer-bundle').textContent);"
                    "const best = [...b.circuit.nodes].sort((x, y) => y.ablation_effect_nats - x.ablation_effect_nats)[0];"
                    "const cuts = b.curve.map((p) => p.nodes).filter((n) => n < b.circuit.n_nodes);"
                    "return [best.site, Math.max(...cuts.filter((n) => n < 0.8 * b.circuit.n_nodes))]"
                )
                chrome.get("about:blank")
                chrome.get(page.resolve().as_uri() + where.format(node=node, cut=cut))
            chrome.execute_script("document.documentElement.style.scrollBehavior = 'auto'; document.activeElement?.blur()")
            if name == "card":  # the panel scrolls in itself: show all of it
                chrome.execute_script("document.querySelector('.panel').style.maxHeight = 'none'")
            element = chrome.find_element("css selector", what)
            height = int(chrome.execute_script("return document.documentElement.scrollHeight"))
            chrome.set_window_size(1320, min(max(height, 600), 6000))
            image = Image.open(io.BytesIO(element.screenshot_as_png)).convert("RGB")
            chrome.set_window_size(1320, 1000)
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
