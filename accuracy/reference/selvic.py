"""Put a paragraph into Selvic, the invented target language of the reference task.

What makes it more than a substitution of words:

- Order: subject, place, recipient, object, auxiliary, verb; adjectives follow nouns; a cause comes before its effect.
- Nouns have three genders, four cases and two numbers; adjectives agree in gender and case; a counted noun is singular.
- The auxiliary agrees with the subject in gender and number and with the address in register.
- One ending marks every finite verb of a paragraph: tense (from the time adverb of the first sentence), evidence
  (what the speaker saw, heard or dreamt) and harmony (the vowel class of the topic person's name).
- There is no personal pronoun: the name returns, clipped and with a case ending. "Those" becomes the numeral again
  with a classifier of the antecedent's gender.
- Numbers are counted in eights, units first. Names change consonants and harmonise their vowels.
"""

from __future__ import annotations

from enum import StrEnum

from accuracy.reference import lexicon
from accuracy.reference.lexicon import STEMS, Gender, gender_of
from accuracy.reference.meaning import Clause, Goods, GoodsAgain, Paragraph, PersonMention, Place, Sentence
from accuracy.reference.names import CLOSE_VOWELS, SYLLABLE_MARK, clip, harmony_of, transliterate


class Case(StrEnum):
    """Grammatical case."""

    NOMINATIVE = "nominative"
    ACCUSATIVE = "accusative"
    DATIVE = "dative"
    LOCATIVE = "locative"


_CASES = tuple(Case)

# Endings by gender, in the order of Case: nominative, accusative, dative, locative.
SINGULAR_ENDINGS = {
    Gender.SUN: ("a", "an", "ami", "ahe"),
    Gender.MOON: ("i", "et", "emu", "ish"),
    Gender.STONE: ("o", "ul", "ova", "uth"),
}
PLURAL_ENDINGS = {
    Gender.SUN: ("ar", "aran", "armi", "arhe"),
    Gender.MOON: ("ik", "iket", "ikem", "eksh"),
    Gender.STONE: ("ond", "undul", "onva", "unth"),
}
ADJECTIVE_ENDINGS = {
    Gender.SUN: ("ai", "ain", "aim", "aik"),
    Gender.MOON: ("eve", "evet", "evem", "evesh"),
    Gender.STONE: ("ou", "oul", "ouv", "outh"),
}
NAME_CONSONANTS = ("sh", "n", "m", "k")
"""What follows the harmonised vowel of a clipped name, by case."""

CLASSIFIERS = {Gender.SUN: "hal", Gender.MOON: "nem", Gender.STONE: "dur"}
UNIT_ENDINGS = {Gender.SUN: "a", Gender.MOON: "e", Gender.STONE: "o"}
DIGITS = ("", "ib", "dov", "tesh", "lum", "gar", "pik", "sen")
AUXILIARIES = {Gender.SUN: "k", Gender.MOON: "t", Gender.STONE: "p"}
TENSE_CONSONANTS = {"past": "s", "present": "l", "future": "r"}
EVIDENCE_CONSONANTS = {"see": "n", "hear": "m", "dream": "t"}
OPENER_ENDINGS = {"see": "em", "hear": "ash", "dream": "ul"}


def write_selvic(paragraph: Paragraph) -> str:
    """Write the reference translation of a paragraph."""
    return _Writer(paragraph).write()


def verb_ending(tense: str, witness: str, harmony: str) -> str:
    """Return the one ending of all finite verbs of a paragraph.

    >>> verb_ending("past", "hear", "a"), verb_ending("future", "dream", "o")
    ('asym', 'orut')
    """
    return harmony + TENSE_CONSONANTS[tense] + CLOSE_VOWELS[harmony] + EVIDENCE_CONSONANTS[witness]


def tense_of(time: str) -> str:
    """Return the tense that a time adverb asks for."""
    if time in lexicon.PAST_TIMES:
        return "past"
    return "present" if time in lexicon.PRESENT_TIMES else "future"


def numeral(number: int, gender: Gender) -> str:
    """Count in eights, units first; the last word carries the gender.

    >>> numeral(5, Gender.SUN), numeral(16, Gender.MOON), numeral(29, Gender.STONE)
    ('gara', 'dovkare', 'gar teshkaro')
    """
    eights, unit = divmod(number, 8)
    words = [DIGITS[unit]] if unit else []
    if eights:
        words.append(f"{DIGITS[eights]}kar")
    return " ".join(words) + UNIT_ENDINGS[gender]


class _Writer:
    """Writes one paragraph with the register and verb ending that its first sentence fixes."""

    def __init__(self, paragraph: Paragraph) -> None:
        self.paragraph = paragraph
        tense = tense_of(paragraph.time)
        self.ending = verb_ending(tense, paragraph.witness, harmony_of(paragraph.topic.name))

    def write(self) -> str:
        paragraph = self.paragraph
        first, *rest = paragraph.sentences
        opener = STEMS[paragraph.address] + OPENER_ENDINGS[paragraph.witness]
        words = [opener, STEMS[paragraph.time], *self.clause(first.clause), "."]
        for sentence in rest:
            words += self.sentence(sentence)
        return " ".join(words)

    def sentence(self, sentence: Sentence) -> list[str]:
        words = [STEMS[sentence.connective]] if sentence.connective else []
        if sentence.cause:
            words += [*self.clause(sentence.cause), "zan"]
        return [*words, *self.clause(sentence.clause), "."]

    def clause(self, clause: Clause) -> list[str]:
        words = self.argument(clause.subject, Case.NOMINATIVE)
        if clause.place:
            words += self.place(clause.place)
        if clause.recipient:
            words += self.argument(clause.recipient, Case.DATIVE)
        if clause.object:
            words += self.argument(clause.object, Case.ACCUSATIVE)
        if clause.manner:
            words.append(STEMS[clause.manner])
        return [*words, *self.verb(clause.subject, clause.verb, clause.negated)]

    def verb(self, subject: PersonMention | GoodsAgain, verb: str, negated: bool = False) -> list[str]:
        noun = subject.person.role if isinstance(subject, PersonMention) else subject.goods.noun
        auxiliary = AUXILIARIES[gender_of(noun)] + ("ash" if self.paragraph.is_formal else "i")
        return [f"um{auxiliary}" if negated else auxiliary, STEMS[verb] + self.ending]

    def argument(self, argument: PersonMention | Goods | GoodsAgain, case: Case) -> list[str]:
        if isinstance(argument, PersonMention):
            return person(argument, case)
        if isinstance(argument, GoodsAgain):
            gender = gender_of(argument.goods.noun)
            classifier = CLASSIFIERS[gender] + _pick(SINGULAR_ENDINGS, gender, case)
            return [*numeral(argument.goods.count, gender).split(), classifier]
        return self.goods(argument, case)

    def goods(self, goods: Goods, case: Case) -> list[str]:
        gender = gender_of(goods.noun)
        words = person(goods.owner, Case.DATIVE) if goods.owner else []
        if goods.count > 1:
            words += numeral(goods.count, gender).split()
        endings = PLURAL_ENDINGS if goods.count == 0 else SINGULAR_ENDINGS
        words.append(STEMS[goods.noun] + _pick(endings, gender, case))
        words.append(STEMS[goods.adjective] + _pick(ADJECTIVE_ENDINGS, gender, case))
        if goods.relative:
            subject = goods.relative.subject
            words += [*person(subject, Case.NOMINATIVE), *self.verb(subject, goods.relative.verb), "ke"]
        return words

    def place(self, place: Place) -> list[str]:
        gender = gender_of(place.noun)
        return [STEMS[place.noun] + _pick(SINGULAR_ENDINGS, gender, Case.LOCATIVE), STEMS[place.preposition]]


def person(mention: PersonMention, case: Case) -> list[str]:
    """Write a person: name and role when introduced, the clipped name when mentioned again."""
    name = mention.person.name
    if mention.again:
        ending = harmony_of(name) + NAME_CONSONANTS[_CASES.index(case)]
        return [transliterate(clip(name)) + SYLLABLE_MARK + ending]
    role = mention.person.role
    return [transliterate(name), STEMS[role] + _pick(SINGULAR_ENDINGS, gender_of(role), case)]


def _pick(endings: dict[Gender, tuple[str, str, str, str]], gender: Gender, case: Case) -> str:
    return endings[gender][_CASES.index(case)]
