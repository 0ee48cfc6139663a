"""VQA as a task: the likelihood of the people's answers, mixed with a momentum teacher's words by alpha."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from albef.downstream.vqa import AlbefForVqa, VqaTeacher
from albef.errors import CheckpointError
from albef.inputs.tokenizer import AlbefTokenizer
from albef.inputs.vqa_batch import VqaBatch
from albef.kernels.mlm import WordLogits
from pipeline.config.run_config import VqaRun
from pipeline.data.annotations.corpus import read_annotations
from pipeline.engine.compile import INDUCTOR, Backend, let_vary
from pipeline.engine.distributed import World
from pipeline.engine.new_student import new_student
from pipeline.task import Progress
from pipeline.tasks.finetuning.distillation import Distilled
from pipeline.tasks.finetuning.starting_weights import start_student, start_teacher
from pipeline.tasks.vqa.annotations import SCORED, Candidates, read_candidates
from pipeline.tasks.vqa.batcher import VqaBatcher
from pipeline.tasks.vqa.ranking import QuestionSet, VqaValidation, answer_list

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Vqa(Distilled):
    """The parts of fine-tuning on VQA. A `pipeline.task.Task`."""

    name: ClassVar[str] = VqaRun.task
    varying: ClassVar[Mapping[str, Sequence[int]]] = {
        "question_ids": (1,),
        "question_mask": (1,),
        "answer_ids": (0, 1),
        "answer_question": (0,),
        "answer_weights": (0,),
        "answer_positions": (0,),
        "answer_labels": (0,),
    }
    """Also the number of answers, their length, and the number of their words."""

    model: AlbefForVqa
    candidates: Candidates | None = None
    """Whose fingerprint the checkpoints carry."""
    validation: VqaValidation | None = None

    @classmethod
    def of_run(cls, run: VqaRun, world: World, compute_dtype: torch.dtype) -> Vqa:
        """Student and teacher of a run, equal on all ranks; candidates and validation questions are read.

        Args:
            compute_dtype: of the teacher's forward, as the engine will have the student's.

        Raises: CheckpointError for starting weights, DataError for candidates and validation data that cannot be read,
            ConfigError for kernels that cannot run here.
        """
        tokenizer = AlbefTokenizer()
        student = new_student(lambda: AlbefForVqa(run.model.shape, run.objective), run, world)
        source = start_student(student, run)
        student.to(world.device).train()
        teacher = None
        if run.objective.distill:
            # After the weights are loaded, and before the engine casts them to bf16: the teacher's stay fp32.
            teacher = VqaTeacher(student, device=world.device, compute_dtype=compute_dtype)
            start_teacher(teacher, source)
        candidates = None if run.data.answers is None else read_candidates(run.data.answers)
        return cls(
            model=student,
            teacher=teacher,
            batcher=batcher_of(run, tokenizer),
            alpha_ramp_epochs=run.schedule.alpha_ramp_epochs,
            candidates=candidates,
            validation=validation_of(run, world, tokenizer, candidates),
        ).compiled_if(run)

    def compile(self, *, backend: Backend = INDUCTOR) -> None:
        """Also let the number of words vary in what the teacher gives of each."""
        super().compile(backend=backend)
        targets = self.compiled_targets
        assert targets is not None

        def of_words(batch: VqaBatch) -> WordLogits | None:
            found: WordLogits | None = targets(batch)
            if found is not None:
                let_vary(found.states, 0)
            return found

        self.compiled_targets = of_words

    @property
    def shape(self) -> dict[str, Any]:
        """Also the fingerprint of the candidates."""
        return super().shape | {"answers_fingerprint": self.candidates and self.candidates.fingerprint}

    def state(self) -> dict[str, dict[str, Tensor]]:
        """Also the fingerprint of the candidates, its 16 letters as bytes."""
        letters = b"" if self.candidates is None else self.candidates.fingerprint.encode()
        return super().state() | {"answers": {"fingerprint": torch.tensor(list(letters), dtype=torch.uint8)}}

    def load_state(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Raises: CheckpointError also when the candidates are others."""
        then = bytes(state["answers"]["fingerprint"].tolist()).decode(errors="replace")
        now = "" if self.candidates is None else self.candidates.fingerprint
        if then != now:
            raise CheckpointError(
                f"the run has the answer list {then or 'null'} (fingerprint), and data.answers is {now or 'null'}",
                "give the list that the run started with, or start another run",
            )
        super().load_state(state)

    def validate(self, engine: Any, progress: Progress) -> dict[str, float]:
        """The official accuracy of the student; under `val/`."""
        if self.validation is None:
            return {}
        return self.validation.run(self.model, steps_done=self.steps_done, progress=progress)


def batcher_of(run: VqaRun, tokenizer: AlbefTokenizer) -> VqaBatcher:
    """The batcher of a run."""
    return VqaBatcher(
        model=run.model.shape,
        augment=run.data.augment,
        max_words=run.data.max_words,
        max_text_tokens=run.objective.max_text_tokens,
        max_answer_tokens=run.objective.max_answer_tokens,
        tokenizer=tokenizer,
    )


def validation_of(
    run: VqaRun, world: World, tokenizer: AlbefTokenizer, candidates: Candidates | None
) -> VqaValidation | None:
    """The validation of a run; None without annotations. Raises: DataError."""
    config = run.validation
    if not config.annotations or candidates is None:
        return None
    corpus = read_annotations(
        config.annotations, config.images or run.data.images, SCORED, section="validation" if config.images else "data"
    )
    if both := set(config.annotations) & set(run.data.annotations):
        log.warning("%s is trained on and validated on: its score is not one of unseen questions", ", ".join(both))
    return VqaValidation(
        data=QuestionSet.of_corpus(corpus, model=run.model.shape, tokenizer=tokenizer),
        candidates=candidates,
        answers=answer_list(candidates, tokenizer, run.model.shape),
        k=config.k_test,
        world=world,
        batch_size=config.batch_size,
        num_workers=config.num_workers,
        majority_after_steps=config.majority_after_steps,
    )
