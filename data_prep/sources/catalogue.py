"""The sources by name."""

from __future__ import annotations

from data_prep.sources.cc3m import CC3M
from data_prep.sources.cc12m import CC12M
from data_prep.sources.coco import COCO
from data_prep.sources.sbu import SBU
from data_prep.sources.visual_genome import VISUAL_GENOME

SOURCES = {source.name: source for source in (CC3M, CC12M, SBU, COCO, VISUAL_GENOME)}
