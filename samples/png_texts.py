"""Removes texts and profiles from PNG files, so that their size does not matter.

Pillow unpacks every compressed text and colour profile, and refuses an image whose text has more than 1 MiB. Of all
texts only the orientation changes the pixels.
"""

from __future__ import annotations

import struct
import zlib

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_UNPACKED_BYTES = 1 << 26
"""Of all compressed texts and profiles of an image; more is a bomb. It is Pillow's own limit for all texts."""
MAX_KEPT_BYTES = 1 << 20
"""Of a text that may hold the orientation, unpacked; Pillow refuses larger ones."""
PIECE = 1 << 16
ORIENTATION_KEYS = (b"Raw profile type exif", b"XML:com.adobe.xmp")


class TextBomb(Exception):
    """Texts or profiles that unpack to more than MAX_UNPACKED_BYTES."""


def without_texts(png: bytes) -> bytes:
    """The file without its iCCP, tEXt, zTXt and iTXt chunks, except small ones that may hold an orientation.

    Returns the same object where there is nothing to remove. Damage, and all that follows it, stays for the decoder.

    Raises: TextBomb.
    """
    if not png.startswith(SIGNATURE):
        return png
    kept, start, at, unpacked = [], 0, len(SIGNATURE), 0
    keys = set(ORIENTATION_KEYS)
    view = memoryview(png)
    while at + 12 <= len(png):
        length, kind = struct.unpack_from(">I4s", png, at)
        end = at + 12 + length
        if end > len(png):
            break
        if kind in (b"iCCP", b"tEXt", b"zTXt", b"iTXt"):
            body = view[at + 8 : end - 4]
            key = bytes(body[:80]).split(b"\0", 1)[0]
            size = _unpacked_size(kind, body, len(key), MAX_UNPACKED_BYTES - unpacked)
            unpacked += size
            if unpacked > MAX_UNPACKED_BYTES:
                raise TextBomb(f"its texts and profile unpack to more than {MAX_UNPACKED_BYTES >> 20} MiB")
            if key in keys and max(size, length) <= MAX_KEPT_BYTES:
                keys.discard(key)  # keep the first of several
            else:
                kept.append(view[start:at])
                start = end
        at = end
    return b"".join([*kept, view[start:]]) if kept else png


def _unpacked_size(kind: bytes, body: memoryview, key_length: int, limit: int) -> int:
    """Bytes of a compressed text or profile, counted without keeping them, up to just above `limit`."""
    packed = body[key_length + 2 :]
    if kind == b"tEXt" or (kind == b"iTXt" and bytes(body[key_length + 1 : key_length + 2]) != b"\1"):
        return 0
    if kind == b"iTXt":
        head = bytes(packed[1:4096]).split(b"\0", 2)  # language, translated keyword
        packed = packed[1 + sum(map(len, head[:2])) + 2 :] if len(head) == 3 else packed[:0]
    unpacker, size = zlib.decompressobj(), 0
    try:
        for begin in range(0, len(packed), PIECE):
            piece: bytes | memoryview = packed[begin : begin + PIECE]
            while piece and size <= limit:
                size += len(unpacker.decompress(piece, 1 << 20))
                piece = unpacker.unconsumed_tail
            if size > limit or unpacker.eof:
                break
    except zlib.error:
        pass  # Pillow ignores such a text
    return size
