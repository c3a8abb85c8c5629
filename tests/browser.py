"""Pages in a headless Chromium: what they are once scripts ran, and what a reader trips over."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from html import unescape
from pathlib import Path
from typing import Any

import pytest

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")


def opened(path: Path, home: Path, *options: str, width: int = 1280) -> tuple[str, list[str]]:
    """The page as it is once its scripts ran, and what its console says."""
    done = subprocess.run(
        [
            str(BROWSER), "--headless", "--disable-gpu", "--no-first-run",
            *(["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []),
            f"--user-data-dir={home}", "--virtual-time-budget=10000", f"--window-size={width},900",
            "--enable-logging=stderr", "--v=0", *options, "--dump-dom", f"{path.as_uri()}#selftest",
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


# Frames as wide as a phone, as a browser's own window may not be as narrow. Text needs a contrast
# of 4.5 to what is behind it, large text 3 (WCAG 2.2, 1.4.3).
AUDIT = """
const paint = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
const known = new Map();
const rgba = (colour) => {
  if (!known.has(colour)) {
    paint.clearRect(0, 0, 1, 1);
    paint.fillStyle = colour;
    paint.fillRect(0, 0, 1, 1);
    known.set(colour, [...paint.getImageData(0, 0, 1, 1).data].map((x) => x / 255));
  }
  return known.get(colour);
};
const over = (top, below, share) =>
  [0, 1, 2].map((i) => top[i] * top[3] * share + below[i] * (1 - top[3] * share));
const light = (colour) => {
  const parts = colour.map((x) => (x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4));
  return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
};
const audit = (view) => {
  const page = view.document, found = { contrast: [], names: [], ids: [], requests: [] };
  const style = (x) => view.getComputedStyle(x);
  const behind = (x) => {
    const layers = [];
    for (let at = x; at; at = at.parentElement) layers.push(style(at).backgroundColor);
    const paper = DARK ? [0.07, 0.07, 0.07] : [1, 1, 1];
    return layers.reverse().reduce((below, layer) => over(rgba(layer), below, 1), paper);
  };
  const words = page.createTreeWalker(page.body, NodeFilter.SHOW_TEXT);
  let n = 0;
  for (let node; (node = words.nextNode()); ) {
    const own = node.parentElement, text = node.nodeValue.trim();
    if (!text || /^(SCRIPT|STYLE|NOSCRIPT|TITLE)$/.test(own.tagName)) continue;
    const shown = { checkOpacity: true, checkVisibilityCSS: true };
    if (own.namespaceURI.endsWith("svg") || !own.checkVisibility(shown)) continue;
    if (!own.getClientRects().length) continue;
    let share = 1;
    for (let at = own; at; at = at.parentElement) share *= Number(style(at).opacity);
    const below = behind(own), css = style(own), size = parseFloat(css.fontSize);
    const [a, b] = [light(over(rgba(css.color), below, share)), light(below)];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const isLarge = size >= 24 || (size >= 18.66 && Number(css.fontWeight) >= 700);
    n += 1;
    if (ratio < (isLarge ? 3 : 4.5)) found.contrast.push([text.slice(0, 40), own.className, ratio]);
  }
  found.n_texts = n;
  const controls = "a[href], button, select, input:not([type=hidden]), textarea, img";
  for (const x of page.querySelectorAll(controls)) {
    if (!x.checkVisibility({ checkVisibilityCSS: true })) continue;
    const words = (y) => [y.innerText, y.ariaLabel, y.title, y.alt].join("").trim();
    const about = [x, ...(x.labels ?? []), ...x.querySelectorAll("img")];
    if (!about.some(words)) found.names.push(x.outerHTML.slice(0, 100));
  }
  const ids = [...page.querySelectorAll("[id]")].map((x) => x.id);
  found.ids = ids.filter((x, i) => ids.indexOf(x) !== i);
  const asked = view.performance.getEntriesByType("resource").map((x) => x.name);
  found.requests = asked.filter((x) => !/^(file|data|blob):/.test(x));
  found.language = page.documentElement.lang;
  found.headings = page.querySelectorAll("h1").length;
  found.width = [page.documentElement.scrollWidth, page.documentElement.clientWidth];
  return found;
};
const all = {};
onload = () => setTimeout(() => {
  for (const x of document.querySelectorAll("iframe")) all[x.title] = audit(x.contentWindow);
  document.getElementById("found").textContent = JSON.stringify(all);
}, 5000);
"""


def audited(pages: Mapping[str, Path], home: Path, *, is_dark: bool = False) -> dict[str, Any]:
    """What a reader with a phone would stumble over, by page: nothing where all is well.

    ``contrast``: texts that are too pale, with their contrast; ``names``: controls and pictures
    without; ``ids``: those that several elements have; ``requests``: what was asked of a network;
    ``width``: of the page, and seen.
    """
    frames = "".join(
        f'<iframe title="{name}" src="{path.as_uri()}" style="width:375px;height:800px"></iframe>'
        for name, path in pages.items()
    )
    home.mkdir(exist_ok=True)
    (home / "audit.html").write_text(
        f'{frames}<output id="found"></output>'
        f"<script>const DARK = {str(is_dark).lower()};{AUDIT}</script>"
    )
    scheme = f"--blink-settings=preferredColorScheme={int(not is_dark)}"
    dom, _ = opened(home / "audit.html", home / "user", "--allow-file-access-from-files", scheme)
    found: dict[str, Any] = json.loads(
        unescape(dom.split('<output id="found">')[1].split("</output>")[0])
    )
    return found
