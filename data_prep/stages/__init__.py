"""The stages that commands run: download, pack, import, retry, verify."""
