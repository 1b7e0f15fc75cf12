"""An offline page with its model inside: size, time to open, time to answer a typed prompt.

    python benchmarks/page.py [PAGE] [--tokens 64] [--repeats 9] [--json]

PAGE is a page.html that `gossamer show` wrote of a run on a small weight-sparse model (default: docs/demo/page.html).
Headless Chromium with software rendering. Opening ends when the first answer stands in the page. A prompt of Python
source is put into the field as one input event; its answer ends with the numbers in the document, and includes the
pause that the page makes for further keys. With an ablation the page answers twice, before and after. Medians.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import textwrap
import time
from inspect import getsource
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.chrome.service import Service

LINES = {"MiB": 6.0, "opens, s": 2.0, "answers, ms": 300.0, "answers with an ablation, ms": 300.0}
OPENED = "return document.querySelectorAll('[data-share]').length === 2 ? performance.now() : 0"
TYPED = """
const [text, done] = arguments;
const started = performance.now();
const watch = new MutationObserver(() => { watch.disconnect(); done(performance.now() - started); });
watch.observe(document.querySelector('.lab-shares'), {childList: true});
const prompt = document.querySelector('.lab-prompt');
prompt.value = text;
prompt.dispatchEvent(new Event('input', {bubbles: true}));
"""
ABLATE = "[...document.querySelectorAll('.lab button')].find((b) => b.textContent === 'Ablate').click()"
COUNT = "return document.querySelectorAll('.lab-token').length"


def chromium() -> Any:
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1280,900"):
        options.add_argument(flag)
    return webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver") or ""))


def opened(browser: Any, address: str) -> float:
    """Seconds from the start of navigation to the first answer."""
    browser.get(address)
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if found := browser.execute_script(OPENED):
            return float(found) / 1000
        time.sleep(0.005)
    sys.exit("No answer within a minute: expected a page with a model inside; write it with `gossamer show RUN`.")


def prompts(browser: Any, tokens: int) -> list[str]:
    """Two prompts of so many tokens (with the one before every prompt), cut from Python source by the page's own
    tokenizer."""
    found = []
    for source in (getsource(textwrap), getsource(json)):
        size, count = 200, 0
        while count != tokens:
            browser.execute_async_script(TYPED, source[:size])
            count = browser.execute_script(COUNT)
            size += (tokens > count) - (tokens < count)
        found.append(source[:size])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", nargs="?", default="docs/demo/page.html", type=Path)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    browser = chromium()
    try:
        address = given.page.resolve().as_uri()
        opens = [opened(browser, address) for _ in range(given.repeats)]
        time.sleep(3)  # the page looks for a suggestion first
        two = prompts(browser, given.tokens)

        def answers() -> list[float]:
            return [browser.execute_async_script(TYPED, two[i % 2]) for i in range(given.repeats)]

        plain = answers()
        browser.execute_script(ABLATE)
        time.sleep(0.5)
        ablated = answers()
    finally:
        browser.quit()
    size, times = given.page.stat().st_size / 2**20, map(statistics.median, (opens, plain, ablated))
    found = dict(zip(LINES, (size, *times), strict=True))
    if given.json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        print(f"{name:28} {value:8.2f}   line {LINES[name]:g}: {'met' if value < LINES[name] else 'MISSED'}")
    print(f"{given.tokens} tokens, medians of {given.repeats}")


if __name__ == "__main__":
    main()
