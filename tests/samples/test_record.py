"""What a usable sample is: the record's fields, and captions of which cleaning leaves something."""

from __future__ import annotations

import hashlib
import json

import pytest

from samples.captions import clean_caption
from samples.record import RecordFault, check_meta, stored_captions, usable_captions

IMAGE = b"picture"


def record(**changes: object) -> bytes:
    fields: dict[str, object] = {"key": "s-0", "captions": ["a dog"], "url": "u", "source": "s"}
    fields |= {"original_width": 80, "original_height": 60, "width": 40, "height": 30}
    fields |= {"sha256": hashlib.sha256(IMAGE).hexdigest()} | changes
    return json.dumps({name: value for name, value in fields.items() if value is not ...}).encode()


def test_a_record_as_the_writer_writes_it_has_no_fault() -> None:
    assert check_meta(record(id="7", licence="CC0"), "s-0", IMAGE)[1] == []


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"width": ...}, "JSON has no width"),
        ({"width": "40"}, "JSON field width is '40', not int"),
        ({"width": True}, "JSON field width is True, not int"),
        ({"width": float("nan")}, "JSON field width is nan, not int"),
        ({"original_height": 0}, "JSON field original_height is 0, not 1 to 2147483647"),
        ({"original_width": 2**31}, "not 1 to 2147483647"),
        ({"width": 10**4000}, "JSON field width is 1000000000"),
        ({"url": "\ud800"}, "JSON field url has a surrogate without its pair"),
        ({"id": 7}, "JSON field id is 7, not str"),
        ({"key": "s-1"}, "JSON is of key s-1"),
        ({"sha256": "0" * 64}, "image bytes differ from their sha256"),
        ({"width": 20_000, "height": 20_000}, "image is 20000 x 20000, more than 178956970 pixels"),
        ({"captions": []}, "an empty caption, or none"),
        ({"captions": ["a", " "]}, "an empty caption, or none"),
        ({"captions": ["a", None]}, "an empty caption, or none"),
        ({"captions": [["a"]]}, "an empty caption, or none"),
        ({"captions": ["a", "\ud83d"]}, "an empty caption, or none"),
        ({"captions": "a dog"}, "JSON field captions is 'a dog', not list"),
        ({"captions": ["...", "!?"]}, "no usable caption: cleaning leaves nothing of ..."),
    ],
)
def test_a_fault_has_its_words(changes: dict[str, object], fault: str) -> None:
    (found,) = check_meta(record(**changes), "s-0", IMAGE)[1]
    assert fault in found and len(found) < 250


@pytest.mark.parametrize(("meta", "fault"), [(b"[" * 10**5, "JSON cannot be read"), (b"[]", "JSON is not an object")])
def test_a_record_that_is_none_has_one_fault(meta: bytes, fault: str) -> None:
    (found,) = check_meta(meta, "s-0", IMAGE)[1]
    assert fault in found


def test_captions_are_all_texts_or_there_are_none() -> None:
    """What the trainer takes from a record; a record without faults is always one of them."""
    assert stored_captions(record(captions=["a", "..."])) == ["a", "..."]
    for captions in (..., [], "a dog", [1], [None], {"en": "a"}, ["\ud800"]):
        with pytest.raises(RecordFault) as fault:
            stored_captions(record(captions=captions))
        assert fault.value.reason == "caption_missing", captions
    for meta in (b"{", b"[" * 10**5, b"\xff", b"9" * 9999):
        with pytest.raises(RecordFault) as fault:
            stored_captions(meta)
        assert fault.value.reason == "json_damaged", meta[:9]


def test_a_caption_is_usable_when_cleaning_leaves_something_to_see() -> None:
    """Punctuation alone, white space of any kind, joiners, lone accents, the sign for lost characters: nothing."""
    unusable = [
        "",
        " ",
        "...",
        "!?",
        "- / -",
        "\t",
        "\u00a0",
        "\u200b",
        "\u200d.\u200d",
        "\u0301",
        "\ufffd\ufffd",
        "\x00",
    ]
    usable = ["a", "#1", "...a", "☕", "図", "é", "<person>", "$", "e\u0301", "a\x00"]
    assert usable_captions(unusable + usable + ["\ud800"]) == usable
    for text in usable:
        assert clean_caption(text, 1).strip(), "a caption that is usable is so however few words are kept"
