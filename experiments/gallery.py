"""Writes the gallery: one HTML page that holds all results and needs no network."""

from __future__ import annotations

import base64
import io
import json
import mimetypes
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from experiments.registry import TOPICS, Experiment
from experiments.report import replacing

EMBED_AT_MOST = 8_000_000  # bytes; a larger file is linked instead

PAGE = Template("""\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>unsup_jax: gallery</title>
<link rel="icon" href="data:,">
<style>
:root { --ink: #1b1f24; --soft: #59636e; --paper: #fff; --line: #d1d9e0; --shade: #f4f6f8;
  --link: #0757b8; --bad: #b42318; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ee; --soft: #9aa4b0; --paper: #14171b; --line: #353c45; --shade: #1e2329;
    --link: #79b8ff; --bad: #ff8a80; }
}
* { box-sizing: border-box; }
html { scroll-behavior: smooth; }
body { margin: 0 auto; max-width: 62rem; padding: 1.5rem 1rem 4rem; color: var(--ink);
  background: var(--paper); font: 1rem/1.55 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { margin: 0; } h2 { margin: 3rem 0 0; } h3 { margin: 2rem 0 0; } h3 + p { margin-top: 0; }
a { color: var(--link); }
.about, figcaption, caption { color: var(--soft); }
nav ul { columns: 16rem; padding-left: 1.2rem; }
figure { margin: 1.25rem 0; }
figure img, figure video { display: block; max-width: 100%; height: auto; border-radius: 6px;
  background: #fff; }
figcaption, caption { font-size: .92rem; text-align: left; padding: .4rem 0; }
caption { max-width: calc(min(100vw, 62rem) - 2rem); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: .75rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .7rem; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top; }
td.number { text-align: right; }
td:first-child:not(.number) { min-width: 7.5rem; }
th button { all: unset; cursor: pointer; font-weight: 600; }
th button:focus-visible { outline: 2px solid var(--link); }
th[aria-sort=ascending] button::after { content: " \\25B2"; }
th[aria-sort=descending] button::after { content: " \\25BC"; }
pre { overflow-x: auto; padding: .6rem .8rem; border-radius: 6px; background: var(--shade); }
.failed { color: var(--bad); }
</style>
</head>
<body>
<h1>unsup_jax: gallery</h1>
<p class="about">$summary</p>
<nav aria-label="Experiments"><ul>
$contents
</ul></nav>
<main>
$sections
</main>
$maps
<script>
for (const table of document.querySelectorAll("table.sortable"))
  table.querySelectorAll("th button").forEach((button, column) => button.onclick = () => {
    const head = button.parentElement, up = head.getAttribute("aria-sort") !== "ascending";
    const value = row => row.cells[column].dataset.value ?? row.cells[column].textContent;
    const order = (a, b) => a - b || String(a).localeCompare(b, undefined, {numeric: true});
    const rows = [...table.tBodies[0].rows];
    rows.sort((a, b) => (up ? 1 : -1) * order(value(a), value(b)));
    table.tBodies[0].append(...rows);
    for (const other of table.querySelectorAll("th")) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
  });
</script>
</body>
</html>
""")

MAPS = Template("""\
<script>$library</script>
<script>
const drawn = new IntersectionObserver(entries => {
  for (const entry of entries) if (entry.isIntersecting) {
    drawn.unobserve(entry.target);
    const data = entry.target.nextElementSibling.textContent;
    Bokeh.embed.embed_item(JSON.parse(data), entry.target.id);
  }
}, {rootMargin: "400px"});
document.querySelectorAll(".map").forEach(map => drawn.observe(map));
</script>
""")
HINT = "Point at a dot; drag to move, Ctrl + wheel to zoom, a label hides its class."


def write(
    folder: Path, experiments: Sequence[Experiment], failures: Mapping[str, str] | None = None
) -> Path:
    """Write `folder/index.html` from the reports in `folder` and return its path.

    Args:
        folder: Where the experiments have left their results.
        experiments: What to show, each in the section of its topic.
        failures: What went wrong, by the name of the experiment.
    """
    failures = failures or {}
    sections, contents = [], []
    for topic, heading in TOPICS.items():
        members = [e for e in experiments if e.topic == topic]
        if not members:
            continue
        sections.append(f'<h2 id="{topic}">{escape(heading)}</h2>')
        contents.append(f'<li><a href="#{topic}">{escape(heading)}</a><ul>')
        for member in members:
            sections.append(_experiment(folder, member, failures.get(member.name)))
            contents.append(f'<li><a href="#{member.name}">{_spaced(member.name)}</a></li>')
        contents.append("</ul></li>")
    measured = _benchmarks(folder / "benchmarks" / "benchmarks.json")
    if measured:
        sections.append(measured)
        contents.append('<li><a href="#benchmarks">Benchmarks</a></li>')
    summary = f"{len(experiments)} experiments" + (f", {len(failures)} failed" * bool(failures))
    page = PAGE.substitute(
        summary=summary + ".",
        contents="\n".join(contents),
        sections="\n".join(sections),
        maps=_maps() if any('class="map"' in section for section in sections) else "",
    )
    path = folder / "index.html"
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def _experiment(folder: Path, experiment: Experiment, failure: str | None) -> str:
    """Return an experiment's part of the page."""
    head = (
        f'<article id="{experiment.name}"><h3>{_spaced(experiment.name)}</h3>\n'
        f"<p>{escape(experiment.title)}</p>"
    )
    path = folder / experiment.name / "metrics.json"
    if failure is None and not path.exists():
        failure = "There are no results."
    if failure is not None:
        return f'{head}\n<p class="failed" role="alert">Failed: {escape(failure)}</p></article>'
    results = json.loads(path.read_text(encoding="utf-8"))
    parts = [head]
    parts += [_medium(folder, experiment.name, **item) for item in results["figures"]]
    parts += [_map(folder, experiment.name, **item) for item in results["embeddings"]]
    parts += [_medium(folder, experiment.name, **item, moving=True) for item in results["files"]]
    parts += [_table(item["rows"], item["caption"]) for item in results["tables"]]
    if results["metrics"]:
        rows = [{"metric": _spaced(k), "value": v} for k, v in results["metrics"].items()]
        parts.append(_table(rows, "Metrics", sortable=False))
    parts.append(f"<pre><code>{escape(results['command'])}</code></pre>")
    parts.append(
        f'<p class="about">{results["seconds"]:.1f} s on {escape(results["device"])}, '
        f"jax {escape(results['jax'])}.</p></article>"
    )
    return "\n".join(parts)


def _benchmarks(path: Path) -> str:
    """Return the section of the benchmarks that were run last, empty if none were."""
    if not path.exists():
        return ""
    results = json.loads(path.read_text(encoding="utf-8"))
    table = _table(results["rows"], f"Seconds, on {results['machine']}.")
    command = "<pre><code>python -m experiments.benchmarks</code></pre>"
    return f'<h2 id="benchmarks">Benchmarks</h2>\n{table}\n{command}'


def _medium(folder: Path, name: str, file: str, caption: str, moving: bool = False) -> str:
    """Return a picture or video, embedded; any other or very large file as a link.

    With `moving`, a still picture is a link too: it is data, not a figure.
    """
    path = folder / name / file
    kind = mimetypes.guess_type(file)[0] or ""
    text = escape(caption)
    embedded = "image/gif" if moving else "image/", "video/"
    if kind.startswith(embedded) and path.stat().st_size <= EMBED_AT_MOST:
        kind, content = _smaller(path) if kind == "image/png" else (kind, path.read_bytes())
        source = f"data:{kind};base64,{base64.b64encode(content).decode()}"
        if kind.startswith("image/"):
            shown = f'<img src="{source}" alt="{text}">'
        else:
            shown = f'<video src="{source}" controls loop muted playsinline></video>'
    else:
        shown = f'<a href="{escape(name)}/{escape(file)}">{escape(file)}</a>'
    return f"<figure>{shown}<figcaption>{text}</figcaption></figure>"


def _smaller(path: Path) -> tuple[str, bytes]:
    """Return a picture as WebP, a quarter of the PNG that stays beside the page, if it is smaller.

    All pictures together are 20 MB otherwise, much for a phone.
    """
    from PIL import Image

    file = io.BytesIO()
    with Image.open(path) as image:
        image.convert("RGB").save(file, "webp", quality=85, method=2)
    original = path.read_bytes()
    small = file.getvalue()
    return ("image/webp", small) if len(small) < len(original) else ("image/png", original)


def _map(folder: Path, experiment: str, name: str, caption: str) -> str:
    """Return a map to explore, drawn when it comes into view."""
    data = (folder / experiment / f"{name}.json").read_text(encoding="utf-8")
    data = data.replace("</", r"<\/")  # what ends a script element
    return (
        f'<figure><div class="map" id="{experiment}-{name}"></div>'
        f'<script type="application/json">{data}</script>'
        f"<figcaption>{escape(caption)} {HINT}</figcaption></figure>"
    )


def _maps() -> str:
    from experiments import embedding

    return MAPS.substitute(library=embedding.script())


def _table(rows: Sequence[Mapping[str, Any]], caption: str, sortable: bool = True) -> str:
    """Return a table whose columns are the keys of all rows, in the order they appear."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    wrap = "<button>{}</button>" if sortable else "{}"
    head = "".join(f'<th scope="col">{wrap.format(_spaced(c))}</th>' for c in columns)
    lines = ("".join(_cell(row.get(column, "")) for column in columns) for row in rows)
    body = "\n".join(f"<tr>{line}</tr>" for line in lines)
    kind = ' class="sortable"' if sortable else ""
    return (
        f'<div class="scroll"><table{kind}><caption>{escape(caption)}</caption>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
    )


def _cell(value: Any) -> str:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return f'<td class="number" data-value="{value}">{_text(value)}</td>'
    return f"<td>{escape(_text(value))}</td>"


def _text(value: Any) -> str:
    """Return a value as a person reads it: numbers to four digits, what is missing as a dash."""
    if value is None:
        return "-"
    if isinstance(value, list):
        return ", ".join(_text(item) for item in value)
    if isinstance(value, float):
        return f"{value:,.0f}" if 1e4 <= abs(value) < 1e9 else f"{value:.4g}"
    return str(value)


def _spaced(name: str) -> str:
    return escape(name.replace("_", " "))
