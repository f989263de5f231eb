from collections import Counter

from accuracy.reference.draw import Draws


def test_stream_is_splitmix64() -> None:
    # First outputs for state 0, as published with the algorithm's reference implementation.
    draws = Draws("")
    draws._state = 0
    assert [draws.below(1 << 64) for _ in range(3)] == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


def test_equal_keys_give_equal_streams_and_other_keys_do_not() -> None:
    first, again, other = Draws("a"), Draws("a"), Draws("b")
    stream = [first.below(1000) for _ in range(50)]
    assert stream == [again.below(1000) for _ in range(50)]
    assert stream != [other.below(1000) for _ in range(50)]


def test_choices_are_even() -> None:
    draws = Draws("even")
    counts = Counter(draws.choice("abcde") for _ in range(10_000))
    # Chi-square with 4 degrees of freedom stays below 18.5 with probability 0.999; the stream is fixed.
    assert sum((count - 2000) ** 2 / 2000 for count in counts.values()) < 18.5
    assert abs(sum(draws.chance(30) for _ in range(10_000)) - 3000) < 200
