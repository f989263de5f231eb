"""What the tasks of the PMPD paper share: the form of a prompt and the bound on a response.

Every model gets the prompts of FastChat's ``claude-2`` template, whatever it was trained on; all tasks but MT-Bench
put one sentence before it. The bounds are those of the public code's scripts (SamsungLabs/PMPD, commit 909cdf9). That
code's instruction sentences are not repeated here: ours ask for the same in other words, and ``template`` takes any.
"""

from __future__ import annotations

PREFIX = "Play the role of assistant and answer the question from human. "
MAX_NEW_TOKENS: dict[str, dict[str, int]] = {
    "cnn-dm": {"": 256, "vicuna": 120, "zephyr": 120},
    "dialogsum": {"": 33},
    "iwslt-fr-en": {"": 60},
    "mt-bench": {"": 256, "zephyr": 180},
}
"""By task, then by what a model's name contains; ``""`` is every other model."""


def human_turn(text: str) -> str:
    r"""What a person says, up to where the answer begins.

    >>> human_turn("Hello.")
    '\n\nHuman: Hello.\n\nAssistant:'
    """
    return f"\n\nHuman: {text}\n\nAssistant:"


def paper_max_new_tokens(task: str, model: str | None = None) -> int:
    """The paper's bound on the responses of a task, which differs for some models.

    >>> paper_max_new_tokens("cnn-dm"), paper_max_new_tokens("cnn-dm", "stablelm-zephyr-3b")
    (256, 120)

    Args:
        task: One of :data:`MAX_NEW_TOKENS`.
        model: Name of the model; that of no particular one by default.
    """
    limits = MAX_NEW_TOKENS[task]
    name = (model or "").lower()
    return next((limit for family, limit in limits.items() if family and family in name), limits[""])
