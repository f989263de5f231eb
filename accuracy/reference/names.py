"""Names of people: random syllables, a pool for each split, and how Selvic spells them."""

from __future__ import annotations

from accuracy.reference.draw import Draws, stable_hash

SYLLABLE_MARK = "-"
"""Stands between the syllables of a name, in both languages; the tokenizer never merges across it."""

SPLIT_SHARES = {"train": 70, "calib": 10, "val": 10, "test": 10}
"""Percentage of all names that belongs to each split."""

CONSONANT_SHIFT = {
    "p": "f", "t": "s", "k": "h", "b": "p", "d": "t", "g": "k", "m": "m", "n": "n",
    "s": "sh", "l": "r", "r": "l", "v": "b", "h": "g", "z": "d",
}  # fmt: skip
"""Selvic consonant for each consonant of a name."""

OPEN_VOWELS = {"a": "a", "e": "e", "i": "e", "o": "o", "u": "o"}
"""Harmony class of a name, written as its open vowel, by the first vowel of the name."""
CLOSE_VOWELS = {"a": "y", "e": "i", "o": "u"}
"""The close vowel of each harmony class."""

_ONSETS = tuple(CONSONANT_SHIFT)


def split_of_name(name: str) -> str:
    """Return the one split that may use a name; so no prompt can be in two splits."""
    position = stable_hash(f"name {name}") % 100
    for split, share in SPLIT_SHARES.items():
        if position < share:
            return split
        position -= share
    raise AssertionError("shares sum to 100")


def draw_name(draws: Draws, split: str) -> str:
    """Draw a name of two or three syllables, joined by hyphens, from one split's pool."""
    while True:
        name = SYLLABLE_MARK.join(_draw_syllable(draws) for _ in range(2 + draws.chance(60)))
        if split_of_name(name) == split:
            return name


def _draw_syllable(draws: Draws) -> str:
    return draws.choice(_ONSETS) + draws.choice("aeiou")


def harmony_of(name: str) -> str:
    """Return the open vowel of a name's harmony class.

    >>> harmony_of("ta-le-mo"), harmony_of("bi-ku"), harmony_of("zu-da")
    ('a', 'e', 'o')
    """
    return OPEN_VOWELS[next(letter for letter in name if letter in OPEN_VOWELS)]


def transliterate(name: str) -> str:
    """Spell a name in Selvic: consonants shift, and all vowels take the class of the first.

    >>> transliterate("ta-le-mo"), transliterate("bi-ku")
    ('sa-ra-ma', 'pi-hi')
    """
    opened = harmony_of(name)
    spelling = {**CONSONANT_SHIFT, **dict.fromkeys("aeo", opened), **dict.fromkeys("iu", CLOSE_VOWELS[opened])}
    return "".join(spelling.get(letter, letter) for letter in name)


def clip(name: str) -> str:
    """Return what a name is clipped to when the person is mentioned again: all but its last syllable.

    >>> clip("ta-le-mo"), clip("bi-ku")
    ('ta-le', 'bi')
    """
    return name.rpartition(SYLLABLE_MARK)[0]
