"""The rules, in the order in which they are applied, and their thresholds."""

from __future__ import annotations

from dataclasses import dataclass

RULES = {
    "decontamination": "looks nearly like an image of an evaluation set",
    "image_size": "the original's shorter side",
    "image_aspect": "longer side over shorter side",
    "caption_length": "words and characters of a caption",
    "caption_alphabet": "share of letters in a caption",
    "caption_repetition": "characters or words that repeat",
    "common_caption": "a caption that stands under many images",
    "exact_duplicate": "the same stored image",
    "near_duplicate": "looks nearly like an earlier image that stays",
}
"""Name and criterion of each rule. A sample counts under the first rule that drops it. Decontamination is first, so
that its lists are complete; duplicates are last, so that a sample is never dropped for one that does not stay."""
NUMBERS = {rule: number for number, rule in enumerate(RULES, start=1)}


@dataclass(frozen=True, kw_only=True)
class FilterSettings:
    """The defaults drop only what no model can learn from; a stricter corpus needs other values."""

    min_side: int = 64
    """Shorter side of the original, in pixels: icons and tracking pixels are smaller. ALIGN and DataComp use 200."""
    max_aspect: float = 5.0
    """Longer side over shorter side: banners and rulers exceed it. ALIGN and DataComp use 3."""
    min_words: int = 2
    """Words of a caption, split at white space; one word is mostly a file name or a site. ALIGN and DataComp use 3."""
    max_words: int = 100
    """Training reads the first 30; hundreds are lists of keywords or whole articles."""
    min_characters: int = 5
    """Of a caption, as in DataComp."""
    max_characters: int = 1_000
    """Of a caption: catches long texts without spaces, too."""
    min_letters: float = 0.5
    """Letters (of any alphabet, with their marks) among the characters that are not spaces: prices, dates and camera
    numbers have fewer."""
    min_latin: float = 0.0
    """Latin letters among the letters; 0 accepts every alphabet. ALBEF's tokenizer covers hardly any other."""
    max_character_run: int = 9
    """Times a character may stand in a row."""
    max_word_run: int = 3
    """Times a word may stand in a row, in any case."""
    min_distinct_words: float = 0.3
    """Different words among the words of a caption of ten or more."""
    max_images_per_caption: int = 100
    """Images of all folders that may share a caption, ignoring case and spaces. Thousands share boilerplate; dozens
    share the generalised captions of CC3M. ALIGN uses 10."""
    near_distance: int = 24
    """Bits of 256 in which a near duplicate may differ: docs/filters.md has the table it was chosen from."""
    decontaminate_distance: int = 32
    """The same for evaluation sets: larger, since a missed copy costs more there than an image dropped in error."""
    off: tuple[str, ...] = ()
    """Rules that are not applied."""

    def on(self, rule: str) -> bool:
        """Whether a rule is applied."""
        return rule not in self.off
