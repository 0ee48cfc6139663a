"""What an export may replace."""

from __future__ import annotations

import pytest

from albef.errors import CheckpointError
from pipeline.export.output_folder import check_free


def test_only_what_export_and_import_wrote_is_overwritten(tmp_path):
    """Another library's model, a download named albef.pth, our names in other hands: none may be replaced."""
    model, official, download, folders = (tmp_path / name for name in ("model", "official", "download", "folders"))
    for folder in (model, official, download, folders):
        folder.mkdir()
    for name in ("config.json", "model.safetensors", "README.md"):
        (model / name).write_text('{"model_type": "bert"}')
    (folders / "config.json").write_text('{"model_type": "albef"}')
    (folders / "model.safetensors").mkdir()
    for folder in (official, download):
        (folder / "albef.pth").write_bytes(b"weights")
    (official / "made_by_pipeline").write_text("")
    check_free(official, overwrite=True)
    for folder in (model, download, folders):
        with pytest.raises(CheckpointError, match="holds something other than an exported model"):
            check_free(folder, overwrite=True)
