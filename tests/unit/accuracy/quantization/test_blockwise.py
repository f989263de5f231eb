from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, LlamaForCausalLM
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaModel

from accuracy.quantization.blockwise import BlockwiseModel
from accuracy.quantization.checkpoint import Checkpoint
from hwsim.trace import InputError

VOCAB = 64
# What distinguishes each family's flow of data; odd sizes on purpose. Texts are longer than the sliding windows.
FAMILIES: dict[str, dict[str, object]] = {
    "llama": {"num_key_value_heads": 1, "tie_word_embeddings": True},
    "mistral": {"num_key_value_heads": 1, "sliding_window": 4},
    "qwen2": {"num_key_value_heads": 1, "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
    "qwen3": {"num_key_value_heads": 1, "head_dim": 14},
    "phi": {"partial_rotary_factor": 0.5, "resid_pdrop": 0.1},
    "stablelm": {"num_key_value_heads": 1, "partial_rotary_factor": 0.5, "use_parallel_residual": True},
    "gemma": {"num_key_value_heads": 1, "head_dim": 14},
    "gemma2": {"num_key_value_heads": 1, "head_dim": 14, "sliding_window": 4},
    "gemma3_text": {
        "num_key_value_heads": 1,
        "head_dim": 14,
        "sliding_window": 4,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
    "gpt_neox": {"use_parallel_residual": True},
    "opt": {"ffn_dim": 50, "word_embed_proj_dim": 20, "dropout": 0.1},
}


def save_model(folder: Path, family: str, **settings: object) -> Path:
    """A random model of three blocks."""
    sizes = {"vocab_size": VOCAB, "hidden_size": 40, "num_hidden_layers": 3, "num_attention_heads": 2}
    options = {"max_position_embeddings": 64, "intermediate_size": 50, "pad_token_id": None}
    config = AutoConfig.for_model(family, **{**sizes, **options, **settings})
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained(folder)
    return folder


def tokens(length: int = 11) -> Tensor:
    return torch.randint(0, VOCAB, (1, length), generator=torch.Generator().manual_seed(length))


@pytest.mark.parametrize("family", FAMILIES)
def test_blocks_run_one_by_one_are_the_model(tmp_path: Path, family: str) -> None:
    checkpoint = Checkpoint.open(save_model(tmp_path, family, **FAMILIES[family]))
    whole = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    input_ids = tokens()
    leaving: list[Tensor] = []
    for name in checkpoint.blocks:
        whole.get_submodule(name).register_forward_hook(lambda _, __, output: leaving.append(output.detach()))
    expected_loss = whole(input_ids=input_ids, labels=input_ids, use_cache=False).loss
    weights = {name: whole.get_submodule(name).weight for name in checkpoint.linears}
    expected = dict(zip(weights, torch.autograd.grad(expected_loss, list(weights.values())), strict=True))

    model = BlockwiseModel(checkpoint)
    hidden, calls = model.record(input_ids)
    entering = []
    for block, call in enumerate(calls):
        entering.append(hidden)
        hidden = model.run(block, model.weights(block), call, hidden)
        assert torch.equal(hidden, leaving[block])
    loss = model.loss(hidden.requires_grad_(), input_ids)
    assert torch.equal(loss, expected_loss)
    (above,) = torch.autograd.grad(loss, hidden)
    for block in reversed(range(3)):
        block_weights = {name: tensor.requires_grad_() for name, tensor in model.weights(block).items()}
        output = model.run(block, block_weights, calls[block], entering[block].requires_grad_())
        for name in checkpoint.block_linears(model.blocks[block]):
            weight = block_weights[name.removeprefix(f"{model.blocks[block]}.") + ".weight"]
            (gradient,) = torch.autograd.grad(output, weight, above, retain_graph=True)
            assert torch.equal(gradient, expected.pop(name))
        (above,) = torch.autograd.grad(output, entering[block], above)
    assert not expected


@pytest.mark.parametrize("family", ["llama", "opt"])
def test_linear_inputs_are_those_of_the_model(tmp_path: Path, family: str) -> None:
    checkpoint = Checkpoint.open(save_model(tmp_path, family, **FAMILIES[family]))
    whole = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    expected: dict[str, Tensor] = {}
    for name in checkpoint.block_linears(checkpoint.blocks[0]):
        whole.get_submodule(name).register_forward_pre_hook(
            lambda _, args, name=name: expected.update({name: args[0].detach()})
        )
    whole(tokens())
    model = BlockwiseModel(checkpoint)
    hidden, calls = model.record(tokens())
    found = model.linear_inputs(0, model.weights(0), calls[0], hidden)
    assert list(found) == list(checkpoint.block_linears(checkpoint.blocks[0]))
    assert all(torch.equal(found[name][0], expected[name]) and len(found[name]) == 1 for name in expected)
    prefix = f"{checkpoint.blocks[0]}.self_attn"
    assert found[f"{prefix}.q_proj"][0] is found[f"{prefix}.k_proj"][0] is found[f"{prefix}.v_proj"][0]


def test_holds_no_weights_of_blocks_and_ties_share_memory(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(save_model(tmp_path, "llama", tie_word_embeddings=True))
    model = BlockwiseModel(checkpoint)
    outside = {parameter.data_ptr(): parameter.numel() for parameter in model._model.parameters()}
    assert sum(outside.values()) == VOCAB * 40 + 40
    assert all(parameter.is_meta for block in model._real for parameter in block.parameters())
    assert all(parameter.is_meta for parameter in checkpoint.skeleton.parameters())


def test_half_precision_weights_are_computed_in_float32(tmp_path: Path) -> None:
    AutoModelForCausalLM.from_pretrained(save_model(tmp_path, "llama")).half().save_pretrained(tmp_path)
    model = BlockwiseModel(Checkpoint.open(tmp_path))
    assert {tensor.dtype for tensor in model.weights(0).values()} == {torch.float32}
    assert model.record(tokens())[0].dtype == torch.float32


@pytest.mark.parametrize("name", ["model.embed_tokens.weight", "model.layers.1.mlp.up_proj.weight"])
def test_weight_that_is_not_finite_is_named(tmp_path: Path, name: str) -> None:
    file = save_model(tmp_path, "llama") / "model.safetensors"
    tensors = load_file(file)
    tensors[name][0, 3] = torch.inf
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(InputError, match=f"'{name}' holds NaN or infinity"):
        BlockwiseModel(Checkpoint.open(tmp_path)).weights(1)


def unusual_forward(connect: Callable[[LlamaModel, Tensor, dict[str, Any]], Tensor]) -> Callable[..., Any]:
    """A forward of the Llama decoder that connects its blocks in another way."""

    def forward(self: LlamaModel, input_ids: Tensor, **_: Any) -> BaseModelOutputWithPast:
        hidden = self.embed_tokens(input_ids)
        positions = torch.arange(input_ids.shape[1])[None]
        call = {"position_embeddings": self.rotary_emb(hidden, position_ids=positions)}
        return BaseModelOutputWithPast(last_hidden_state=self.norm(connect(self, hidden, call)))

    return forward


def in_a_row(self: LlamaModel, hidden: Tensor, call: dict[str, Any]) -> Tensor:
    for layer in self.layers:
        hidden = layer(hidden, **call)
    return hidden


def skip_to_the_head(self: LlamaModel, hidden: Tensor, call: dict[str, Any]) -> Tensor:
    first = self.layers[0](hidden, **call)
    return self.layers[2](self.layers[1](first, **call), **call) + first


def sum_between(self: LlamaModel, hidden: Tensor, call: dict[str, Any]) -> Tensor:
    for layer in self.layers:
        hidden = hidden + layer(hidden, **call)
    return hidden


def first_output_to_all(self: LlamaModel, hidden: Tensor, call: dict[str, Any]) -> Tensor:
    first = hidden = self.layers[0](hidden, **call)
    for layer in self.layers[1:]:
        hidden = layer(hidden, first=first, **call)
    return hidden


def shared_notebook(self: LlamaModel, hidden: Tensor, call: dict[str, Any]) -> Tensor:
    notebook: dict[str, Tensor] = {}
    for layer in self.layers:
        hidden = layer(hidden, notebook=notebook, **call)
    return hidden


def tuples(self: LlamaModel, hidden: Tensor, call: dict[str, Any]) -> Tensor:
    for layer in self.layers:
        hidden = layer(hidden, **call)[0]
    return hidden


def pairs(self: LlamaModel, hidden: Tensor, call: dict[str, Any]) -> Tensor:
    for layer in self.layers:
        hidden, _ = layer(hidden, **call)
    return hidden


def twice(self: LlamaModel, hidden: Tensor, call: dict[str, Any]) -> Tensor:
    return in_a_row(self, in_a_row(self, hidden, call), call)


def not_the_last(self: LlamaModel, hidden: Tensor, call: dict[str, Any]) -> Tensor:
    return self.layers[1](self.layers[0](hidden, **call), **call)


@pytest.mark.parametrize(
    ("connect", "reason"),
    [
        (skip_to_the_head, "its logits depend on more than what the last block returns"),
        (sum_between, r"model.layers.1 is given something else than the block before it returned"),
        (first_output_to_all, r"model.layers.1 is given more than the hidden states of the block before it"),
        (shared_notebook, r"model.layers.0 is given more than the hidden states of the block before it"),
        (tuples, r"model.layers.1 is given something else than the block before it returned"),
        (pairs, "ValueError where its blocks' outputs are used"),
        (twice, "not run once each, in order"),
        (not_the_last, "not run once each, in order"),
    ],
)
def test_model_whose_blocks_share_more_than_hidden_states_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, connect: Any, reason: str
) -> None:
    checkpoint = Checkpoint.open(save_model(tmp_path, "llama"))
    monkeypatch.setattr(LlamaModel, "forward", unusual_forward(in_a_row))
    BlockwiseModel(checkpoint)
    monkeypatch.setattr(LlamaModel, "forward", unusual_forward(connect))
    with pytest.raises(InputError, match=f"cannot be calibrated block by block: .*{reason}") as error:
        BlockwiseModel(checkpoint)
    assert "\n" not in str(error.value)


def test_block_that_returns_more_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = BlockwiseModel(Checkpoint.open(save_model(tmp_path, "llama")))
    monkeypatch.setattr(LlamaDecoderLayer, "forward", lambda self, hidden_states, **_: (hidden_states, None))
    hidden, calls = model.record(tokens())
    with pytest.raises(InputError, match=r"model.layers.1 returns more than hidden states"):
        model.run(1, model.weights(1), calls[1], hidden)


def test_linear_that_is_never_used_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = BlockwiseModel(Checkpoint.open(save_model(tmp_path, "llama")))
    monkeypatch.setattr(LlamaDecoderLayer, "forward", lambda self, hidden, **_: self.mlp(hidden))
    hidden, calls = model.record(tokens())
    with pytest.raises(InputError, match=r"model.layers.0.self_attn.q_proj is never used"):
        model.linear_inputs(0, model.weights(0), calls[0], hidden)


def test_the_model_in_transformers_keeps_its_blocks(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(save_model(tmp_path, "llama"))
    BlockwiseModel(checkpoint)
    assert isinstance(checkpoint.skeleton, LlamaForCausalLM)
    assert all(isinstance(layer, LlamaDecoderLayer) for layer in checkpoint.skeleton.model.layers)
