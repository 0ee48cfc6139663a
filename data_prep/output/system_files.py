"""Files that operating systems and file managers put beside a person's own: they are no samples."""

from __future__ import annotations

FILES = {".ds_store", ".directory", ".localized", "desktop.ini", "ehthumbs.db", "icon\r", "thumbs.db"}
FOLDERS = {
    "#recycle",
    "$recycle.bin",
    ".appledouble",
    ".fseventsd",
    ".snapshot",
    ".spotlight-v100",
    ".trashes",
    "@eadir",
    "__macosx",
    "lost+found",
    "system volume information",
}
APPLE_DOUBLE = (b"\x00\x05\x16\x07", b"\x00\x05\x16\x00")
"""First bytes of `._NAME`, where macOS keeps what the archive's format cannot store of NAME."""


def is_system_file(name: str) -> bool:
    """Whether a path names a system's file or folder, or anything inside such a folder."""
    parts = name.lower().split("/")
    return parts[-1] in FILES or parts[-1].startswith((".nfs", ".fuse_hidden")) or not FOLDERS.isdisjoint(parts)


def is_apple_double(name: str, start: bytes) -> bool:
    """Whether a file is macOS's companion of another one.

    Args:
        start: its first bytes; the name alone could be a person's.
    """
    return name.rpartition("/")[2].startswith("._") and start.startswith(APPLE_DOUBLE)
