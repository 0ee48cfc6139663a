"""The momentum teacher: an exponential moving average of the student, and its soft targets."""

# B batch, L text tokens, E embedding, Q queue, N masked tokens, V vocabulary

from __future__ import annotations

import torch
from torch import Tensor, nn

from albef.errors import CheckpointError
from albef.inputs.batch import PretrainBatch, TeacherTargets
from albef.kernels.moving_average import move_averages
from albef.model import AlbefForPretraining
from albef.network.encoders import AlbefEncoders
from albef.precision import at_least_fp32


class MomentumTeacher:
    """The average of the student's weights in fp32, and a copy in the compute precision if that differs (paper, 3.3).

    It is neither an `nn.Module` nor a part of the student: DeepSpeed would cast it, not broadcast it, and export it at
    some stages only. Create it before the engine casts the student.

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
        self.momentum = student.objective.momentum
        self.kernels = student.kernels
        # fp32: 0.005 x (p - p_m) is below half a bf16 step of p_m for most weights, so a bf16 teacher would not move
        dtype = at_least_fp32(torch.empty(0, dtype=next(student.parameters()).dtype)).dtype
        self.weights = _empty_like(student, device, dtype)
        self.model = self.weights if compute_dtype in (None, dtype) else _empty_like(student, device, compute_dtype)
        self._averaged = dict(self.weights.named_parameters())
        with torch.no_grad():
            torch._foreach_copy_(list(self._averaged.values()), self._of_student(student))
        self._refresh()

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


def _empty_like(student: AlbefForPretraining, device: torch.device | str, dtype: torch.dtype) -> AlbefEncoders:
    """Encoders of the student's shape, without gradients; dropout as the objective sets it."""
    with torch.device("meta"):
        model = AlbefEncoders(student.config)
    model = model.to(dtype).to_empty(device=device).requires_grad_(False)
    return model.train(student.objective.teacher_dropout)
