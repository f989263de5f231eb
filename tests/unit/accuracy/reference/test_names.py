from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from accuracy.reference.draw import Draws
from accuracy.reference.names import SPLIT_SHARES, clip, draw_name, harmony_of, split_of_name, transliterate

names = st.integers(0, 10_000).map(lambda seed: draw_name(Draws(f"test {seed}"), "train"))


@given(names)
def test_vowels_of_a_selvic_name_are_of_one_class(name: str) -> None:
    vowels = set(transliterate(name)) & set("aeiouy")
    assert any(vowels <= set(pair) for pair in ("ay", "ei", "ou"))
    assert vowels & {harmony_of(name), {"a": "y", "e": "i", "o": "u"}[harmony_of(name)]} == vowels


@given(names)
def test_a_clipped_name_loses_exactly_its_last_syllable(name: str) -> None:
    *kept, _ = name.split("-")
    assert clip(name).split("-") == kept != []
    assert transliterate(name).split("-")[:-1] == transliterate(clip(name)).split("-")


@given(names)
def test_syllables_stay_and_consonants_can_be_told_back(name: str) -> None:
    back = {"f": "p", "s": "t", "h": "k", "p": "b", "t": "d", "k": "g", "m": "m", "n": "n", "sh": "s"}
    back |= {"r": "l", "l": "r", "b": "v", "g": "h", "d": "z"}
    onsets = [syllable[:-1] for syllable in transliterate(name).split("-")]
    assert [back[onset] for onset in onsets] == [syllable[:-1] for syllable in name.split("-")]


def test_names_are_drawn_from_the_split_asked_for() -> None:
    draws = Draws("names")
    for split in SPLIT_SHARES:
        assert {split_of_name(draw_name(draws, split)) for _ in range(50)} == {split}


def test_splits_share_the_names_as_stated() -> None:
    letters = [a + b for a in "ptkbdgmnsl" for b in "aeiou"]
    counts = Counter(split_of_name(f"{a}-{b}-{c}") for a in letters for b in letters for c in letters[:10])
    for split, share in SPLIT_SHARES.items():
        assert abs(100 * counts[split] / 25_000 - share) < 1
