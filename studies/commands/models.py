"""``bittaper models``: the model shapes that have a name, and what their weights and caches take."""

from __future__ import annotations

import argparse
from typing import Any

from studies.commands.options import add_json
from studies.common.output import format_table, print_json, print_pairs, si

HELP = """the named model shapes: dimensions, bytes of one weight bit and of one token's cache

Without NAME a table. With NAME, which may be a config.json or a folder with one, every dimension as the simulator
reads it.

examples:
  bittaper models
  bittaper models llama-3-8b
  bittaper models path/to/config.json --json
"""
_DIMENSIONS = {
    "layers": "layers",
    "hidden_size": "hidden size",
    "ffn_size": "MLP size",
    "heads": "query heads",
    "kv_heads": "key/value heads",
    "head_dim": "width of a head",
    "vocab_size": "vocabulary",
    "max_context": "longest context",
}
_KINDS = {
    "mlp": "MLP",
    "activation": "activation",
    "norm": "norm",
    "parallel_attention": "MLP beside attention",
    "rotary_fraction": "share of a head that RoPE turns",
    "attention_bias": "attention has biases",
    "mlp_bias": "MLP has biases",
    "tied_embeddings": "lm_head is the embedding",
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "name", nargs="?", metavar="NAME", help="one shape: a name, a config.json, or a folder with one"
    )
    add_json(parser)


def run(args: argparse.Namespace) -> None:
    """Print the table or one shape."""
    from hwsim import SHAPE_NAMES, load_shape
    from studies.common.subjects import shape_facts

    if args.name is None:
        facts = [shape_facts(load_shape(name)) for name in SHAPE_NAMES]
        print_json(facts) if args.json else print(_table(facts))
        return
    one = shape_facts(load_shape(args.name))
    if args.json:
        print_json(one)
        return
    print(one["name"])
    pairs = {label: f"{one[name]:,}" for name, label in _DIMENSIONS.items()}
    pairs |= {label: _word(one[name]) for name, label in _KINDS.items()}
    print_pairs(pairs | {"weights of all blocks": f"{one['block_weights']:,}", **_sizes(one)})


def _word(value: Any) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _sizes(one: dict[str, Any]) -> dict[str, str]:
    return {
        "one bit of all block weights": si(one["plane_bytes"], "B"),
        "lm_head at 16 bits": si(one["lm_head_bytes"], "B"),
        "keys and values of a token at 16 bits": si(one["kv_bytes_per_token"], "B"),
    }


def _table(facts: list[dict[str, Any]]) -> str:
    header = (
        *("name", "layers", "hidden", "MLP", "heads", "KV heads", "vocabulary", "context", "weights"),
        *("one weight bit", "lm_head", "KV a token"),
    )
    columns = ("layers", "hidden_size", "ffn_size", "heads", "kv_heads", "vocab_size", "max_context")
    rows = [
        (
            one["name"],
            *(f"{one[name]:,}" for name in columns),
            si(one["block_weights"], "").strip(),
            *_sizes(one).values(),
        )
        for one in facts
    ]
    return (
        f"{format_table(header, rows)}\n\nweights: of all blocks, those that are quantised. one weight bit: its plane "
        "of all blocks, read once a token.\nlm_head, KV: at 16 bits."
    )
