"""The static schedules of the paper, as far as it gives them: by their mean bits."""

from __future__ import annotations

from math import floor

from hwsim.trace import Schedule, switch_steps

# Mean decode bits of PMPD-Static by data set. Source: Chen et al., PMPD, arXiv:2410.13461, Table 1 (Zephyr: IWSLT
# only) and Table 5. The low width is the whole part, the high width, which the prefill reads too, one bit more.
PAPER_STATIC: dict[str, dict[str, float]] = {
    "vicuna-7b": {"CNN/DM": 2.39, "DialogSum": 2.0, "IWSLT": 2.68},
    "mobilellama-1.4b": {"CNN/DM": 3.37, "DialogSum": 3.0, "IWSLT": 3.65},
    "phi-1.5": {"CNN/DM": 3.71, "DialogSum": 3.30},
    "stablelm-zephyr-3b": {"IWSLT": 3.0},
    "llama-3-8b": {"CNN/DM": 2.66, "DialogSum": 2.31, "IWSLT": 2.71},
    "longchat-13b": {"CNN/DM": 2.37, "DialogSum": 2.0, "IWSLT": 2.71},
}


def paper_schedules(model: str, decode_tokens: int) -> list[Schedule]:
    """Schedules with the switch at the candidate step whose mean bits are nearest to the paper's.

    The paper does not print switch steps; its code has four candidates, spread evenly over the response. Data sets
    with equal candidates give one schedule.

    >>> [schedule.label() for schedule in paper_schedules("vicuna-7b", 255)]
    ['p3:3>2@85', 'p3:2', 'p3:3>2@170']
    """
    candidates = switch_steps(decode_tokens + 1)
    schedules: dict[str, Schedule] = {}
    for mean_bits in PAPER_STATIC.get(model, {}).values():
        low = floor(mean_bits)
        high_steps = (mean_bits - low) * decode_tokens
        switch = min(candidates, key=lambda step: abs(step - high_steps))
        schedule = Schedule.from_pairs(low + 1, [(0, low + 1), (switch, low)])
        schedules[schedule.label()] = schedule
    return list(schedules.values())
