"""The shipped reference task and model: generator, tokenizer, training script, weights and model card."""

from accuracy.reference.generator import (
    MAX_NEW_TOKENS,
    MODEL_FOLDER,
    REPORTED_DOMAINS,
    SCHEDULER_DOMAIN,
    SCHEDULER_FOLDER,
    SPLITS,
    TASK_NAME,
    TASK_VERSION,
    ReferenceExample,
    examples,
    stream_examples,
)
from accuracy.reference.tokenization import encode_prompt

__all__ = [
    "MAX_NEW_TOKENS",
    "MODEL_FOLDER",
    "REPORTED_DOMAINS",
    "SCHEDULER_DOMAIN",
    "SCHEDULER_FOLDER",
    "SPLITS",
    "TASK_NAME",
    "TASK_VERSION",
    "ReferenceExample",
    "encode_prompt",
    "examples",
    "stream_examples",
]
