"""A trained model with its tokenizer and preprocessing, saved to a folder and loaded from it; each kind a subclass."""

# B images or texts, P patches, D image width, E embedding

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, ClassVar, Generic, Self, TypeVar

import torch
from PIL import Image
from torch import Tensor, nn

from albef.config import AlbefConfig
from albef.downstream.paired_fusion import TwoImageEncoders
from albef.errors import CheckpointError, ConfigError
from albef.inputs.arguments import IMAGES, as_images
from albef.inputs.preprocess import MEAN, STD, preprocess_images
from albef.inputs.tokenizer import AlbefTokenizer
from albef.json_file import read_object
from albef.network.encoders import ImageTextEncoders
from albef.regular_file import check_folder
from albef.weights.files import check_fit, load_strictly, read_weights
from albef.weights.model_folder import MODEL_TYPES, TRAINING_DATA, check_replaceable
from albef.weights.tensor_file import write_tensors
from samples.quote import quote

FORMAT_VERSION = 1
HINT = "give a folder written by `python -m pipeline export` or Albef.save_pretrained"

M = TypeVar("M", bound=ImageTextEncoders | TwoImageEncoders)


class SavedModel(nn.Module, Generic[M]):
    """A model with its tokenizer and preprocessing, in evaluation mode.

    Args:
        model: the trained model; kept, not copied, and put in evaluation mode.
        tokenizer: with the model's vocabulary; None takes the packaged one.
        max_text_tokens: texts are cut to this many tokens, [CLS] included. Positions beyond those of training are
            untrained unless they came from BERT, so an export writes the number used in training.
    """

    model_type: ClassVar[str]
    """What config.json calls this kind; one of `albef.weights.model_folder.MODEL_TYPES`."""
    detail_types: ClassVar[dict[str, type | UnionType]] = {}
    """What config.json has of this kind besides: keywords of the class, and their types."""

    training_data: dict[str, Any] | None = None
    """What the weights were trained on, as its folder has it and another one gets it; None where it is not known."""

    @classmethod
    def build(cls, config: AlbefConfig) -> M:
        """Makes a model of this kind and shape."""
        raise NotImplementedError

    def __init__(self, model: M, tokenizer: AlbefTokenizer | None = None, *, max_text_tokens: int = 30) -> None:
        super().__init__()
        model.eval()
        self.model = model
        self.config = model.config
        self.tokenizer = tokenizer or AlbefTokenizer()
        self.max_text_tokens = min(max_text_tokens, model.config.max_text_positions)
        if self.tokenizer.vocab_size != model.config.vocab_size:
            raise CheckpointError(
                f"the tokenizer has {self.tokenizer.vocab_size} entries, the model {model.config.vocab_size}",
                "use the tokenizer the model was trained with",
            )

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: torch.device | str | None = None) -> Self:
        """Load a folder that `save_pretrained` of this class, or of one of its subclasses, wrote.

        Args:
            folder: holds model.safetensors, config.json, preprocessor_config.json and the tokenizer.
            device: None takes the first CUDA device if there is one, else the CPU.

        Returns: a model of the class that wrote the folder.

        Raises:
            CheckpointError: a file is missing, damaged, in a newer format, of another kind, or does not fit the others.
        """
        folder = Path(folder)
        check_folder(folder, hint=HINT)
        kinds = {kind.model_type: kind for kind in (cls, *cls.__subclasses__())}
        model_type, config, max_text_tokens = _read_config(folder / "config.json", list(kinds))
        kind = kinds[model_type]
        details = _read_details(folder / "config.json", kind.detail_types)
        _check_preprocessing(folder / "preprocessor_config.json", config)
        tokenizer = AlbefTokenizer(folder)
        model: M = _read_model(folder / "model.safetensors", kind.build, config)
        saved = kind(model, tokenizer, max_text_tokens=max_text_tokens, **details)
        if os.path.lexists(folder / TRAINING_DATA):
            saved.training_data = read_object(folder / TRAINING_DATA, hint=HINT)
        return saved.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))

    def save_pretrained(self, folder: str | Path, *, model_card: str | None = None) -> None:
        """Write model.safetensors, the tokenizer, preprocessor_config.json, training_data.json where there is one, and,
        last, config.json.

        Args:
            folder: created if it is missing. If it holds an ALBEF, its files are replaced; other files stay.
            model_card: text of README.md.

        Raises: CheckpointError when the folder holds files of the same names that are not an ALBEF's.
        """
        folder = Path(folder)
        check_replaceable(folder)
        folder.mkdir(parents=True, exist_ok=True)
        _write_json(folder / "config.json", {"model_type": self.model_type})  # half-written, it is no model yet
        state = {name: tensor.detach().cpu() for name, tensor in self.model.state_dict().items()}
        write_tensors(folder / "model.safetensors", state, metadata={"format": "pt"})
        self.tokenizer.save(folder)
        _write_json(folder / "preprocessor_config.json", _preprocessing(self.config))
        (folder / TRAINING_DATA).unlink(missing_ok=True)  # another model's, if the folder had one
        if self.training_data is not None:
            _write_json(folder / TRAINING_DATA, self.training_data)
        if model_card is not None:
            (folder / "README.md").write_text(model_card, encoding="utf-8")
        config = {
            "model_type": self.model_type,
            "format_version": FORMAT_VERSION,
            "max_text_tokens": self.max_text_tokens,
            "model": self.config.to_dict(),
            **self.details(),
        }
        _write_json(folder / "config.json", config)

    def details(self) -> dict[str, Any]:
        """What `detail_types` names, as JSON values."""
        return {}

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.model.parameters()).device

    def pixels(self, images: Image.Image | Sequence[Image.Image] | Tensor) -> Tensor:
        """Images as the model takes them, (B, 3, H, W) on its device. Raises: as `checked_images`."""
        images = self.checked_images(images)
        pixels = images if isinstance(images, Tensor) else preprocess_images(images, self.config.image_size)
        return pixels.to(self.device)

    def checked_images(self, images: Image.Image | Sequence[Image.Image] | Tensor) -> list[Image.Image] | Tensor:
        """Checked images: a list of images, or a tensor of the type and shape it needs."""
        side = self.config.image_size
        if not isinstance(images, Tensor):
            return as_images(images)
        if images.ndim != 4 or not images.is_floating_point():
            raise TypeError(
                f"{IMAGES}, or preprocessed floats (B, 3, {side}, {side}) expected, not a tensor {tuple(images.shape)} "
                f"of {images.dtype}; preprocess with albef.inputs.preprocess.preprocess_images, "
                "one picture is image[None]"
            )
        if images.shape[1:] != (3, side, side):
            raise ValueError(f"preprocessed pictures are (B, 3, {side}, {side}), this tensor is {tuple(images.shape)}")
        return images


def _read_config(path: Path, model_types: list[str]) -> tuple[str, AlbefConfig, int]:
    """The model's type, one of `model_types`, its shape, and the number of tokens that texts are cut to."""
    values = read_object(path, hint=HINT)
    if (found := values.get("model_type", model_types[0])) not in model_types:
        raise CheckpointError(
            f"{path} is of a model of the type {quote(repr(found), 40)}, not {model_types[0]}",
            f"load it with {MODEL_TYPES[found]}" if str(found) in MODEL_TYPES else HINT,
        )
    version, shape, max_text_tokens = (values.get(key) for key in ("format_version", "model", "max_text_tokens"))
    if isinstance(version, bool) or version != FORMAT_VERSION or not isinstance(shape, dict):
        raise CheckpointError(
            f"{path} is not of an ALBEF in format {FORMAT_VERSION}: format_version is {quote(repr(version), 40)}", HINT
        )
    if not isinstance(max_text_tokens, int) or isinstance(max_text_tokens, bool) or max_text_tokens < 1:
        raise CheckpointError(
            f"{path}: max_text_tokens is {quote(repr(max_text_tokens), 40)}, not a number of tokens", HINT
        )
    try:
        return found, AlbefConfig.from_dict(shape), max_text_tokens
    except ConfigError as error:
        raise CheckpointError(f"{path} describes no model: {error.message}", HINT) from error


def _read_details(path: Path, types: Mapping[str, type | UnionType]) -> dict[str, Any]:
    """What a kind has besides, of these types."""
    values = read_object(path, hint=HINT)
    for name, its in types.items():
        if name not in values or not isinstance(values[name], its):
            raise CheckpointError(f"{path}: {name} is {quote(repr(values.get(name)), 40)}", HINT)
    return {name: values[name] for name in types}


def _read_model(path: Path, build: Callable[[AlbefConfig], M], config: AlbefConfig) -> M:
    """The model of this shape with the weights of a file. Memory is allocated only after the file is found to fit."""
    state = read_weights(path)
    with torch.device("meta"):
        model = build(config)
    assert model.state_dict().keys() >= dict(model.named_buffers()).keys(), "an unsaved buffer would be left unset"
    check_fit(model, state, source=str(path))
    load_strictly(model.to_empty(device="cpu"), state, source=str(path))
    return model


def _preprocessing(config: AlbefConfig) -> dict[str, Any]:
    """`albef.inputs.preprocess` as the config of a Hugging Face image processor."""
    return {
        "image_processor_type": "ViTImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"height": config.image_size, "width": config.image_size},
        "resample": int(Image.Resampling.BICUBIC),
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(MEAN),
        "image_std": list(STD),
    }


def _check_preprocessing(path: Path, config: AlbefConfig) -> None:
    """Check that the folder has this preprocessing: with another, results would silently be wrong."""
    values = read_object(path, hint=HINT)
    different = [name for name, value in _preprocessing(config).items() if values.get(name) != value]
    if different:
        raise CheckpointError(f"{path} asks for another preprocessing: {', '.join(different)} differ", HINT)


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
