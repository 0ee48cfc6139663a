"""The page: one HTML file that opens offline. Plain data in, text out; nothing is counted here.

Captions, URLs, hosts and reasons came from the web: each is escaped before it is put on the page, and the page's own
policy forbids it to load or run anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from base.charts import STYLE, histogram_chart
from data_prep.report.counters import Histogram
from data_prep.report.hosts import Host
from data_prep.report.sample_stats import Picture, SampleStats
from data_prep.report.suspicious import RULE, Suspicion

HEAD = '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="generator" content="data_prep report">'
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")
MAX_TEXT = 1000
"""Characters shown of one text, as of a caption."""
MAX_WORD = 80
NUM_WORDS = 80
MAX_SUSPICIOUS = 100
MAX_CAPTIONS = 3


@dataclass(kw_only=True)
class Page:
    """Everything the page shows."""

    title: str
    datasheet: Mapping[str, Any]
    """As `datasheet.json` has it."""
    reasons: Mapping[str, Mapping[str, int]]
    """Failures by source, then by reason."""
    hosts: Sequence[Host]
    hosts_missed: int
    """By how much a host's number of failures may be too low."""
    failures_missing: int
    """Shards without a list of failures."""
    stats: SampleStats
    pictures: Sequence[Picture]
    seed: int
    suspicions: Sequence[Suspicion]


def render(page: Page) -> str:
    """The whole document, style and pictures included."""
    sections = [
        f"<header><h1>{_text(page.title)}</h1><p>{_headline(page.datasheet)}</p></header>",
        _tiles(page.datasheet),
        _sources(page.datasheet),
        _failures(page.datasheet, page.reasons),
        _hosts(page),
        _filtered(page.datasheet),
        _suspicious(page.suspicions),
        _images(page.stats),
        _captions(page.stats),
        _contact_sheet(page),
        _made_with(page.datasheet),
    ]
    return (
        f'{HEAD}<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_text(page.title)}</title><style>{STYLE.read_text(encoding='utf-8')}</style></head>"
        f"<body><main>{''.join(sections)}</main></body></html>\n"
    )


def is_page(path: Path) -> bool:
    """Whether a file is a page that `render` made: what `report` may replace."""
    with path.open("rb") as file:
        return file.read(len(HEAD)) == HEAD.encode()


def _headline(sheet: Mapping[str, Any]) -> str:
    made = sheet["made"]
    state = "complete" if sheet["complete"] else f"{sheet['left']:,} rows are left"
    sources = f"{len(sheet['sources'])} source" + ("s" if len(sheet["sources"]) != 1 else "")
    return _text(f"{sources}, made from {made['first_shard'][:10]} to {made['last_shard'][:10]}; {state}.")


def _tiles(sheet: Mapping[str, Any]) -> str:
    failed, filtered = sum(sheet["failed"].values()), sum(sheet["filtered"].values())
    tiles = [
        (f"{sheet['kept']:,}", f"pairs kept, of {sheet['listed']:,} listed rows"),
        (_share(sheet["kept"], sheet["listed"]), "yield"),
        (f"{failed:,}", "failed, each with its reason"),
        (f"{filtered:,}", "filtered, each by its rule"),
        (f"{sheet['shards']:,}", f"shards, {_size(sheet['bytes'])}"),
    ]
    cells = "".join(f'<div class="card tile"><b>{number}</b><span>{what}</span></div>' for number, what in tiles)
    return f'<div class="tiles">{cells}</div>'


def _sources(sheet: Mapping[str, Any]) -> str:
    head = ["source", "listed", "kept", "yield", "failed", "filtered", "left", "shards", "size"]
    rows = []
    for name, source in [*sheet["sources"].items(), ("all", sheet)]:
        failed, filtered = sum(source["failed"].values()), sum(source["filtered"].values())
        numbers = [source["listed"], source["kept"]]
        rest = [failed, filtered, source["left"], source["shards"]]
        cells = [_cell(name), *(_cell(f"{number:,}") for number in numbers), _bar(source["kept"], source["listed"])]
        cells += [*(_cell(f"{number:,}") for number in rest), _cell(_size(source["bytes"]))]
        style = ' class="total"' if source is sheet else ""
        rows.append(f"<tr{style}>{''.join(cells)}</tr>")
    note = (
        "Every listed row is kept, failed, filtered or left: the five columns add up, or this page would not be here."
    )
    return _section("Yield by source", note, _table(head, rows))


def _failures(sheet: Mapping[str, Any], reasons: Mapping[str, Mapping[str, int]]) -> str:
    if not sheet["failed"]:
        return _section("Failures by reason", "None.", "")
    many = len(reasons) > 1
    head = ["reason", "rows", "of all listed", *(sorted(reasons) if many else ())]
    rows = []
    for reason, count in sorted(sheet["failed"].items(), key=lambda item: (-item[1], item[0])):
        cells = [_cell(reason), _cell(f"{count:,}"), _bar(count, sheet["listed"])]
        cells += [_cell(f"{reasons[source].get(reason, 0):,}") for source in sorted(reasons) if many]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return _section("Failures by reason", "What each means: docs/shards.md, Reasons.", _table(head, rows))


def _hosts(page: Page) -> str:
    if not page.hosts:
        return ""
    head = ["host", "failed", "commonest reason", "failing, in sampled shards", "of rows"]
    rows = []
    for host in page.hosts:
        cells = [_cell(host.name), _cell(f"{host.failed:,}"), _cell(host.reason), _bar(host.failing, host.sampled)]
        rows.append(f"<tr>{''.join(cells)}<td>{host.sampled:,}</td></tr>")
    note = (
        "The hosts with the most failures, from every list of failures. The share of a host's rows that fails is "
        f"counted in {page.stats.shards} sampled shards."
    )
    note += f" Numbers may be too low by up to {page.hosts_missed:,}." if page.hosts_missed else ""
    note += f" {page.failures_missing} shards have no list of failures any more." if page.failures_missing else ""
    return _section("Failures by host", note, _table(head, rows))


def _filtered(sheet: Mapping[str, Any]) -> str:
    if not sheet["filtered"]:
        return ""
    rows = [
        f"<tr>{_cell(rule)}{_cell(f'{count:,}')}{_bar(count, sheet['listed'])}</tr>"
        for rule, count in sorted(sheet["filtered"].items(), key=lambda item: (-item[1], item[0]))
    ]
    return _section("Filtered by rule", "Taken from what was fetched.", _table(["rule", "rows", "of all listed"], rows))


def _suspicious(suspicions: Sequence[Suspicion]) -> str:
    rows = [f"<tr>{_cell(suspicion.path)}{_cell(suspicion.why)}</tr>" for suspicion in suspicions[:MAX_SUSPICIOUS]]
    more = f" The first {MAX_SUSPICIOUS} of {len(suspicions)}." if len(suspicions) > MAX_SUSPICIOUS else ""
    title = "Suspicious shards" if suspicions else "Suspicious shards: none"
    return _section(title, escape(RULE) + more, _table(["shard", "why"], rows, "words") if rows else "")


def _images(stats: SampleStats) -> str:
    charts = [
        _histogram("Originals", stats.shortest, note="Shortest side, pixels.", unit=" px"),
        _histogram("As stored", stats.stored, note="Shortest side, pixels.", unit=" px"),
        _histogram("Aspect ratio", stats.aspect, note="Width by height; 1 is square."),
        _histogram("Weight", stats.kib, note="A sample in its tar, KiB.", unit=" KiB"),
    ]
    return _section("Images", _sampled(stats), f'<div class="charts">{"".join(charts)}</div>')


def _captions(stats: SampleStats) -> str:
    charts = [
        _histogram("Caption length", stats.caption_words, note="Words between blanks.", unit=" words"),
        _histogram("Captions an image", stats.captions, note="At least one; the rest are alternatives."),
    ]
    common = stats.words.most_common(NUM_WORDS)
    words = "".join(f"<li><bdi>{_text(word, MAX_WORD)}</bdi> <small>{count:,}</small></li>" for word, count in common)
    listed = f'<div class="card"><h3>Commonest words of four letters or more</h3><ol class="words">{words}</ol></div>'
    return _section(
        "Captions", _sampled(stats), f'<div class="charts">{"".join(charts)}</div>{listed if words else ""}'
    )


def _histogram(title: str, histogram: Histogram, *, note: str, unit: str = "") -> str:
    return histogram_chart(title, histogram.edges, histogram.counts, mean=histogram.mean, note=note, unit=unit)


def _contact_sheet(page: Page) -> str:
    figures = []
    for picture in page.pictures:
        image = (
            f'<img src="{picture.data_url}" alt="" loading="lazy">' if picture.data_url else "<i>cannot be decoded</i>"
        )
        captions = "".join(f'<p dir="auto">{_text(caption)}</p>' for caption in picture.captions[:MAX_CAPTIONS])
        more = len(picture.captions) - MAX_CAPTIONS
        captions += f"<small>and {more} more captions</small>" if more > 0 else ""
        about = f"{picture.key} · {picture.size}"
        figures.append(
            f'<figure class="sample" title="{_text(picture.url)}">{image}<figcaption>{captions}'
            f"<small>{_text(about)}</small></figcaption></figure>"
        )
    note = f"{len(figures)} random samples (seed {page.seed}), each of the corpus as likely as any other."
    return _section("Contact sheet", note, f'<div class="samples">{"".join(figures)}</div>')


def _made_with(sheet: Mapping[str, Any]) -> str:
    facts = [("manifest, sha256", sheet["manifest_sha256"]), ("all shards, sha256", sheet["shards_sha256"])]
    for source, account in sheet["sources"].items():
        facts += [(f"licence of {source}", account["licence"])] if "licence" in account else []
        facts += [(f"list of {source}", f"{entry['names']} {entry['sha256']}") for entry in account["lists"]]
    for name in ("tools", "arguments"):
        for use in sheet[name]:
            value = ", ".join(f"{key} {_cut(str(setting), 120)}" for key, setting in use["value"].items())
            facts.append((f"{name} of {use['shards']} shards", value))
    rows = [f"<tr>{_cell(name)}<td><code>{_text(value)}</code></td></tr>" for name, value in facts]
    return _section("Made with", "From datasheet.json.", _table([], rows, "words"))


def _sampled(stats: SampleStats) -> str:
    return f"From the {stats.samples:,} samples of {stats.shards} random shards."


def _section(title: str, note: str, content: str) -> str:
    """`note` and `content` are HTML."""
    return f"<section><h2>{escape(title)}</h2><p>{note}</p>{content}</section>"


def _table(head: Iterable[str], rows: Iterable[str], style: str = "") -> str:
    cells = "".join(f"<th>{escape(name)}</th>" for name in head)
    heading = f"<tr>{cells}</tr>" if cells else ""
    return f'<div class="card scroll {style}"><table>{heading}{"".join(rows)}</table></div>'


def _cell(text: str) -> str:
    return f"<td>{_text(text)}</td>"


def _bar(count: int, total: int) -> str:
    share = 100 * count / total if total else 0.0
    return f'<td class="bar" style="--share:{share:.1f}%">{_share(count, total)}</td>'


def _share(count: int, total: int) -> str:
    return f"{count / total:.1%}" if total else "-"


def _size(num_bytes: float) -> str:
    for unit in ("KiB", "MiB", "GiB"):
        num_bytes /= 1024
        if num_bytes < 1000:
            return f"{num_bytes:.3g} {unit}"
    return f"{num_bytes / 1024:,.1f} TiB"


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def _text(text: str, limit: int = MAX_TEXT) -> str:
    """Escaped, in one line, cut, and without what changes the direction of the text around it or is no character."""
    return escape(UNSAFE.sub("\N{REPLACEMENT CHARACTER}", _cut(" ".join(text.split()), limit)))
