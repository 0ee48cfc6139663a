"""The maker of each task, by its name: how the commands that take any recipe reach a task."""

from __future__ import annotations

from pipeline.config.run_config import RUNS
from pipeline.task_maker import TaskMaker


def maker_of(task: str) -> TaskMaker:
    """The maker of a task; only its own modules are imported."""
    if task == "pretraining":
        from pipeline.tasks.pretraining.maker import PRETRAINING

        return PRETRAINING
    if task == "snli-ve":
        from pipeline.tasks.snli_ve.maker import ENTAILMENT

        return ENTAILMENT
    if task == "vqa":
        from pipeline.tasks.vqa.maker import VQA

        return VQA
    if task == "retrieval":
        from pipeline.tasks.retrieval.finetuning.maker import RETRIEVAL

        return RETRIEVAL
    if task == "grounding":
        from pipeline.tasks.grounding.maker import GROUNDING

        return GROUNDING
    if task == "nlvr2-pretrain":
        from pipeline.tasks.text_assignment.maker import ALIGNMENT

        return ALIGNMENT
    if task == "nlvr2":
        from pipeline.tasks.nlvr2.maker import NLVR2

        return NLVR2
    raise AssertionError(f"{task} is none of {', '.join(RUNS)}")
