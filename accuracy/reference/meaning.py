"""What a paragraph of the reference task says, before it is put into words, and how one is drawn."""

from __future__ import annotations

from dataclasses import dataclass

from accuracy.reference import lexicon
from accuracy.reference.draw import Draws
from accuracy.reference.names import draw_name

MAX_COUNT = 63
"""Largest number of things; Selvic counts in eights, with two digits."""


@dataclass(frozen=True)
class Person:
    """Somebody with a role and a name, such as the baker ta-le-mo."""

    role: str
    name: str


@dataclass(frozen=True)
class PersonMention:
    """A person in a sentence: introduced by role and name, or mentioned again."""

    person: Person
    again: bool = False
    is_topic: bool = False


@dataclass(frozen=True)
class Goods:
    """Things named in full: `count` is 1 for one thing, 0 for an uncounted plural."""

    noun: str
    adjective: str
    count: int
    owner: PersonMention | None = None
    relative: Relative | None = None


@dataclass(frozen=True)
class Relative:
    """A relative clause about things: that SUBJECT VERB."""

    subject: PersonMention
    verb: str


@dataclass(frozen=True)
class GoodsAgain:
    """The topic's things mentioned again by a pronoun."""

    goods: Goods


@dataclass(frozen=True)
class Place:
    """A place with its preposition."""

    preposition: str
    noun: str


@dataclass(frozen=True)
class Clause:
    """One verb with its arguments; the object is missing where the verb takes none."""

    subject: PersonMention | GoodsAgain
    verb: str
    object: Goods | GoodsAgain | None = None
    recipient: PersonMention | None = None
    place: Place | None = None
    manner: str | None = None
    negated: bool = False


@dataclass(frozen=True)
class Sentence:
    """A clause, how it follows from the sentence before, and why it happens."""

    clause: Clause
    connective: str | None = None
    cause: Clause | None = None


@dataclass(frozen=True)
class Paragraph:
    """Address, witness and time hold for every sentence; the first sentence names the topic person and things."""

    address: str
    witness: str
    time: str
    topic: Person
    sentences: tuple[Sentence, ...]

    @property
    def is_formal(self) -> bool:
        """Whether the register is formal, which the address decides."""
        return self.address in lexicon.FORMAL_ADDRESSES


def draw_paragraph(draws: Draws, domain: str, split: str) -> Paragraph:
    """Draw a paragraph of three or four sentences in one domain, with names of one split."""
    return _Drawing(draws, lexicon.DOMAINS[domain], split).paragraph()


class _Drawing:
    """The discourse while it is drawn: who is the topic, and who else has been introduced."""

    def __init__(self, draws: Draws, domain: lexicon.Domain, split: str) -> None:
        self.draws = draws
        self.domain = domain
        roles = list(domain.roles)
        self.topic = Person(roles.pop(draws.below(len(roles))), draw_name(draws, split))
        self.other = Person(roles.pop(draws.below(len(roles))), draw_name(draws, split))
        self.nouns = list(domain.goods)
        self.other_known = False
        self.goods = Goods(self.noun(), draws.choice(lexicon.ADJECTIVES), 2 + draws.below(MAX_COUNT - 1))

    def paragraph(self) -> Paragraph:
        draws = self.draws
        opening = Clause(PersonMention(self.topic, is_topic=True), self.verb(), self.goods, place=self.maybe_place(40))
        sentences = [Sentence(opening), *(self.sentence() for _ in range(2 + draws.chance(25)))]
        return Paragraph(
            address=draws.choice(lexicon.FORMAL_ADDRESSES + lexicon.FAMILIAR_ADDRESSES),
            witness=draws.choice(("see", "hear", "dream")),
            time=draws.choice(lexicon.TIMES),
            topic=self.topic,
            sentences=tuple(sentences),
        )

    def sentence(self) -> Sentence:
        connective = self.draws.choice(lexicon.CONNECTIVES) if self.draws.chance(50) else None
        kind = self.draws.below(4)
        if kind == 0:
            clause = Clause(
                self.topic_again(), self.verb(), self.goods_again(), None, self.maybe_place(50), self.maybe_manner()
            )
            return Sentence(clause, connective, self.maybe_cause())
        if kind == 1:
            verb = self.draws.choice(lexicon.GIVING_VERBS)
            clause = Clause(
                self.topic_again(), verb, self.goods_again(), self.mention_other(), None, None, self.draws.chance(30)
            )
            return Sentence(clause, connective)
        if kind == 2:
            subject = self.mention_other()
            things = Goods(
                self.noun(),
                self.draws.choice(lexicon.ADJECTIVES),
                self.draws.below(2),
                relative=Relative(self.topic_again(), self.verb()),
            )
            return Sentence(Clause(subject, self.verb(), things, negated=self.draws.chance(30)), connective)
        subject = self.mention_other()
        things = Goods(
            self.noun(), self.draws.choice(lexicon.ADJECTIVES), self.draws.below(2), owner=self.topic_again()
        )
        return Sentence(
            Clause(subject, self.verb(), things, None, self.maybe_place(40)), connective, self.maybe_cause()
        )

    def maybe_cause(self) -> Clause | None:
        if self.draws.chance(50):
            return None
        verb = self.draws.choice(lexicon.HAPPENING_VERBS)
        return Clause(self.goods_again(), verb, place=self.maybe_place(40), negated=self.draws.chance(20))

    def mention_other(self) -> PersonMention:
        mention = PersonMention(self.other, again=self.other_known)
        self.other_known = True
        return mention

    def topic_again(self) -> PersonMention:
        return PersonMention(self.topic, again=True, is_topic=True)

    def goods_again(self) -> GoodsAgain:
        return GoodsAgain(self.goods)

    def noun(self) -> str:
        return self.nouns.pop(self.draws.below(len(self.nouns)))

    def verb(self) -> str:
        return self.draws.choice(self.domain.verbs + lexicon.SHARED_VERBS)

    def maybe_place(self, percent: int) -> Place | None:
        if not self.draws.chance(percent):
            return None
        return Place(self.draws.choice(lexicon.PREPOSITIONS), self.draws.choice(self.domain.places))

    def maybe_manner(self) -> str | None:
        return self.draws.choice(lexicon.MANNERS) if self.draws.chance(40) else None
