"""The words of the reference task: plain-English words by domain, and the Selvic stem and gender of each.

Selvic is invented: a stem and a gender follow from the English word by a fixed rule, so that there is one
Selvic word for each English word and no dictionary of anybody's is copied.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from accuracy.reference.draw import Draws


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


class Gender(StrEnum):
    """Grammatical gender of a Selvic noun."""

    SUN = "sun"
    MOON = "moon"
    STONE = "stone"


@dataclass(frozen=True)
class Domain:
    """Content words of one domain; nouns form their plural with -s."""

    goods: tuple[str, ...]
    places: tuple[str, ...]
    roles: tuple[str, ...]
    verbs: tuple[str, ...]


DOMAINS = {
    "market": Domain(
        goods=_words("apple cup basket ribbon lamp melon coin spoon carpet candle pearl sack"),
        places=_words("stall square scale cellar"),
        roles=_words("baker trader weaver cook"),
        verbs=_words("buy weigh count price taste praise"),
    ),
    "travel": Domain(
        goods=_words("ticket map trunk saddle tent letter canteen wagon wheel boot cloak flag"),
        places=_words("station bridge border inn"),
        roles=_words("driver guide courier pilgrim"),
        verbs=_words("pack load follow lose unfold stamp"),
    ),
    "weather": Domain(
        goods=_words("cloud storm rainbow icicle shower wind snowdrop hailstone puddle drift flood comet"),
        places=_words("valley ridge shore meadow"),
        roles=_words("shepherd ranger sailor farmer"),
        verbs=_words("watch measure fear predict record await"),
    ),
    "household": Domain(
        goods=_words("pot chair kettle pillow broom blanket mirror clock jar curtain stool bucket"),
        places=_words("kitchen attic garden hall"),
        roles=_words("cousin neighbour grandmother lodger"),
        verbs=_words("sweep mend paint borrow polish wash"),
    ),
    "harbour": Domain(
        goods=_words("anchor barrel sail rope net oar crate lantern crab hook buoy plank"),
        places=_words("pier lighthouse dock cove"),
        roles=_words("captain diver fisher porter"),
        verbs=_words("haul tie sink repair unload tow"),
    ),
}

ADJECTIVES = _words("red blue green old new small big heavy cheap round broken clean bright warm strange soft")
SHARED_VERBS = _words("find take keep hide want carry")
GIVING_VERBS = _words("give show sell send")
HAPPENING_VERBS = _words("fall shine vanish wait turn")
MANNERS = _words("quickly quietly gladly slowly secretly")
PREPOSITIONS = ("in", "near", "behind", "above")
CONNECTIVES = ("then", "but", "later", "also")
FORMAL_ADDRESSES = ("sir", "madam")
FAMILIAR_ADDRESSES = ("friend", "brother")
PAST_TIMES = ("yesterday", "long ago", "last winter")
PRESENT_TIMES = ("today", "now", "this morning")
FUTURE_TIMES = ("tomorrow", "soon", "next year")
TIMES = PAST_TIMES + PRESENT_TIMES + FUTURE_TIMES

_ONSETS = _words("b d f g h k l m n p r s t v z sk tr dr bl gr")
_VOWELS = tuple("aeiou")
_CODAS = _words("b d g k l m n p r s t v z lk rn st nd rk")


def _all_words() -> tuple[str, ...]:
    words: list[str] = []
    for domain in DOMAINS.values():
        words += domain.goods + domain.places + domain.roles + domain.verbs
    words += ADJECTIVES + SHARED_VERBS + GIVING_VERBS + HAPPENING_VERBS + MANNERS + PREPOSITIONS
    words += CONNECTIVES + FORMAL_ADDRESSES + FAMILIAR_ADDRESSES + TIMES
    return tuple(dict.fromkeys(words))


def _invent_stems(words: tuple[str, ...]) -> dict[str, str]:
    """Give each word a stem of two syllables that ends in a consonant, no two alike."""
    stems: dict[str, str] = {}
    taken: set[str] = set()
    for word in words:
        draws = Draws(f"selvic stem {word}")
        stem = ""
        while not stem or stem in taken:
            first = draws.choice(_ONSETS) + draws.choice(_VOWELS)
            stem = first + draws.choice(_ONSETS[:15]) + draws.choice(_VOWELS) + draws.choice(_CODAS)
        stems[word] = stem
        taken.add(stem)
    return stems


STEMS = _invent_stems(_all_words())
"""Selvic stem of each English content word."""


def gender_of(noun: str) -> Gender:
    """Return the gender of an English noun's Selvic word."""
    return Draws(f"selvic gender {noun}").choice(tuple(Gender))
