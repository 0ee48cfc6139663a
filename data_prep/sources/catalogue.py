"""The sources by name."""

from __future__ import annotations

from data_prep.sources.coco import COCO
from data_prep.sources.conceptual_captions import CC3M, CC12M
from data_prep.sources.sbu import SBU
from data_prep.sources.visual_genome import VISUAL_GENOME

SOURCES = {source.name: source for source in (CC3M, CC12M, SBU, COCO, VISUAL_GENOME)}
