"""Images made to be hard to read, whose right colours are known because they are painted here."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image

RED, GREEN, BLUE, WHITE = (200, 30, 40), (20, 160, 60), (30, 50, 190), (255, 255, 255)


def halves(
    width: int = 200, height: int = 120, left: object = RED, right: object = BLUE, mode: str = "RGB"
) -> Image.Image:
    """Two flat colours side by side: orientation, colours and size can all be seen in it."""
    image = Image.new(mode, (width, height), left)  # type: ignore[arg-type]
    image.paste(right, (width // 2, 0, width, height))  # type: ignore[arg-type]
    return image


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def jpeg(image: Image.Image | None = None, **options: object) -> bytes:
    return saved(image or halves(), "JPEG", **{"quality": 95, **options})


def as_stored(upright: Image.Image, orientation: object) -> Image.Image:
    """An upright picture as a camera that writes this EXIF orientation stores it; unknown values turn nothing."""
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    return upright.transpose(undo[orientation]) if orientation in undo else upright


def rotated_jpeg(orientation: int, width: int = 200, height: int = 120) -> bytes:
    """A JPEG that, turned by its EXIF orientation, shows `halves(width, height)` upright."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return jpeg(as_stored(halves(width, height), orientation), exif=exif)


def animated(kind: str) -> bytes:
    """First frame as `halves()`, second all green."""
    return saved(halves(), kind, save_all=True, append_images=[Image.new("RGB", (200, 120), GREEN)], lossless=True)


def transparent_png(mode: str = "RGBA") -> bytes:
    """Left half opaque, right half invisible black."""
    if mode == "LA":
        return saved(halves(left=(90, 255), right=(0, 0), mode="LA"), "PNG")
    if mode == "P":
        paletted = Image.new("P", (200, 120), 0)
        paletted.putpalette([*RED, 0, 0, 0])
        paletted.paste(1, (100, 0, 200, 120))
        return saved(paletted, "PNG", transparency=1)
    return saved(halves(left=(*RED, 255), right=(0, 0, 0, 0), mode="RGBA"), "PNG")


def sixteen_bit_png(left: int = 0x4000, right: int = 0xC000) -> bytes:
    values = np.full((120, 200), left, dtype=np.uint16)
    values[:, 100:] = right
    return saved(Image.fromarray(values), "PNG")


def sixteen_bit_rgb_png() -> bytes:
    """Pillow cannot write one: RED on the left, BLUE on the right, 257 times each value."""
    row = b"\0" + b"".join(
        struct.pack(">3H", *(257 * value for value in (RED if x < 100 else BLUE))) for x in range(200)
    )
    return _png(200, 120, bit_depth=16, color_type=2, rows=row * 120)


def enormous_png(side: int = 20_000) -> bytes:
    """A square of `side` pixels, one bit each: some kilobytes that decode to gigabytes of colour."""
    row = b"\0" + b"\xff" * (side // 8)
    return _png(side, side, bit_depth=1, color_type=0, rows=row * side)


def wide_png() -> bytes:
    """Two billion pixels in its header, and none behind it."""
    return _png(2**31 - 1, 1, bit_depth=8, color_type=2, rows=b"")


def wide_gif() -> bytes:
    """65,535 pixels square, of which it holds one."""
    screen = struct.pack("<HHBBB", 65_535, 65_535, 0x80, 0, 0) + bytes(6)
    return b"GIF89a" + screen + b"," + struct.pack("<HHHHB", 0, 0, 65_535, 65_535, 0) + b"\x02\x02\x44\x01\x00;"


def wide_jpeg() -> bytes:
    """A small picture whose header claims 65,500 x 65,500."""
    data = bytearray(jpeg())
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", 65_500, 65_500)
    return bytes(data)


def bomb_in_a_comment() -> bytes:
    """A good PNG with a text chunk that unpacks to 200 MB."""
    png = saved(halves(), "PNG")
    text = b"Comment\0\0" + zlib.compress(bytes(200_000_000), 9)
    chunk = struct.pack(">I", len(text)) + b"zTXt" + text + struct.pack(">I", zlib.crc32(b"zTXt" + text))
    return png[:33] + chunk + png[33:]


def _png(width: int, height: int, *, bit_depth: int, color_type: int, rows: bytes) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, bit_depth, color_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 1)) + chunk(b"IEND", b"")
