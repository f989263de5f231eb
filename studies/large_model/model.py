"""A random Llama of any size, written shard by shard in the form a real one comes in."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hwsim.trace import write_json, write_text

if TYPE_CHECKING:
    from torch import Tensor

MAX_SHARD_BYTES = 10**9
# Spread of a real Llama's weights at its start.
_STD = 0.02


@dataclass(frozen=True)
class RandomLlama:
    """Dimensions, named as in config.json.

    The default is Llama-2-7B cut to four of its 32 blocks: memory follows the size of one block, so that what this
    model needs is what the whole one needs.
    """

    hidden_size: int = 4096
    intermediate_size: int = 11008
    num_hidden_layers: int = 4
    num_attention_heads: int = 32
    num_key_value_heads: int = 32
    vocab_size: int = 32000

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Name and shape of every tensor, in the order of the model."""
        head_size = self.hidden_size // self.num_attention_heads
        kv_size = head_size * self.num_key_value_heads
        yield "model.embed_tokens.weight", (self.vocab_size, self.hidden_size)
        for layer in range(self.num_hidden_layers):
            block = f"model.layers.{layer}"
            yield f"{block}.input_layernorm.weight", (self.hidden_size,)
            yield f"{block}.self_attn.q_proj.weight", (self.hidden_size, self.hidden_size)
            yield f"{block}.self_attn.k_proj.weight", (kv_size, self.hidden_size)
            yield f"{block}.self_attn.v_proj.weight", (kv_size, self.hidden_size)
            yield f"{block}.self_attn.o_proj.weight", (self.hidden_size, self.hidden_size)
            yield f"{block}.post_attention_layernorm.weight", (self.hidden_size,)
            yield f"{block}.mlp.gate_proj.weight", (self.intermediate_size, self.hidden_size)
            yield f"{block}.mlp.up_proj.weight", (self.intermediate_size, self.hidden_size)
            yield f"{block}.mlp.down_proj.weight", (self.hidden_size, self.intermediate_size)
        yield "model.norm.weight", (self.hidden_size,)
        yield "lm_head.weight", (self.vocab_size, self.hidden_size)


def write_random_llama(folder: Path, dimensions: RandomLlama, seed: int = 0) -> None:
    """Write a model folder: fp16 weights in safetensors shards, configuration, a byte tokenizer.

    Args:
        folder: Where to; created.
        dimensions: Of the model.
        seed: Of the weights.
    """
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(seed)
    shards: list[dict[str, Tensor]] = [{}]
    weight_map, size, total_bytes = {}, 0, 0
    for name, shape in dimensions.tensors():
        tensor = torch.ones(shape) if len(shape) == 1 else torch.randn(shape, generator=generator) * _STD
        half = tensor.half()
        if shards[-1] and size + half.nbytes > MAX_SHARD_BYTES:
            save_file(shards[-1], folder / _shard_name(len(shards)), metadata={"format": "pt"})
            shards[-1] = {}
            shards.append({})
            size = 0
        shards[-1][name] = half
        weight_map[name] = _shard_name(len(shards))
        size += half.nbytes
        total_bytes += half.nbytes
    save_file(shards[-1], folder / _shard_name(len(shards)), metadata={"format": "pt"})
    index = {"metadata": {"total_size": total_bytes}, "weight_map": weight_map}
    write_json(folder / "model.safetensors.index.json", index)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "float16",
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "bos_token_id": None,
        "eos_token_id": None,
        "tie_word_embeddings": False,
        **asdict(dimensions),
    }
    write_json(folder / "config.json", config)
    _write_byte_tokenizer(folder)


def _shard_name(number: int) -> str:
    return f"model-{number:05}.safetensors"


def _write_byte_tokenizer(folder: Path) -> None:
    """One token a byte: any text will do for calibration."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={byte: number for number, byte in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    write_text(folder / "tokenizer.json", json.dumps(json.loads(tokenizer.to_str())) + "\n")
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"})
