"""One reading of a picture: what pack stores, what filter hashes, what evaluation and the model see is the same."""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from albef.inputs.preprocess import MEAN, STD, preprocess_images
from data_prep.filters.perceptual_hash import hash_image, hash_jpeg
from data_prep.output.job import ImageSettings
from data_prep.shards.image_encoding import encode_image, keep_or_encode
from pipeline.data.decode import load_pixels, open_image
from pipeline.tasks.retrieval.annotations import EvaluationPairs
from samples.image import ImageRefused, read_image, upright_rgb
from samples.quote import quote_error
from tests.support import hostile_images as hostile
from tests.support.hostile_images import as_stored, saved

LIMIT = 1_000_000


def scene() -> Image.Image:
    """96 x 64 without any symmetry: nine by six soft spots of any colour."""
    spots = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    return Image.fromarray(spots).resize((96, 64), Image.Resampling.BICUBIC)


def turned(kind: str, orientation: object, **options: object) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(as_stored(scene(), orientation), kind, exif=exif, **options)


def late_exif(orientation: int) -> bytes:
    """A PNG whose eXIf stands behind the pixels, where it may."""
    png = turned("PNG", orientation)
    at = png.index(b"eXIf") - 4
    end = at + 12 + struct.unpack(">I", png[at : at + 4])[0]
    return png[:at] + png[end:-12] + png[at:end] + png[-12:]


def grey() -> np.ndarray:
    return np.asarray(scene().convert("L"))


FORMATS: dict[str, dict[str, object]] = {
    "JPEG": {"quality": 95, "subsampling": 0},
    "PNG": {},
    "WEBP": {"quality": 95},
    "AVIF": {"quality": 95, "subsampling": "4:4:4"},
    "TIFF": {},
}
IN_WORDS = b"Exif\0\0MM\0*\0\0\0\x08\0\1\x01\x12\0\2\0\0\0\x026\0\0\0\0\0\0\0"
"""EXIF whose orientation is the text "6"."""
BROKEN_EXIF = b"Exif\0\0MM\0*\xff\xff\xff\xff"
ODD: dict[str, tuple[Callable[[], bytes], bool]] = {
    **{
        f"{kind}, orientation {number}": (partial(turned, kind, number, **options), True)
        for kind, options in FORMATS.items()
        for number in range(1, 9)
    },
    "JPEG, orientation 9": (partial(turned, "JPEG", 9, **FORMATS["JPEG"]), True),
    "JPEG, orientation 0": (partial(turned, "JPEG", 0, **FORMATS["JPEG"]), True),
    "JPEG, orientation in words": (lambda: saved(scene(), "JPEG", exif=IN_WORDS, **FORMATS["JPEG"]), True),
    "JPEG, broken EXIF": (
        lambda: saved(scene(), "JPEG", exif=BROKEN_EXIF, **FORMATS["JPEG"]),
        True,
    ),
    "PNG, orientation behind the pixels": (partial(late_exif, 6), True),
    "RGBA": (lambda: saved(scene().convert("RGBA"), "PNG"), True),
    "CMYK": (lambda: saved(scene().convert("CMYK"), "JPEG", quality=95), True),
    "YCbCr TIFF": (lambda: saved(scene().convert("YCbCr"), "TIFF"), True),
    "L": (lambda: saved(scene().convert("L"), "PNG"), False),
    "LA": (lambda: saved(scene().convert("LA"), "PNG"), False),
    "16-bit grey": (lambda: saved(Image.fromarray(grey().astype(np.uint16) * 257), "PNG"), False),
    "16-bit grey TIFF": (lambda: saved(Image.fromarray(grey().astype(np.uint16) * 257), "TIFF"), False),
    "32-bit grey TIFF": (lambda: saved(Image.fromarray(grey().astype(np.int32) * 257), "TIFF"), False),
    "animated WebP": (
        lambda: saved(scene(), "WEBP", save_all=True, append_images=[Image.new("RGB", (96, 64))], quality=95),
        True,
    ),
    "profile": (lambda: saved(scene(), "PNG", icc_profile=b"no profile at all" * 99), True),
}


def difference(found: Image.Image, wanted: Image.Image) -> float:
    assert (found.mode, found.size) == ("RGB", wanted.size)
    return float(np.abs(np.asarray(found, dtype=float) - np.asarray(wanted, dtype=float)).mean())


@pytest.mark.parametrize("name", ODD)
def test_every_reader_shows_the_same_upright_picture(name: str, tmp_path: Path) -> None:
    """Packed and trained on, evaluated from a folder, hashed by filter, and given to the model."""
    make, coloured = ODD[name]
    data = make()
    wanted = scene() if coloured else scene().convert("L").convert("RGB")
    stored = encode_image(data, ImageSettings(image_size=64)).jpeg
    trained = load_pixels(open_image(stored, name), name)
    (tmp_path / "picture").write_bytes(data)
    (tmp_path / "list.json").write_text(json.dumps([{"image": "picture", "caption": "a scene"}]))
    evaluated = EvaluationPairs.from_annotations(tmp_path / "list.json", tmp_path).image(0)
    opened = Image.open(io.BytesIO(data))
    seen = {
        "pack and training": trained,
        "import": load_pixels(open_image(keep_or_encode(data, ImageSettings(image_size=64)).jpeg, name), name),
        "evaluate": evaluated,
        "training on a foreign shard": load_pixels(open_image(data, name), name),
        "Grad-CAM's overlay": upright_rgb(Image.open(io.BytesIO(data))),
    }
    off = {who: difference(picture, wanted) for who, picture in seen.items()}
    assert max(off.values()) < 4, off  # of 255, for two lossy encodings; a mirrored picture is off by 68
    model = preprocess_images(opened, 32)[0] * np.array(STD)[:, None, None] + np.array(MEAN)[:, None, None]
    small = np.asarray(wanted.resize((32, 32), Image.Resampling.BICUBIC), dtype=float) / 255
    assert np.abs(model.numpy().transpose(1, 2, 0) - small).mean() < 3 / 255
    hashes = [hash_jpeg(stored), hash_image(wanted)]
    if data[:2] == b"\xff\xd8" and opened.mode == "RGB":
        hashes.append(hash_jpeg(data))
    bits = [np.unpackbits(one) for one in hashes if one is not None]
    assert len(bits) == len(hashes) and all((one != bits[1]).sum() < 40 for one in bits)  # of 256; mirrored: 117


def test_an_orientation_is_applied_once() -> None:
    """What was turned carries no tag that would turn it again, and the user's picture is left as it was."""
    opened = Image.open(io.BytesIO(turned("JPEG", 6)))
    once = upright_rgb(opened)
    assert once.size == (96, 64) and opened.size == (64, 96)
    assert upright_rgb(once) is once
    plain = scene()
    assert upright_rgb(plain) is plain, "nothing to do costs nothing"


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def with_chunks(*chunks: bytes, behind: bool = False) -> bytes:
    png = saved(scene(), "PNG")
    at = -12 if behind else 33
    return png[:at] + b"".join(chunks) + png[at:]


LONG = zlib.compress(b"x" * 3_000_000)
TEXTS = {
    "zTXt": (chunk(b"zTXt", b"Comment\0\0" + LONG),),
    "iTXt": (chunk(b"iTXt", b"Note\0\1\0en\0Notiz\0" + LONG),),
    "XMP": (chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + LONG),),
    "tEXt": (chunk(b"tEXt", b"Comment\0" + b"x" * 3_000_000),),
    "profile": (chunk(b"iCCP", b"profile\0\0" + zlib.compress(bytes(4_000_000))),),
    "raw EXIF": (chunk(b"zTXt", b"Raw profile type exif\0\0" + LONG),),
    "20 texts of 3 MB": (chunk(b"zTXt", b"Comment\0\0" + LONG),) * 20,
    "a wrong checksum": (chunk(b"tEXt", b"a\0b")[:-1] + b"?",),
    "not deflate": (chunk(b"zTXt", b"Comment\0\0no deflate"), chunk(b"iCCP", b"p\0\0no deflate")),
    "nothing in it": (chunk(b"zTXt", b""), chunk(b"iTXt", b""), chunk(b"iTXt", b"a\0\1\0"), chunk(b"tEXt", b"")),
}


@pytest.mark.parametrize("behind", [False, True], ids=["before the pixels", "behind them"])
@pytest.mark.parametrize("name", TEXTS)
def test_texts_and_profiles_do_not_keep_a_png_out(name: str, behind: bool) -> None:
    """Browsers show it, and nothing in them is used."""
    picture = read_image(with_chunks(*TEXTS[name], behind=behind), max_pixels=LIMIT)
    assert np.array_equal(np.asarray(picture), np.asarray(scene()))


def test_a_text_that_holds_the_orientation_is_read() -> None:
    """ImageMagick writes EXIF as a text of hexadecimal digits."""
    exif = Image.Exif()
    exif[0x0112] = 3
    raw = exif.tobytes()
    text = f"\nexif\n{len(raw):8}\n{raw.hex()}\n".encode()
    data = with_chunks(chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(text)), *TEXTS["zTXt"])
    turned_round = scene().transpose(Image.Transpose.ROTATE_180)
    assert np.array_equal(np.asarray(read_image(data, max_pixels=LIMIT)), np.asarray(turned_round))


def test_texts_that_unpack_without_end_are_refused() -> None:
    """Counted in pieces, never held: a text of 2 GB, and a hundred of 3 MB."""
    bomb = zlib.compressobj(9)
    packed = b"".join(bomb.compress(bytes(1 << 24)) for _ in range(128)) + bomb.flush()
    for chunks in (
        (chunk(b"zTXt", b"Comment\0\0" + packed),),
        (chunk(b"iTXt", b"a\0\1\0\0\0" + packed),),
        (chunk(b"iCCP", b"p\0\0" + packed),),
        (chunk(b"zTXt", b"Comment\0\0" + LONG),) * 100,
    ):
        with pytest.raises(ImageRefused, match="broken_image: its texts and profile unpack to more than 64 MiB"):
            read_image(with_chunks(*chunks), max_pixels=LIMIT)


def cut(kind: str, share: float, **options: object) -> bytes:
    noise = Image.effect_noise((96, 72), 60).convert("RGB")
    data = saved(noise, kind, **options)
    return data[: int(len(data) * share)]


NAMED: dict[str, tuple[bytes, str, str]] = {
    "JPEG XL, boxed": (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(100), "unsupported_format", "JPEG XL"),
    "JPEG XL, bare": (b"\xff\x0a" + bytes(100), "unsupported_format", "JPEG XL"),
    "JPEG 2000": (saved(scene(), "JPEG2000"), "unsupported_format", "JPEG 2000"),
    "ICO": (saved(scene(), "ICO"), "unsupported_format", "ICO"),
    "PPM": (saved(scene(), "PPM"), "unsupported_format", "PNM"),
    "EPS": (saved(scene(), "EPS"), "unsupported_format", "EPS"),
    "PDF": (saved(scene(), "PDF"), "unsupported_format", "PDF"),
    "PSD": (b"8BPS\0\1" + bytes(40), "unsupported_format", "PSD"),
    "HEIC": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40), "unsupported_format", "HEIC"),
    "MP4": (b"\0\0\0\x18ftypisom\0\0\2\0isomiso2" + bytes(40), "unsupported_format", "MP4 video"),
    "WebM": (b"\x1a\x45\xdf\xa3" + bytes(40), "unsupported_format", "WebM or Matroska video"),
    "AVI": (b"RIFF\x40\0\0\0AVI LIST" + bytes(56), "unsupported_format", "AVI video"),
    "SVG": (b'<?xml version="1.0"?>\n<svg/>', "unsupported_format", "svg"),
    "JSON": (b'{"error": "not found"}', "not_an_image", "JSON"),
    "gzip": (b"\x1f\x8b\x08" + bytes(40), "not_an_image", "gzip data"),
    "zip": (b"PK\3\4" + bytes(40), "not_an_image", "a zip file"),
    "words": (b"this is not an image", "not_an_image", "20 bytes beginning with b'this is not "),
    "web page": (b"\n<!DOCTYPE html>", "html_instead_of_image", "begins with"),
    "nothing": (b"", "empty_body", "0 bytes"),
    "floating point": (saved(Image.new("F", (20, 20)), "TIFF"), "unsupported_format", "floating-point pixels"),
    "LAB": (saved(Image.new("LAB", (20, 20)), "TIFF"), "unsupported_format", "LAB pixels"),
    "beyond 16 bits": (saved(Image.new("I", (9, 9), 70_000), "TIFF"), "unsupported_format", "beyond 16 bits"),
}


def test_an_avif_in_a_container_of_another_brand_is_read() -> None:
    """HEIC comes in the same one."""
    data = saved(scene(), "AVIF", quality=95)
    renamed = data[:8] + b"mif1" + data[12:]
    assert b"avif" in renamed[12:40] and read_image(renamed, max_pixels=LIMIT).size == (96, 64)


@pytest.mark.parametrize("name", NAMED)
def test_what_is_not_read_is_named(name: str) -> None:
    """The reason is what is true of the bytes, and the detail their format's name."""
    data, reason, detail = NAMED[name]
    with pytest.raises(ImageRefused) as refused:
        read_image(data, max_pixels=LIMIT)
    assert refused.value.reason == reason and detail in refused.value.detail, refused.value


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("share", [0.03, 0.3, 0.6, 0.9])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_a_cut_file_is_cut_or_broken(kind: str, share: float) -> None:
    """Never of an unsupported format or no image at all; and its detail names no place in memory."""
    with pytest.raises(ImageRefused) as refused:
        read_image(cut(kind, share), max_pixels=LIMIT)
    assert refused.value.reason in ("truncated_image", "broken_image"), refused.value
    assert " 0x" not in refused.value.detail and len(refused.value.detail) <= 200


def test_a_size_beyond_the_limit_is_refused_before_decoding() -> None:
    """By the header alone."""
    for data in (hostile.enormous_png(), hostile.wide_gif(), hostile.wide_jpeg()):
        with pytest.raises(ImageRefused, match="too_many_pixels"):
            read_image(data, max_pixels=LIMIT)


def test_no_memory_address_in_an_error() -> None:
    """They differ in every run, so that two runs' records of the same failure would differ."""
    error = ValueError(f"cannot identify image file {io.BytesIO()!r}")
    assert quote_error(error) == "ValueError: cannot identify image file <_io.BytesIO object>"
    assert ImageRefused("download_failed", str(error)).detail == "cannot identify image file <_io.BytesIO object>"
