"""The report: one HTML page that opens offline. Plain data in, text out; nothing is measured here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from base.charts import STYLE, Line, line_chart
from demo.page_pictures import ImageQuery, TextQuery, WordMaps, found_section, maps_section
from demo.results import RECALL_AT, Ingestion, recalls

STYLES = (STYLE, Path(__file__).parent / "report.css")
TITLE = "A small ALBEF, from URLs to a model"

Curves = dict[str, list[tuple[float, float]]]


@dataclass(kw_only=True)
class Page:
    """Everything the page shows."""

    headline: str
    tiles: Sequence[tuple[str, str]]
    """(number, what it is)."""
    untrained: dict[str, float]
    trained: dict[str, float]
    """Metrics as `pipeline evaluate retrieval` writes them."""
    curves: Curves
    text_queries: Sequence[TextQuery]
    own_queries: Sequence[TextQuery]
    image_queries: Sequence[ImageQuery]
    photo_maps: Sequence[WordMaps]
    scene_maps: Sequence[WordMaps]
    pointing: str
    """How often the maps point at the right place."""
    ingestion: Sequence[Ingestion]
    faults: Sequence[tuple[str, int]]
    """URLs broken on purpose in the training list: (how, how many)."""
    trained_by: Sequence[tuple[str, str]]
    stages: Sequence[tuple[str, float, str]]
    """(name, seconds, command)."""
    credits: str


def render(page: Page) -> str:
    """The whole document, style and pictures included."""
    sections = [
        f"<header><h1>{TITLE}</h1><p>{escape(page.headline)}</p></header>",
        _tiles(page.tiles),
        _retrieval(page.untrained, page.trained),
        _curves(page.curves),
        found_section(page.text_queries, page.image_queries, page.own_queries),
        maps_section(page.photo_maps, page.scene_maps, page.pointing),
        _ingestion(page.ingestion, page.faults),
        _made_by(page.trained_by, page.stages),
        f"<footer>{escape(page.credits)}</footer>",
    ]
    style = "".join(path.read_text(encoding="utf-8") for path in STYLES)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>ALBEF demo report</title><style>{style}</style></head>"
        f"<body><main>{''.join(sections)}</main></body></html>\n"
    )


def _tiles(tiles: Sequence[tuple[str, str]]) -> str:
    cells = [f"<b>{escape(number)}</b><span>{escape(what)}</span>" for number, what in tiles]
    return '<div class="tiles">' + "".join(f'<div class="card tile">{cell}</div>' for cell in cells) + "</div>"


def _retrieval(untrained: dict[str, float], trained: dict[str, float]) -> str:
    count = f"{trained['num_images']:.0f}"
    head = _row(["", *(f"{way} R@{k}" for way in ("picture → caption", "caption → picture") for k in RECALL_AT)], "th")
    tables = []
    for title, prefix in (
        ("Contrastive similarity, then the best 16 re-ranked by the matching head", ""),
        ("Contrastive similarity alone", "itc_"),
    ):
        rows = [
            _recall_row("chance", recalls(trained, "chance_")),
            _recall_row("before training", recalls(untrained, prefix)),
            _recall_row("after training", recalls(trained, prefix), "trained"),
        ]
        tables.append(_table(title, head, rows))
    return (
        "<h2>Zero-shot retrieval on held-out pictures</h2>"
        f"<p>{count} drawings the model never saw, each to be matched with its name among {count}. The names occur in "
        "training, drawn by other artists. Recall in percent: the right one comes first, or among the first 5 or "
        "10.</p>" + "".join(tables)
    )


def _recall_row(name: str, values: Sequence[float], style: str = "") -> str:
    cells = [f'<td class="bar" style="--share:{value:.1f}%">{value:.1f}</td>' for value in values]
    return f'<tr class="{style}"><td>{name}</td>{"".join(cells)}</tr>'


def _curves(curves: Curves) -> str:
    charts = [
        _chart(
            curves,
            "Held-out recall at 10, while training",
            {"val/i2t_recall_at_10": "picture → caption", "val/t2i_recall_at_10": "caption → picture"},
            note="Validation pairs, percent, after re-ranking.",
            from_zero=True,
            smooth=False,
        ),
        _chart(curves, "Contrastive loss (ITC)", {"train/loss_itc": "nats"}),
        _chart(curves, "Matching loss (ITM)", {"train/loss_itm": "nats"}, note="0.64 is guessing: one match in three."),
        _chart(curves, "Masked words (MLM)", {"train/loss_mlm": "nats"}, note="10.3 is guessing among 30,522 pieces."),
        _chart(curves, "Matching accuracy", {"train/itm_accuracy": "share"}, note="0.67 is always saying no."),
        _chart(
            curves,
            "Temperature and distillation weight",
            {"train/temperature": "temperature", "train/alpha": "alpha"},
            from_zero=True,
            smooth=False,
        ),
        _chart(curves, "Learning rate", {"optim/lr": "rate"}, from_zero=True, smooth=False),
        _chart(curves, "Gradient norm", {"optim/grad_norm": "before clipping"}),
        _chart(curves, "Speed", {"speed/samples_per_s": "pairs a second"}, from_zero=True),
    ]
    return (
        "<h2>Curves</h2><p>From metrics.jsonl, over the optimizer step; thin as logged, thick the running mean. The "
        "legend "
        f'shows the last value.</p><div class="charts">{"".join(charts)}</div>'
    )


def _chart(
    curves: Curves,
    title: str,
    names: dict[str, str],
    *,
    note: str = "",
    from_zero: bool = False,
    smooth: bool = True,
) -> str:
    lines = [Line(name=name, points=curves[key], smooth=smooth) for key, name in names.items() if curves.get(key)]
    return line_chart(title, lines, note=note, from_zero=from_zero)


def _ingestion(lists: Sequence[Ingestion], faults: Sequence[tuple[str, int]]) -> str:
    head = _row(["list", "listed", "kept", "yield", "shards", "MB", "failures by reason"], "th")
    rows = []
    for item in lists:
        reasons = ", ".join(f"{reason} {count}" for reason, count in item.failures.items()) or "none"
        share = f"{100 * item.kept / max(1, item.listed):.2f}%"
        counts = [item.split, f"{item.listed:,}", f"{item.kept:,}", share, str(item.num_shards)]
        rows.append(_row([*counts, f"{item.bytes / 1e6:.1f}", reasons]))
    broken = "; ".join(f"{count} times {how}" for how, count in faults)
    return (
        "<h2>Ingestion</h2>"
        "<p>Downloaded over HTTP on loopback by data_prep (img2dataset), verified, and counted: every listed "
        f"URL is a sample, or a failure with its reason. Broken on purpose in the training list: "
        f"{escape(broken)}.</p>" + _table("", head, rows, "words")
    )


def _made_by(facts: Sequence[tuple[str, str]], stages: Sequence[tuple[str, float, str]]) -> str:
    head = "<tr><th>stage</th><th>took</th><th>command</th></tr>"
    rows = [
        f"<tr><td>{escape(name)}</td><td>{seconds:.0f} s</td><td><code>{escape(command) or '-'}</code></td></tr>"
        for name, seconds, command in stages
    ]
    tables = _table("", "", [_row(fact) for fact in facts], "words") + _table("", head, rows, "words")
    return f"<h2>What trained it</h2><p></p>{tables}"


def _table(title: str, head: str, rows: Iterable[str], style: str = "") -> str:
    heading = f"<h3>{escape(title)}</h3>" if title else ""
    return f'<div class="card scroll {style}">{heading}<table>{head}{"".join(rows)}</table></div>'


def _row(cells: Iterable[str], kind: str = "td") -> str:
    return f"<tr>{''.join(f'<{kind}>{escape(cell)}</{kind}>' for cell in cells)}</tr>"
