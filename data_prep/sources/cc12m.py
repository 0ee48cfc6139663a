"""Conceptual 12M: address TAB caption, no header.

Names of persons are masked as <PERSON>. They are kept so: the training's cleaning of captions turns them into `person`
(`albef/captions.py`), as the original's does, and what was published stays readable in the record.
"""

from __future__ import annotations

from data_prep.sources import conceptual_captions as two_columns
from data_prep.sources.source import Source

CC12M = Source(
    name="cc12m",
    read=two_columns.read,
    rows=12_423_374,
    rows_from="dataset card",
    expected_yield=0.623,
    yield_when="2025-10",
    yield_from="conceptual-12m issue 9: 7,740,121 of 12,423,374",
    resolution="over 400 px, at most 2.5:1",
    resolution_from="dataset card; hosts may serve less today",
    files=(("cc12m.tsv", "address TAB caption, no header, 2.6 GB"),),
    licence="list: Google's terms for Conceptual 12M; images: their owners', not listed",
    licence_from="dataset card (licence: other)",
)
