"""The rows of the paper's ablation (table 1), each a set of switches; every other key is the same in all of them."""

from __future__ import annotations

from dataclasses import dataclass

SWITCHES = ("itc", "hard_negatives", "distill_itc", "distill_mlm")
"""Keys of `objective` in pretraining that differ between rows; ITM and MLM are on in all."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """What is switched on; each row adds one thing to the row above it."""

    name: str
    """In a plan, and of the row's folder."""
    title: str
    """In the table. MoD is the paper's momentum distillation."""
    on: tuple[str, ...]
    """The SWITCHES that are true."""
    distills_downstream: bool = False
    """`objective.distill` of the tasks after pretraining."""
    pretraining: str
    """The row whose pretrained model it starts from."""

    @property
    def switches(self) -> dict[str, bool]:
        """Every switch of pretraining with its value."""
        return {name: name in self.on for name in SWITCHES}


ROWS: dict[str, Row] = {
    row.name: row
    for row in (
        Row(name="mlm_itm", title="MLM + ITM", on=(), pretraining="mlm_itm"),
        Row(name="itc", title="+ ITC", on=SWITCHES[:1], pretraining="itc"),
        Row(name="hard_negatives", title="+ hard negatives", on=SWITCHES[:2], pretraining="hard_negatives"),
        Row(name="distill_itc", title="+ MoD on ITC", on=SWITCHES[:3], pretraining="distill_itc"),
        Row(name="distill_mlm", title="+ MoD on MLM", on=SWITCHES, pretraining="distill_mlm"),
        Row(
            name="distill_downstream",
            title="+ MoD downstream",
            on=SWITCHES,
            distills_downstream=True,
            pretraining="distill_mlm",
        ),
    )
}
"""By name, in the paper's order. The last one differs after pretraining only, so it has none of its own."""
