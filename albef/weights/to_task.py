"""Start a task's model from pretraining's weights, or another model's: what is copied, what is new, what is left out.

Names here are ours; `official_names` has the official ones. Every weight is accounted for: the original loads with
`strict=False`, and models whose weights were silently not loaded stayed at chance (salesforce/LAVIS#572, lxmert#84).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from albef.errors import CheckpointError
from albef.objective.queue import NO_ID, FeatureQueue
from albef.weights.files import check_names, check_shapes, few
from albef.weights.official_layouts import ALIGNMENT, ENTAILMENT, NLVR2, PRETRAINING, RETRIEVAL, VQA, Layout, layout_of
from albef.weights.position_embedding import resize_position_embedding

DECODER = (
    ("answer_decoder.embeddings.", "text_encoder.embeddings."),
    ("answer_decoder.layers.", "multimodal_encoder.layers."),
    ("answer_decoder.head.", "mlm_head."),
)
"""Parts of VQA's decoder, and those of pretraining that they copy."""
LAYER = re.compile(r"multimodal_encoder\.layers\.(\d+)\.")
READS_QUESTION = re.compile(r"answer_decoder\.layers\.\d+\.cross_attention\.(key|value)\.weight")
POSITIONS = "image_encoder.pos_embed"
CONTRASTIVE = ("temperature", "image_proj.", "text_proj.")


@dataclass(frozen=True)
class Start:
    """How the weights of one kind of model start from those of another."""

    source: Callable[[str], str]
    """The name of the weight that a weight copies; for a created one, of none."""
    created: tuple[str, ...] = ()
    """Names, or beginnings of names, of weights that keep their random values."""
    unused: tuple[str, ...] = ()
    """The same, of weights that the model has no use for."""


@dataclass(frozen=True, kw_only=True)
class StartReport:
    """What became of the weights, for the log."""

    source: str
    loaded: tuple[str, ...]
    """Names of the model's weights that were loaded."""
    created: tuple[str, ...]
    """Names of those that keep their random values."""
    unused: tuple[str, ...]
    """Names of the source's weights that the model has no use for."""
    notes: tuple[str, ...] = ()
    """Tensors that were resized."""

    def __str__(self) -> str:
        parts = [f"{len(self.loaded)} of {len(self.loaded) + len(self.created)} weights from {self.source}"]
        parts += [f"random: {few(list(self.created))}"] if self.created else []
        parts += [f"not used: {few(list(self.unused))}"] if self.unused else []
        return "; ".join([*parts, *self.notes])


def same_source(name: str) -> str:
    """Every part as it is."""
    return name


def vqa_source(name: str) -> str:
    """The decoder copies word embeddings, multimodal layers and MLM head, beside the encoders themselves."""
    for own, copied in DECODER:
        if name.startswith(own):
            return copied + name.removeprefix(own)
    return name


def two_image_source(name: str) -> str:
    """Both layers of a pair copy one multimodal layer."""
    return LAYER.sub(lambda match: f"multimodal_encoder.layers.{int(match[1]) // 2}.", name)


STARTS: dict[tuple[str, str], Start] = {
    (before.name, after.name): start
    for before, after, start in (
        (PRETRAINING, RETRIEVAL, Start(same_source, unused=("mlm_head.",))),
        (
            PRETRAINING,
            ENTAILMENT,
            Start(same_source, created=("cls_head.",), unused=(*CONTRASTIVE, "itm_head.", "mlm_head.")),
        ),
        (PRETRAINING, VQA, Start(vqa_source, unused=(*CONTRASTIVE, "itm_head."))),
        (
            PRETRAINING,
            ALIGNMENT,
            Start(two_image_source, created=("ta_head.",), unused=("itm_head.", "mlm_head.")),
        ),
        (ALIGNMENT, NLVR2, Start(same_source, created=("cls_head.",), unused=(*CONTRASTIVE, "ta_head."))),
        (
            PRETRAINING,
            NLVR2,
            Start(two_image_source, created=("cls_head.",), unused=(*CONTRASTIVE, "itm_head.", "mlm_head.")),
        ),
    )
}
"""By the names of the two layouts. A model also starts from one of its own kind."""


def start_task(model: nn.Module, state: Mapping[str, Tensor], *, source: str) -> StartReport:
    """Load the weights of another model, or of one of the same kind, into a task's model.

    Args:
        model: changed in place, or not at all when an error is raised.
        state: state dict in our names, of pretraining, text assignment, or the same task.
        source: its name in errors and in the report.

    Raises:
        CheckpointError: no model of this kind starts from such weights; a weight is missing that would be loaded, is
            left over, or does not fit.
    """
    weights, report = start_weights(model.state_dict(), state, source=source)
    model.load_state_dict(weights)
    return report


def start_weights(
    wanted: Mapping[str, Tensor], state: Mapping[str, Tensor], *, source: str
) -> tuple[dict[str, Tensor], StartReport]:
    """The weights that a model, or its momentum teacher, starts from; arguments and errors as in `start_task`.

    Args:
        wanted: the model's own weights; created ones are kept. For a teacher, its `state_dict()`, with `state` that of
            the source's teacher.
    """
    before, after = layout_of(state), layout_of(wanted)
    start = Start(same_source) if before is after else STARTS.get((before.name, after.name))
    if start is None:
        raise CheckpointError(
            f"{source} is of {before.name}, and a model of {after.name} does not start from it",
            f"give weights of {' or '.join(_possible(after))}",
        )
    weights, created = {}, []
    for name, own in wanted.items():
        copied = state.get(start.source(name))
        # copied from attention to images: where their width is another, it cannot read the question's text states
        misfit = copied is not None and READS_QUESTION.fullmatch(name) and copied.shape[1] != own.shape[1]
        if name.startswith(start.created) or (misfit and before is not after):
            created.append(name)
            weights[name] = own
        elif copied is not None:
            weights[name] = copied
    taken = {start.source(name) for name in weights if name not in created}
    unused = [name for name in state if name not in taken]
    check_names(
        missing=[start.source(name) for name in wanted if name not in weights],
        unknown=[name for name in unused if not name.startswith(start.unused)],
        source=source,
    )
    notes = _resize_positions(weights, wanted)
    check_shapes(weights, {name: tensor.shape for name, tensor in wanted.items()}, source=source)
    loaded = tuple(name for name in wanted if name not in created)
    return weights, StartReport(source=source, loaded=loaded, created=tuple(created), unused=tuple(unused), notes=notes)


def start_queue(queue: FeatureQueue, saved: Mapping[str, Tensor]) -> None:
    """Load the features of pretraining's queue into retrieval's: no image of the task has the id of their rows.

    Args:
        queue: changed in place, with ids or without.
        saved: state of pretraining's queue.

    Raises:
        CheckpointError: it is of another size or embedding width.
    """
    ids = {} if queue.ids is None else {"ids": queue.ids.new_full((len(saved["image"]),), NO_ID)}
    queue.load_state_dict({**ids, **saved})


def _resize_positions(weights: dict[str, Tensor], wanted: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Fit the image position embeddings to the model's number of patches; what was done, for the report."""
    old, new = weights[POSITIONS].shape[1] - 1, wanted[POSITIONS].shape[1] - 1
    if old == new:
        return ()
    weights[POSITIONS] = resize_position_embedding(weights[POSITIONS], new)
    return (f"position embeddings resized from {old} to {new} patches",)


def _possible(after: Layout) -> list[str]:
    return [first for first, last in STARTS if last == after.name] + [after.name]
