"""Quality metrics as per-prompt statistics and an aggregate, so that intervals resample the score itself."""

from accuracy.metrics.agreement import identical_prefix_tokens
from accuracy.metrics.base import METRICS, Metric, Reference, find_metric, get_metric
from accuracy.metrics.bertscore import DEFAULT_ENCODER, BertScorer
from accuracy.metrics.bleu import bleu_signature, bleu_statistics, corpus_bleu
from accuracy.metrics.rouge import rouge_1, rouge_2, rouge_l

__all__ = [
    "DEFAULT_ENCODER",
    "METRICS",
    "BertScorer",
    "Metric",
    "Reference",
    "bleu_signature",
    "bleu_statistics",
    "corpus_bleu",
    "find_metric",
    "get_metric",
    "identical_prefix_tokens",
    "rouge_1",
    "rouge_2",
    "rouge_l",
]
