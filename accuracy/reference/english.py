"""Put a paragraph into plain English: verbs without endings, so that only the time adverb tells the tense."""

from __future__ import annotations

from accuracy.reference.meaning import Clause, Goods, GoodsAgain, Paragraph, PersonMention, Place, Sentence

_NUMBER_WORDS = """
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
eighteen nineteen twenty thirty forty fifty sixty
"""
_UNITS, _TENS = _NUMBER_WORDS.split()[:20], _NUMBER_WORDS.split()[20:]


def spell_number(number: int) -> str:
    """Spell a number from 0 to 69.

    >>> spell_number(13), spell_number(40), spell_number(47)
    ('thirteen', 'forty', 'forty seven')
    """
    if number < len(_UNITS):
        return _UNITS[number]
    tens, unit = divmod(number, 10)
    return _TENS[tens - 2] + (f" {_UNITS[unit]}" if unit else "")


def write_english(paragraph: Paragraph) -> str:
    """Write the prompt of a paragraph."""
    first, *rest = paragraph.sentences
    opening = f"{paragraph.address} , i {paragraph.witness} : {paragraph.time} {_clause(first.clause)} ."
    return " ".join([opening, *(_sentence(sentence) for sentence in rest)])


def _sentence(sentence: Sentence) -> str:
    words = [sentence.connective] if sentence.connective else []
    words.append(_clause(sentence.clause))
    if sentence.cause:
        words += ["because", _clause(sentence.cause)]
    return " ".join([*words, "."])


def _clause(clause: Clause) -> str:
    words = [_mention(clause.subject, "they")]
    if clause.negated:
        words.append("not")
    if clause.manner:
        words.append(clause.manner)
    words.append(clause.verb)
    if clause.object:
        words.append(_goods(clause.object))
    if clause.recipient:
        words += ["to", _mention(clause.recipient, "them")]
    if clause.place:
        words.append(_place(clause.place))
    return " ".join(words)


def _mention(mention: PersonMention | GoodsAgain, pronoun: str) -> str:
    if isinstance(mention, GoodsAgain):
        return "those"
    if not mention.again:
        return f"the {mention.person.role} {mention.person.name}"
    return pronoun if mention.is_topic else f"the {mention.person.role}"


def _goods(goods: Goods | GoodsAgain) -> str:
    if isinstance(goods, GoodsAgain):
        return "those"
    number = {0: "the", 1: "a"}.get(goods.count) or spell_number(goods.count)
    words = [number, goods.adjective, goods.noun if goods.count == 1 else f"{goods.noun}s"]
    if goods.owner:
        words += ["of", _mention(goods.owner, "them")]
    if goods.relative:
        words += ["that", _mention(goods.relative.subject, "they"), goods.relative.verb]
    return " ".join(words)


def _place(place: Place) -> str:
    return f"{place.preposition} the {place.noun}"
