"""A page in Debian's chromium, without a window, and what a script found in it."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

__all__ = ["look"]

# A headless window is at least 500 px wide, a frame is as narrow as it is told to be.
FRAME = """<!doctype html><body style="margin:0"><script>
addEventListener("message", (event) => {{
  const out = document.createElement("pre");
  out.id = "probe";
  out.textContent = event.data;
  document.body.append(out);
}});
</script><iframe src="probed.html" style="border:0;width:{width}px;height:900px"></iframe>"""
PROBE = "page_probe.js"
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--virtual-time-budget=20000",
    "--dump-dom",
]


def look(page: Path, script: str, width: int) -> dict[str, Any]:
    """What `script`, a file beside this one, found in the page at that width.

    Args:
        page: a file; files are written beside it.
        script: defines `probe(found)`, see `page_probe.js`.
        width: pixels of the frame that holds the page.
    """
    probed, frame = page.with_name("probed.html"), page.with_name(f"frame_{width}.html")
    scripts = "".join(Path(__file__).with_name(name).read_text() for name in (PROBE, script))
    # Before the page's own policy, which may allow no script.
    probed.write_text(page.read_text().replace("<head>", f"<head><script>{scripts}</script>", 1))
    frame.write_text(FRAME.format(width=width))
    command = [str(shutil.which("chromium")), *FLAGS, "--window-size=1400,900"]
    command += [f"--user-data-dir={page.parent / f'user_{width}'}", frame.as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=90, check=True)
    match = re.search(r'<pre id="probe">(.*?)</pre>', dom.stdout, re.DOTALL)
    assert match, f"the page's script did not finish: {dom.stderr[-1000:]}"
    return json.loads(html.unescape(match[1]))
