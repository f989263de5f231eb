from accuracy.reference import examples
from accuracy.reference.english import spell_number
from accuracy.reference.lexicon import DOMAINS, GIVING_VERBS, HAPPENING_VERBS, SHARED_VERBS


def test_numbers_are_spelled_as_usual() -> None:
    spelled = {2: "two", 12: "twelve", 20: "twenty", 21: "twenty one", 59: "fifty nine", 63: "sixty three"}
    assert {number: spell_number(number) for number in spelled} == spelled
    assert len({spell_number(number) for number in range(70)}) == 70


def test_verbs_have_no_endings_so_that_only_the_adverb_tells_the_tense() -> None:
    verbs = set(SHARED_VERBS + GIVING_VERBS + HAPPENING_VERBS)
    nouns = set()
    for domain in DOMAINS.values():
        verbs |= set(domain.verbs)
        nouns |= set(domain.goods)
    inflected = {verb + ending for verb in verbs for ending in ("s", "ed", "ing", "d")}
    plurals = {f"{noun}s" for noun in nouns}
    seen = {word for example in examples("train", 500) for word in example.prompt.split()}
    assert seen & (inflected - plurals) == set()
    assert verbs <= seen


def test_no_noun_takes_a_plural_that_english_would_spell_otherwise() -> None:
    goods = {noun for domain in DOMAINS.values() for noun in domain.goods}
    assert not [noun for noun in goods if noun.endswith(("s", "x", "ch", "sh", "f", "fe")) or noun[-2:] in ("ry", "ty")]
