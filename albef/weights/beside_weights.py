"""Empty stand-ins for objects that training scripts pickle beside the weights: none of those is imported or run.

An `argparse.Namespace` of settings would otherwise keep torch's restricted loader from reading the weights next to it.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any


class Discarded:
    """Replaces an object whose content is not needed here."""

    def __new__(cls, *_args: Any, **_fields: Any) -> Discarded:
        return object.__new__(cls)

    def __init__(self, *_args: Any, **_fields: Any) -> None:
        """Accepts anything."""

    def __setstate__(self, _state: Any) -> None:
        """Accepts anything."""


class DiscardedMapping:
    """Replaces a class derived from dict: torch's loader sets items only on the kinds of dict that it knows."""

    def __new__(cls, *_args: Any, **_fields: Any) -> Any:
        return OrderedDict()


OBJECTS = (
    "argparse.Namespace",
    "types.SimpleNamespace",
    *(f"pathlib{part}.{name}" for part in ("", "._local") for name in ("PosixPath", "WindowsPath", "Path")),
    *(f"pathlib{part}.Pure{name}" for part in ("", "._local") for name in ("PosixPath", "WindowsPath", "Path")),
    *(f"datetime.{name}" for name in ("datetime", "date", "timedelta", "timezone")),
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    *(f"numpy.dtypes.{name}DType" for name in ("Float16", "Float32", "Float64", "Int32", "Int64", "Bool", "UInt8")),
    *("numpy.dtype", "numpy.ndarray", "numpy.float64", "numpy.float32", "numpy.int64", "numpy.bool_"),
    *(f"omegaconf.{name}" for name in ("dictconfig.DictConfig", "listconfig.ListConfig")),
    *(f"omegaconf.base.{name}" for name in ("ContainerMetadata", "Metadata", "SCMode")),
    *(f"omegaconf.nodes.{kind}Node" for kind in ("Any", "String", "Integer", "Float", "Boolean", "Path", "Bytes")),
    "omegaconf.nodes.EnumNode",
    "typing.Any",
    *(f"builtins.{name}" for name in ("dict", "list", "tuple", "int", "float", "str", "bool", "object")),
)
MAPPINGS = (
    "collections.defaultdict",
    "easydict.EasyDict",
    "addict.addict.Dict",
    "yacs.config.CfgNode",
    "ruamel.yaml.comments.CommentedMap",
    "ruamel.yaml.compat.ordereddict",
)
STAND_INS: list[Any] = [(Discarded, name) for name in OBJECTS] + [(DiscardedMapping, name) for name in MAPPINGS]
"""In the form that `torch.serialization.safe_globals` takes: names as in the file, with our classes."""
