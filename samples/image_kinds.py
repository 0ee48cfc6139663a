"""The type of a file that should be an image, by its first bytes: the one table of magic numbers."""

from __future__ import annotations

import struct

from samples.quote import quote

READ = {
    "jpeg": ((0, b"\xff\xd8\xff"),),
    "png": ((0, b"\x89PNG\r\n\x1a\n"), (0, b"\x89PNG")),
    "webp": ((8, b"WEBP"),),
    "gif": ((0, b"GIF87a"), (0, b"GIF89a"), (0, b"GIF8")),
    "bmp": ((0, b"BM"),),
    "tiff": ((0, b"II*\0"), (0, b"MM\0*"), (0, b"II+\0"), (0, b"MM\0+")),
    "avif": ((4, b"ftypavif"), (4, b"ftypavis")),
}
"""Image formats that this project reads."""

NOT_READ = {
    "JPEG XL": ((0, b"\xff\x0a"), (0, b"\0\0\0\x0cJXL \r\n\x87\n")),
    "JPEG 2000": ((0, b"\0\0\0\x0cjP  \r\n\x87\n"), (0, b"\xff\x4f\xff\x51")),
    "HEIC": tuple((4, b"ftyp" + brand) for brand in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1")),
    "HEIF": ((4, b"ftypmsf1"), (4, b"ftypmiaf")),
    "Canon raw": ((4, b"ftypcrx "),),
    "QuickTime video": ((4, b"ftypqt  "), (4, b"moov"), (4, b"mdat")),
    "MP4 video": ((4, b"ftyp"),),
    "WebM or Matroska video": ((0, b"\x1a\x45\xdf\xa3"),),
    "AVI video": ((8, b"AVI "),),
    "MPEG video": ((0, b"\0\0\x01\xba"), (0, b"\0\0\x01\xb3")),
    "Flash video": ((0, b"FLV\x01"), (0, b"FWS"), (0, b"CWS")),
    "Ogg": ((0, b"OggS"),),
    "ICO": ((0, b"\0\0\x01\0"),),
    "CUR": ((0, b"\0\0\x02\0"),),
    "ICNS": ((0, b"icns"),),
    "PNM": tuple((0, b"P%d%b" % (number, blank)) for number in range(1, 8) for blank in (b"\n", b" ", b"\r", b"\t")),
    "PFM": ((0, b"PF\n"), (0, b"Pf\n")),
    "PSD": ((0, b"8BPS"),),
    "PDF": ((0, b"%PDF"),),
    "EPS": ((0, b"%!PS"), (0, b"\xc5\xd0\xd3\xc6")),
    "DjVu": ((0, b"AT&TFORM"),),
    "OpenEXR": ((0, b"\x76\x2f\x31\x01"),),
    "Radiance HDR": ((0, b"#?RADIANCE"), (0, b"#?RGBE")),
    "DDS": ((0, b"DDS "),),
    "QOI": ((0, b"qoif"),),
    "BPG": ((0, b"BPG\xfb"),),
    "FLIF": ((0, b"FLIF"),),
    "XCF": ((0, b"gimp xcf"),),
    "PCX": ((0, b"\x0a\x05\x01\x08"),),
    "MNG": ((0, b"\x8aMNG"), (0, b"\x8bJNG")),
    "WMF": ((0, b"\xd7\xcd\xc6\x9a"),),
    "SGI": ((0, b"\x01\xda\0\x01"), (0, b"\x01\xda\x01\x01")),
    "Fujifilm raw": ((0, b"FUJIFILM"),),
    "DICOM": ((128, b"DICM"),),
    "FITS": ((0, b"SIMPLE  ="),),
}
"""Images, videos and documents that it does not read."""

NO_PICTURE = {
    "gzip data": ((0, b"\x1f\x8b"),),
    "zstd data": ((0, b"\x28\xb5\x2f\xfd"),),
    "bzip2 data": ((0, b"BZh"),),
    "xz data": ((0, b"\xfd7zXZ"),),
    "a zip file": ((0, b"PK\x03\x04"),),
    "a 7z file": ((0, b"7z\xbc\xaf"),),
    "a rar file": ((0, b"Rar!"),),
    "WAV audio": ((8, b"WAVE"),),
    "MP3 audio": ((0, b"ID3"),),
    "an executable": ((0, b"\x7fELF"), (0, b"MZ")),
    "a git-lfs pointer": ((0, b"version https://git-lfs"),),
}

HTML = (b"<!doctype html", b"<html", b"<head", b"<body", b"<script", b"<!--")


def read_kind(data: bytes) -> str | None:
    """The format that these bytes begin as, if this project reads it; else None."""
    if data[4:12] in (b"ftypmif1", b"ftypmsf1"):  # a container of AVIF or of HEIC: its list of brands shows which
        brands = data[8 : min(int.from_bytes(data[:4], "big"), 1024)]
        return "avif" if b"avif" in brands or b"avis" in brands else None
    return _named(data, READ)


def why_no_picture(data: bytes) -> tuple[str, str]:
    """Why bytes that `read_kind` does not know are no usable image.

    Returns: the reason, as it is counted, and the type of the file.
    """
    start = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith(b"<svg") or (start.startswith((b"<?xml", b"<!--", b"<!doctype svg")) and b"<svg" in start):
        return "unsupported_format", "svg"
    if start.startswith(HTML):
        return "html_instead_of_image", f"begins with {start[:20]!r}"
    if name := _named(data, NOT_READ):
        return "unsupported_format", name
    if name := _named(data, NO_PICTURE):
        return "not_an_image", name
    what = "JSON" if start.startswith((b"{", b"[")) else "XML" if start.startswith(b"<?xml") else None
    begins = quote(f"{len(data)} bytes beginning with {data[:12]!r}")
    return "not_an_image", f"{what}, {begins}" if what else begins


def is_cut(data: bytes) -> bool:
    """Whether the file is shorter than it states: WebP in its header, AVIF in its boxes."""
    if data[:4] == b"RIFF":
        return len(data) < 8 + int.from_bytes(data[4:8], "little")
    at = 0
    while data[4:8] == b"ftyp" and at < len(data):
        if at + 8 > len(data):
            return True
        size = struct.unpack_from(">I", data, at)[0]
        if size == 1:
            size = struct.unpack_from(">Q", data, at + 8)[0] if at + 16 <= len(data) else len(data) + 1
        if size == 0:
            return False
        if size < 8 or at + size > len(data):
            return at + size > len(data)
        at += size
    return False


def _named(data: bytes, table: dict[str, tuple[tuple[int, bytes], ...]]) -> str | None:
    return next((name for name, marks in table.items() if any(data.startswith(mark, at) for at, mark in marks)), None)
