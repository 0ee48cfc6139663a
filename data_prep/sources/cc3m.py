"""Conceptual Captions, 3.3 million: caption TAB address, no header."""

from __future__ import annotations

from data_prep.sources import conceptual_captions as two_columns
from data_prep.sources.source import Source

CC3M = Source(
    name="cc3m",
    read=two_columns.read,
    rows=3_318_333,
    rows_from="dataset card; the validation file has 15,840 more",
    expected_yield=0.70,
    yield_when="2024-01",
    yield_from="img2dataset issue 391; it was 87.6% in 2021-12 (card of pixparse/cc3m-wds)",
    resolution="over 400 px, at most 2:1",
    resolution_from="how it was collected, quoted in the card of CC12M; hosts may serve less today",
    files=(
        ("Train_GCC-training.tsv", "caption TAB address, no header"),
        ("Validation_GCC-1.1.0-Validation.tsv", "the same; ALBEF trains on it too"),
    ),
    licence="list: Google's terms for Conceptual Captions; images: their owners', not listed",
    licence_from="card of pixparse/cc3m-wds",
)
