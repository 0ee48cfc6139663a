"""The layouts of official checkpoints, one for each kind of model: its keys in their order, and how it is recognised.

A new layout is a `Layout` in `LAYOUTS`, of parts in `official_names`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from albef.config import AlbefConfig
from albef.downstream.alignment import AlbefForAlignment
from albef.downstream.nlvr2 import AlbefForNlvr2
from albef.downstream.retrieval import AlbefForRetrieval
from albef.downstream.snli_ve import AlbefForEntailment
from albef.downstream.vqa import AlbefForVqa
from albef.errors import CheckpointError
from albef.inputs.snli_ve_batch import CLASSES
from albef.model import AlbefForPretraining
from albef.weights import official_names as parts
from albef.weights.official_names import Names

QUEUES = {"image_queue": "image", "text_queue": "text", "idx_queue": "ids", "queue_ptr": "pointer"}
"""Official name -> name in the state of a `FeatureQueue`."""


@dataclass(frozen=True)
class Depths:
    """Layers of a checkpoint, as in `AlbefConfig`."""

    vision: int
    text: int
    fusion: int


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One kind of official checkpoint."""

    name: str
    """For messages."""
    recognise: Callable[[Mapping[str, Tensor]], bool]
    """Whether a state dict, official or ours, is of this kind; the first layout that recognises one is taken."""
    model: Callable[[AlbefConfig], nn.Module]
    """Makes the model, whose weights have our names and shapes."""
    student: Callable[[Depths], Names]
    """Every official key of the student, in the official order."""
    teacher: tuple[str, ...]
    """The student's modules that have a momentum copy, in the order of the copies; empty for a model without."""
    queue: tuple[str, ...] = ()
    """Official names of the queue's parts, in their order."""
    bert: str = "text_encoder"
    """Where the official BERT of text and multimodal encoder is."""
    layers_per_fusion: int = 1
    """Multimodal layers for each one of `AlbefConfig.fusion_depth`: two where two images are read."""

    def names(self, depths: Depths, *, teacher: bool = False) -> Names:
        """The official keys of student or teacher."""
        student = self.student(depths)
        return parts.of_teacher(student, self.teacher) if teacher else student

    def depths_of_official(self, names: Iterable[str], source: str) -> Depths:
        """Count the layers of an official state dict.

        Raises:
            CheckpointError: it has no image encoder, no BERT or no cross-attention.
        """
        names = list(names)
        vision = parts.count(names, "visual_encoder.blocks")
        layers = parts.count(names, f"{self.bert}.encoder.layer")
        crossing = [f"{self.bert}.encoder.layer.{i}.crossattention." for i in range(layers)]
        crossed = [i for i, stem in enumerate(crossing) if any(name.startswith(stem) for name in names)]
        if not vision or not layers or not crossed:
            raise CheckpointError(
                f"{source} is not an official ALBEF checkpoint: as one of {self.name} it has {vision} "
                f"visual_encoder.blocks, {layers} {self.bert}.encoder.layer, {len(crossed)} of them with "
                "crossattention",
                "give ALBEF.pth, ALBEF_4M.pth, or a checkpoint that was fine-tuned from them",
            )
        return Depths(vision, crossed[0], (layers - crossed[0]) // self.layers_per_fusion)

    def depths_of_ours(self, names: Iterable[str]) -> Depths:
        """Count the layers of a state dict of ours."""
        names = list(names)
        stems = ("image_encoder.blocks", "text_encoder.layers", "multimodal_encoder.layers")
        vision, text, fusion = (parts.count(names, stem) for stem in stems)
        return Depths(vision, text, fusion // self.layers_per_fusion)


def layout_of(state: Mapping[str, Tensor]) -> Layout:
    """The layout of a state dict, official or ours; `retrieval` when nothing speaks for another."""
    return next(layout for layout in LAYOUTS if layout.recognise(state))


def _pretraining(depths: Depths) -> Names:
    bert = parts.text_and_fusion("text_encoder.bert", text_depth=depths.text, fusion_depth=depths.fusion)
    return _contrastive(depths, bert | parts.word_head("text_encoder", "mlm_head"))


def _retrieval(depths: Depths) -> Names:
    return _contrastive(
        depths, parts.text_and_fusion("text_encoder", text_depth=depths.text, fusion_depth=depths.fusion)
    )


def _vqa(depths: Depths) -> Names:
    bert = parts.text_and_fusion("text_encoder", text_depth=depths.text, fusion_depth=depths.fusion)
    return {
        **parts.image_encoder(depths.vision),
        **bert,
        **parts.answer_decoder(depths.fusion),
        **parts.word_head("text_decoder", "answer_decoder.head"),
    }


def _nlvr2(depths: Depths) -> Names:
    bert = parts.text_and_paired_fusion("text_encoder", text_depth=depths.text, pairs=depths.fusion)
    heads = parts.both("cls_head.0", "cls_head.0") | parts.both("cls_head.2", "cls_head.2")
    return {**parts.image_encoder(depths.vision), **bert, **heads}


def _alignment(depths: Depths) -> Names:
    temperature: Names = {"temp": "temperature"}
    return {
        **temperature,
        **parts.image_encoder(depths.vision),
        **parts.text_and_paired_fusion("text_encoder", text_depth=depths.text, pairs=depths.fusion),
        **parts.both("vision_proj", "image_proj"),
        **parts.both("text_proj", "text_proj"),
        **parts.both("ta_head", "ta_head"),
    }


def _contrastive(depths: Depths, text_encoder: Names) -> Names:
    temperature: Names = {"temp": "temperature"}
    return {
        **temperature,
        **parts.image_encoder(depths.vision),
        **text_encoder,
        **parts.both("vision_proj", "image_proj"),
        **parts.both("text_proj", "text_proj"),
        **parts.both("itm_head", "itm_head"),
    }


def _entailment(depths: Depths) -> Names:
    return {
        **parts.image_encoder(depths.vision),
        **parts.text_and_fusion("text_encoder", text_depth=depths.text, fusion_depth=depths.fusion),
        **parts.both("cls_head.0", "cls_head.0"),
        **parts.both("cls_head.2", "cls_head.2"),
    }


def _classifies(classes: int) -> Callable[[Mapping[str, Tensor]], bool]:
    """Whether there is a head of this many classes, which has the same names officially and here."""

    def recognise(state: Mapping[str, Tensor]) -> bool:
        last = state.get("cls_head.2.bias", state.get("cls_head.2.weight"))
        return last is not None and len(last) == classes

    return recognise


def _has(*prefixes: str) -> Callable[[Mapping[str, Tensor]], bool]:
    return lambda state: any(name.startswith(prefixes) for name in state)


PRETRAINING = Layout(
    name="pretraining",
    recognise=_has("text_encoder.bert.", "mlm_head."),
    model=AlbefForPretraining,
    student=_pretraining,
    teacher=("visual_encoder", "vision_proj", "text_encoder", "text_proj"),
    queue=("image_queue", "text_queue", "queue_ptr"),
    bert="text_encoder.bert",
)
RETRIEVAL = Layout(
    name="retrieval or grounding",
    recognise=lambda state: True,
    model=AlbefForRetrieval,
    student=_retrieval,
    teacher=("visual_encoder", "vision_proj", "text_encoder", "text_proj"),
    queue=("image_queue", "text_queue", "idx_queue", "queue_ptr"),
)
ENTAILMENT = Layout(
    name="visual entailment",
    recognise=_classifies(len(CLASSES)),
    model=AlbefForEntailment,
    student=_entailment,
    teacher=("visual_encoder", "text_encoder", "cls_head"),
)
VQA = Layout(
    name="visual question answering",
    recognise=_has("text_decoder.", "answer_decoder."),
    model=AlbefForVqa,
    student=_vqa,
    teacher=("visual_encoder", "text_encoder", "text_decoder"),
)
NLVR2 = Layout(
    name="NLVR2",
    recognise=_classifies(2),
    model=AlbefForNlvr2,
    student=_nlvr2,
    teacher=("visual_encoder", "text_encoder", "cls_head"),
    layers_per_fusion=2,
)
ALIGNMENT = Layout(
    name="text assignment",
    recognise=_has("ta_head."),
    model=AlbefForAlignment,
    student=_alignment,
    teacher=(),
    layers_per_fusion=2,
)
LAYOUTS = (PRETRAINING, ENTAILMENT, VQA, NLVR2, ALIGNMENT, RETRIEVAL)
"""In the order in which they are tried."""
