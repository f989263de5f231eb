"""Every reference is analysed word by word with tables of its own and compared with what its prompt says."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise

import pytest

from accuracy.reference import SPLITS, ReferenceExample, examples
from accuracy.reference.lexicon import ADJECTIVES, DOMAINS, STEMS, Gender, gender_of
from accuracy.reference.selvic import numeral, verb_ending

GOODS = {noun for domain in DOMAINS.values() for noun in domain.goods}
ROLES = {noun for domain in DOMAINS.values() for noun in domain.roles}
PLACES = {noun for domain in DOMAINS.values() for noun in domain.places}
ENGLISH_NUMBERS = {
    word: value
    for words, values in (
        ("two three four five six seven eight nine ten eleven twelve".split(), range(2, 13)),  # noqa: SIM905
        ("thirteen fourteen fifteen sixteen seventeen eighteen nineteen".split(), range(13, 20)),  # noqa: SIM905
        ("twenty thirty forty fifty sixty".split(), range(20, 70, 10)),  # noqa: SIM905
        (["one"], [1]),
    )
    for word, value in zip(words, values, strict=True)
}
TENSE = {
    "yesterday": "s", "long": "s", "last": "s", "today": "l", "now": "l", "this": "l",
    "tomorrow": "r", "soon": "r", "next": "r",
}  # fmt: skip
DIGITS = {"": 0, "ib": 1, "dov": 2, "tesh": 3, "lum": 4, "gar": 5, "pik": 6, "sen": 7}
# Ending -> (gender, case), by kind of word.
NOUN_ENDINGS = {
    "a": "sun nom sg", "an": "sun acc sg", "ami": "sun dat sg", "ahe": "sun loc sg",
    "ar": "sun nom pl", "aran": "sun acc pl", "armi": "sun dat pl", "arhe": "sun loc pl",
    "i": "moon nom sg", "et": "moon acc sg", "emu": "moon dat sg", "ish": "moon loc sg",
    "ik": "moon nom pl", "iket": "moon acc pl", "ikem": "moon dat pl", "eksh": "moon loc pl",
    "o": "stone nom sg", "ul": "stone acc sg", "ova": "stone dat sg", "uth": "stone loc sg",
    "ond": "stone nom pl", "undul": "stone acc pl", "onva": "stone dat pl", "unth": "stone loc pl",
}  # fmt: skip
ADJECTIVE_ENDINGS = {
    "ai": "sun nom", "ain": "sun acc", "aim": "sun dat", "aik": "sun loc",
    "eve": "moon nom", "evet": "moon acc", "evem": "moon dat", "evesh": "moon loc",
    "ou": "stone nom", "oul": "stone acc", "ouv": "stone dat", "outh": "stone loc",
}  # fmt: skip
CLASSIFIERS = {"hal": "sun", "nem": "moon", "dur": "stone"}
AUXILIARY = re.compile(r"(um)?([ktp])(ash|i)")
AUXILIARY_GENDER = {"k": "sun", "t": "moon", "p": "stone"}
NUMERAL = re.compile(r"(?:(ib|dov|tesh|lum|gar|pik|sen) )?(?:(ib|dov|tesh|lum|gar|pik|sen)kar)?([aeo])")


@dataclass(frozen=True)
class Facts:
    """What the first sentence of a prompt fixes."""

    formal: bool
    witness: str
    tense: str
    role: str
    name: str
    count: int
    noun: str


def read_prompt(prompt: str) -> Facts:
    words = prompt.split()
    the = words.index("the")
    rest = words[the + 4 :]
    count = 0
    while rest[0] in ENGLISH_NUMBERS:
        count += ENGLISH_NUMBERS[rest.pop(0)]
    return Facts(
        formal=words[0] in ("sir", "madam"),
        witness=words[3],
        tense=TENSE[words[5]],
        role=words[the + 1],
        name=words[the + 2],
        count=count,
        noun=rest[1].removesuffix("s"),
    )


def analyse(word: str, english: set[str] | tuple[str, ...], endings: dict[str, str]) -> tuple[str, str] | None:
    """Split a word into the one English word and the one ending it is made of."""
    found = [
        (source, endings[word.removeprefix(STEMS[source])])
        for source in english
        if word.startswith(STEMS[source]) and word.removeprefix(STEMS[source]) in endings
    ]
    assert len(found) <= 1, word
    return found[0] if found else None


@pytest.fixture(scope="module")
def many() -> list[ReferenceExample]:
    return [example for split in SPLITS for example in examples(split, 400)]


def test_every_verb_of_a_paragraph_has_the_ending_its_first_sentence_asks_for(many: list[ReferenceExample]) -> None:
    for example in many:
        facts = read_prompt(example.prompt)
        first_vowel = next(letter for letter in facts.name if letter in "aeiou")
        harmony = {"a": ("a", "y"), "e": ("e", "i"), "i": ("e", "i"), "o": ("o", "u"), "u": ("o", "u")}[first_vowel]
        evidence = {"see": "n", "hear": "m", "dream": "t"}[facts.witness]
        words = example.reference.split()
        verbs = [after for word, after in pairwise(words) if AUXILIARY.fullmatch(word)]
        assert len(verbs) >= example.prompt.count(" .")
        assert all(verb.endswith(harmony[0] + facts.tense + harmony[1] + evidence) for verb in verbs), example


def test_every_auxiliary_agrees_with_subject_and_register(many: list[ReferenceExample]) -> None:
    for example in many:
        facts = read_prompt(example.prompt)
        known = dict.fromkeys(re.findall(r"the (\w+) ([\w-]+)", example.prompt))
        roles = {name: role for role, name in known if role in ROLES}
        topic_gender = gender_of(facts.role)
        other_gender = next((gender_of(role) for role in roles.values() if role != facts.role), None)
        clipped = _clipped(facts.name)
        expected = []  # one for each clause of the prompt, in the order of the reference
        for sentence in example.prompt.split(" : ")[1].split(" .")[:-1]:
            main, _, cause = sentence.partition(" because ")
            found = [gender_of(facts.noun)] if cause else []
            words = main.split()
            by_topic = "they" in words[:2] or example.prompt.index(main) < example.prompt.index(" .")
            if " that they " in f" {main} ":
                found.append(topic_gender)
            found.append(topic_gender if by_topic else other_gender)
            expected += found
        auxiliaries = [match for word in example.reference.split() if (match := AUXILIARY.fullmatch(word))]
        assert [AUXILIARY_GENDER[match[2]] for match in auxiliaries] == expected, example
        assert {match[3] for match in auxiliaries} == {"ash" if facts.formal else "i"}
        negated = sum(match[1] is not None for match in auxiliaries)
        assert negated == example.prompt.split().count("not")
        returns = example.prompt.split().count("they") + example.prompt.split().count("them")
        assert (
            sum(word[:-2].startswith(clipped) or word.startswith(clipped) for word in example.reference.split())
            >= returns
        )


def test_adjectives_agree_and_follow_their_noun(many: list[ReferenceExample]) -> None:
    for example in many:
        words = example.reference.split()
        adjectives = 0
        for before, word in pairwise(words):
            adjective = analyse(word, ADJECTIVES, ADJECTIVE_ENDINGS)
            if adjective is None:
                continue
            noun = analyse(before, GOODS, NOUN_ENDINGS)
            assert noun is not None, example
            assert noun[1].rsplit(" ", 1)[0] == adjective[1], example
            assert noun[1].startswith(gender_of(noun[0])), example
            adjectives += 1
        english = pairwise(example.prompt.split())  # "clean" is a verb, too
        wanted = sum(word in ADJECTIVES and after.removesuffix("s") in GOODS for word, after in english)
        assert adjectives == wanted, example


def test_the_same_numeral_returns_with_a_classifier_of_the_antecedents_gender(many: list[ReferenceExample]) -> None:
    for example in many:
        facts = read_prompt(example.prompt)
        gender = gender_of(facts.noun)
        pronouns = 0
        for match in re.finditer(r"((?:\S+ )?\S+) (hal|nem|dur)(\w+)", example.reference):
            if f"{match[2]}{match[3]}" not in {stem + ending for stem in CLASSIFIERS for ending in NOUN_ENDINGS}:
                continue
            words = match[1].split()
            spoken = " ".join(words if words[0] in DIGITS and len(words) == 2 else words[-1:])
            assert _value(spoken) == facts.count, example
            assert CLASSIFIERS[match[2]] == gender, example
            assert NOUN_ENDINGS[match[3]] in (f"{gender} nom sg", f"{gender} acc sg"), example
            pronouns += 1
        assert pronouns == example.prompt.split().count("those"), example


def test_places_stand_in_the_locative_before_their_postposition(many: list[ReferenceExample]) -> None:
    for example in many:
        found = [analyse(word, PLACES, NOUN_ENDINGS) for word in example.reference.split()]
        places = [place for place in found if place]
        assert all(case == f"{gender_of(noun)} loc sg" for noun, case in places), example
        wanted = re.findall(r"(?:in|near|behind|above) the (\w+)", example.prompt)
        assert sorted(noun for noun, _ in places) == sorted(wanted)


def test_a_cause_comes_before_its_effect(many: list[ReferenceExample]) -> None:
    for example in many:
        sentences = zip(example.prompt.split(" ."), example.reference.split(" ."), strict=True)
        for english, selvic in sentences:
            assert ("because" in english.split()) == ("zan" in selvic.split())
            if "zan" in selvic.split():
                cause, effect = selvic.split(" zan ")
                assert re.search(r"\b(hal|nem|dur)", cause)
                assert AUXILIARY.search(effect)


def test_no_two_numbers_below_64_share_a_numeral() -> None:
    for gender in Gender:
        spoken = {numeral(number, gender): number for number in range(1, 64)}
        assert len(spoken) == 63
        assert all(_value(words) == number for words, number in spoken.items())


def test_no_two_words_share_a_stem_and_no_two_settings_a_verb_ending() -> None:
    assert len(set(STEMS.values())) == len(STEMS)
    endings = {
        verb_ending(tense, witness, harmony)
        for tense in ("past", "present", "future")
        for witness in ("see", "hear", "dream")
        for harmony in "aeo"
    }
    assert len(endings) == 27


def _value(spoken: str) -> int:
    match = NUMERAL.fullmatch(spoken)
    if match is None:  # a lone unit: stem and gender are one word
        return DIGITS[spoken[:-1]]
    return DIGITS[match[1] or ""] + 8 * DIGITS[match[2] or ""]


def _clipped(name: str) -> str:
    """Selvic form of a name that returns, without its case consonant."""
    first = next(letter for letter in name if letter in "aeiou")
    strong, weak = {"a": "ay", "e": "ei", "i": "ei", "o": "ou", "u": "ou"}[first]
    shift = str.maketrans("ptkbdgrlvhz", "fshptklrbgd")
    spelled = [
        {"s": "sh"}.get(letter, letter.translate(shift))
        if letter not in "aeiou"
        else (weak if letter in "iu" else strong)
        for letter in name[: name.rindex("-")]
    ]
    return "".join(spelled) + "-" + strong
