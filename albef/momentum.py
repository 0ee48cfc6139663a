"""The momentum teacher: an exponential moving average of the student, and its soft targets."""

# B batch, L text tokens, E embedding, Q queue, N masked tokens, V vocabulary

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from albef.errors import CheckpointError
from albef.inputs.batch import PretrainBatch, TeacherTargets
from albef.kernels.dispatch import Impl
from albef.kernels.moving_average import move_averages
from albef.model import AlbefForPretraining
from albef.network.encoders import AlbefEncoders
from albef.precision import at_least_fp32

M = TypeVar("M", bound=nn.Module)


class MomentumWeights(Generic[M]):
    """The average of a student's weights in fp32, and a copy in the compute precision if that differs (paper, 3.3).

    It is neither an `nn.Module` nor a part of the student: DeepSpeed would cast it, not broadcast it, and export it at
    some stages only. Create it after the student's weights are loaded and before the engine casts them.

    Args:
        student: source of the initial weights; the same on every rank.
        build: makes a module with the student's names, or with those of the part that is averaged; without buffers.
        momentum: decay of the average, per update.
        device: where the average lives.
        compute_dtype: type of the forward; None takes the weights' (fp32, or float64 if the student is float64).
        dropout: keep the module's dropout on.
        kernels: version of the kernel that moves the average.
    """

    def __init__(
        self,
        student: nn.Module,
        build: Callable[[], M],
        *,
        momentum: float,
        device: torch.device | str,
        compute_dtype: torch.dtype | None = None,
        dropout: bool = False,
        kernels: Impl = "auto",
    ) -> None:
        self.momentum = momentum
        self.kernels = kernels
        # fp32: 0.005 x (p - p_m) is below half a bf16 step of p_m for most weights, so a bf16 teacher would not move
        dtype = at_least_fp32(torch.empty(0, dtype=next(student.parameters()).dtype)).dtype
        self.weights = _empty(build, device, dtype).train(dropout)
        """Module of the averages; its forward is in their precision."""
        narrow = compute_dtype not in (None, dtype)
        self.model = _empty(build, device, compute_dtype).train(dropout) if narrow else self.weights
        """The same in the compute precision, whose forward gives the targets."""
        self._averaged = dict(self.weights.named_parameters())
        self.copy_from(student)

    @torch.no_grad()
    def copy_from(self, student: nn.Module) -> None:
        """Make the average equal to the student's weights, as it is at the start."""
        torch._foreach_copy_(list(self._averaged.values()), self._of_student(student))
        self._refresh()

    @torch.no_grad()
    def update(self, student: nn.Module) -> None:
        """Move the average towards the student, p_m = m p_m + (1 - m) p, in place; call it after the optimizer's step.

        Args:
            student: the student, or an engine that wraps it.
        """
        copies: list[Tensor] = [] if self.model is self.weights else [*self.model.parameters()]
        averages: list[Tensor] = [*self._averaged.values()]
        move_averages(averages, self._of_student(student), copies, 1 - self.momentum, impl=self.kernels)

    def state_dict(self) -> dict[str, Tensor]:
        """Copies of the averaged weights, flat, named as in the student."""
        return {name: weight.detach().clone() for name, weight in self._averaged.items()}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Load the result of `state_dict`, with nothing missing and nothing left over.

        Raises:
            CheckpointError: names or shapes are not this teacher's.
        """
        wrong = sorted(state.keys() ^ self._averaged.keys()) + [
            name for name in state.keys() & self._averaged.keys() if state[name].shape != self._averaged[name].shape
        ]
        if wrong:
            raise CheckpointError(
                f"teacher: {len(wrong)} weights are missing, unknown or of another shape, first {wrong[0]}",
                "the checkpoint is of another model size; use the recipe it was trained with",
            )
        for name, weight in self._averaged.items():
            weight.copy_(state[name])
        self._refresh()

    def _refresh(self) -> None:
        """Update the copy in the compute precision."""
        if self.model is not self.weights:
            torch._foreach_copy_(list(self.model.parameters()), list(self.weights.parameters()))

    def _of_student(self, student: nn.Module) -> list[Tensor]:
        """The student's weights in the order of the averaged ones; an engine's are those of the model it wraps."""
        source = dict(getattr(student, "module", student).named_parameters())
        for name, weight in self._averaged.items():
            assert source[name].shape == weight.shape, f"{name}: {tuple(source[name].shape)} in the student"
        return [source[name].data for name in self._averaged]


class MomentumTeacher(MomentumWeights[AlbefEncoders]):
    """The teacher of pretraining: the averaged encoders, without matching head and temperature.

    Args:
        student: source of shape, switches, momentum, kernels and initial weights; the same on every rank.
        device: the device of the teacher.
        compute_dtype: type of its forward; None takes its weights' (fp32, or float64 if the student is float64).
    """

    def __init__(
        self,
        student: AlbefForPretraining,
        *,
        device: torch.device | str,
        compute_dtype: torch.dtype | None = None,
    ) -> None:
        self.objective = student.objective
        super().__init__(
            student,
            lambda: AlbefEncoders(student.config),
            momentum=student.objective.momentum,
            device=device,
            compute_dtype=compute_dtype,
            dropout=student.objective.teacher_dropout,
            kernels=student.kernels,
        )

    @torch.no_grad()
    def targets(self, batch: PretrainBatch) -> TeacherTargets:
        """The teacher's features and soft targets of one micro-batch; no gradient.

        Args:
            batch: the micro-batch of the student, with the same masks.

        Returns: the features in any case, because they are candidates, fill the queue and give the soft targets of ITC.
        A target that no loss reads (the loss or its distillation is off) is None and is not computed. The MLM logits
        name this teacher's weights: take the backward before `update`.
        """
        model, targets_mlm = self.model, self.objective.mlm and self.objective.distill_mlm
        image_embeds, image_feat = model.encode_image(batch.image)
        text_embeds, masked_embeds = model.encode_clean_and_masked(batch, masked=targets_mlm)
        assert text_embeds is not None
        text_feat = model.project_text(text_embeds)
        targets = TeacherTargets(image_feat=image_feat, text_feat=text_feat)
        if masked_embeds is not None:
            fused = model.multimodal_encoder(
                masked_embeds, batch.attention_mask, image_embeds, positions=batch.mlm_positions
            )
            targets.mlm_logits = model.predict_masked(fused)
        return targets


def _empty(build: Callable[[], M], device: torch.device | str, dtype: torch.dtype | None) -> M:
    """The module with weights without values or gradients; weights that it shares stay shared (`to_empty` parts them).

    It is built without memory, and without a draw from the random generator.
    """
    with torch.device("meta"):
        model = build()
    assert not list(model.buffers()), "a buffer would be neither averaged nor saved"
    made: dict[nn.Parameter, nn.Parameter] = {}
    for module in model.modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            if weight not in made:
                made[weight] = nn.Parameter(torch.empty_like(weight, device=device, dtype=dtype), requires_grad=False)
            setattr(module, name, made[weight])
    return model
