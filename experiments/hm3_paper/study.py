"""HM3 and MM-MO at their published settings, beside ours at 300 evaluations; see README.md."""

from __future__ import annotations

from experiments.common.methods import METHODS
from experiments.common.plan import Study, Variant
from experiments.common.report import write_methods_only

PAPER = ("agent=hm3_paper",)

STUDY = Study(
    name="hm3_paper",
    variants={
        "hm3": Variant(METHODS["hm3"], {300: 1}),
        "hm3_paper": Variant(PAPER, {300: 1}),
        # 1000 iterations for each preference, as in the paper.
        "hm3_paper_1000": Variant((*PAPER, "agent.preferences=3"), {3000: 1}),
        "mm_mo": Variant(METHODS["mm_mo"], {30: 1}),
    },
    write=write_methods_only,
)
