"""A bundle becomes one HTML file that needs no network, no server and no second file; or the page of a server.

The page holds the built view (`view.js`, from `web/`) and the bundle's JSON. Names in a bundle may hold markup: the
JSON has every `<`, `>` and `&` escaped, and the view writes text nodes only. The page's policy allows exactly one
script, by its hash, and no request of any kind; a server's page may ask that server.
"""

from __future__ import annotations

import base64
import hashlib
import html
from importlib.resources import files
from pathlib import Path

from gossamer.errors import CorruptFile
from gossamer.show.bundle import BUNDLE_ID, Bundle
from gossamer.whole_file import write_whole

ROOT_ID = "gossamer-page"

# U+2028 and U+2029 end a line in older JavaScript; the other three can end or open markup.
_ESCAPES = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}

_BOOT = f"""
{{
  const bundle = JSON.parse(document.getElementById("{BUNDLE_ID}").textContent);
  const host = {{ bundle, server: document.documentElement.dataset.server }};
  if (host.server !== undefined) history.replaceState(null, "", location.pathname + location.hash); // no token in links
  render({{ model: {{ get: (name) => host[name] }}, el: document.getElementById("{ROOT_ID}") }});
}}
"""

_PAGE = """<!doctype html>
<html lang="en"{server}>
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="Gossamer {version}">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<link rel="icon" href="data:,">
</head>
<body style="margin:0">
<div id="{root}"><noscript>This page draws a circuit with JavaScript, which is switched off here.</noscript></div>
<script type="application/json" id="{bundle_id}">{data}</script>
<script type="module">{script}</script>
</body>
</html>
"""


def view_source() -> str:
    """The built view; raises CorruptFile if it could end its own script element."""
    source = files("gossamer.show").joinpath("view.js").read_text(encoding="utf-8")
    lowered = source.lower()
    for mark in ("</script", "<!--"):
        if mark in lowered:
            raise CorruptFile(
                f"view.js holds {mark!r}, which would end its script element; rebuild it: see web/README.md."
            )
    return source


def _policy(script: str, asks: bool) -> str:
    """A content security policy that runs this one script and fetches nothing, or from its own server alone."""
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    return (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'" + ("; connect-src 'self'" if asks else "")
    )


def render_page(bundle: Bundle, server: str | None = None) -> str:
    """The whole page as text. Equal bundles give equal text. server: where a served page asks, relative to itself."""
    script = "\n" + view_source() + _BOOT
    return _PAGE.format(
        policy=html.escape(_policy(script, server is not None), quote=False),
        server="" if server is None else f' data-server="{html.escape(server)}"',
        version=html.escape(bundle.gossamer_version),
        title=html.escape(bundle.title),
        root=ROOT_ID,
        bundle_id=BUNDLE_ID,
        data=bundle.model_dump_json().translate(_ESCAPES),
        script=script,
    )


def write_page(bundle: Bundle, path: Path) -> Path:
    """Write the page to `path`; see write_whole."""
    return write_whole(render_page(bundle), path)
