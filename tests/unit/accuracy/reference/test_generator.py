from itertools import combinations

import pytest

from accuracy.reference import REPORTED_DOMAINS, SCHEDULER_DOMAIN, SPLITS, examples
from accuracy.reference.lexicon import DOMAINS
from accuracy.reference.names import split_of_name
from hwsim.trace import InputError

COUNT = 1000


@pytest.fixture(scope="module")
def prompts_of() -> dict[tuple[str, str | None], set[str]]:
    return {
        (split, domain): {example.prompt_sha256 for example in examples(split, COUNT, domain)}
        for split in SPLITS
        for domain in (None, SCHEDULER_DOMAIN)
    }


def test_no_prompt_is_in_two_splits(prompts_of: dict[tuple[str, str | None], set[str]]) -> None:
    for (first, first_domain), (second, second_domain) in combinations(prompts_of, 2):
        if first != second or first != "train":  # the train split has the schedulers' domain among its own
            assert not prompts_of[first, first_domain] & prompts_of[second, second_domain]


def test_no_prompt_comes_twice(prompts_of: dict[tuple[str, str | None], set[str]]) -> None:
    assert all(len(hashes) == COUNT for hashes in prompts_of.values())


def test_every_name_belongs_to_its_split_alone() -> None:
    known = {word for domain in DOMAINS.values() for word in domain.roles}
    for split in SPLITS:
        for example in examples(split, 300):
            words = example.prompt.split()
            names = [
                following
                for role, following, before in zip(words[1:], words[2:], words, strict=False)
                if before == "the" and role in known and split_of_name(following) == split
            ]
            assert names  # so the prompt cannot have been drawn for another split


def test_reported_splits_never_use_the_domain_for_schedulers() -> None:
    assert SCHEDULER_DOMAIN not in REPORTED_DOMAINS
    for split in SPLITS[1:]:
        assert {example.domain for example in examples(split, 200)} == set(REPORTED_DOMAINS)
    assert {example.domain for example in examples("train", 200)} == set(DOMAINS)
    assert {example.domain for example in examples("calib", 20, SCHEDULER_DOMAIN)} == {SCHEDULER_DOMAIN}


def test_a_longer_list_starts_with_the_shorter_one() -> None:
    assert examples("val", 60)[:25] == examples("val", 25)


def test_examples_are_the_ones_the_model_was_trained_and_measured_on() -> None:
    # Pinned for this task version; a change of any of them needs a new TASK_VERSION and a new model.
    hashes = {split: examples(split, 50)[49].prompt_sha256[:12] for split in SPLITS}
    assert hashes == {
        "train": "94ac24eb2885",
        "calib": "faaa5e38b6a6",
        "val": "4dfb7ac8cbe2",
        "test": "2960d9362b99",
    }


@pytest.mark.parametrize(
    ("split", "count", "domain", "message"),
    [
        ("vall", 1, None, "unknown split 'vall'; did you mean 'val'?"),
        ("val", 1, "harbor", "unknown domain 'harbor'; did you mean 'harbour'?"),
        ("val", 0, None, "count = 0: must be at least 1"),
    ],
)
def test_bad_input_is_one_clear_line(split: str, count: int, domain: str | None, message: str) -> None:
    with pytest.raises(InputError) as caught:
        examples(split, count, domain)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
