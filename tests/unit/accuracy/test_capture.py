from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from accuracy.decoding import Decoder, Prompt
from accuracy.decoding.capture import attention_linears, capture_activations
from accuracy.linear import AnyPrecisionLinear
from accuracy.schedulers import StaticScheduler
from hwsim.trace import InputError, Schedule

from .conftest import FakeSwitch

SIZES = {
    "vocab_size": 40,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
FAMILIES = {
    "llama": ("o_proj", {"num_key_value_heads": 2}),
    "mistral": ("o_proj", {"num_key_value_heads": 2}),
    "qwen2": ("o_proj", {"num_key_value_heads": 2}),
    "qwen3": ("o_proj", {"num_key_value_heads": 2, "head_dim": 16}),
    "phi": ("dense", {"qk_layernorm": True}),
    "phi3": ("o_proj", {}),
    "gpt_neox": ("dense", {}),
    "opt": ("out_proj", {"ffn_dim": 48, "word_embed_proj_dim": 32}),
    "stablelm": ("o_proj", {"num_key_value_heads": 4}),
    "gpt2": ("c_proj", {}),
    "falcon": ("dense", {}),
    "bloom": ("dense", {}),
    "gptj": ("out_proj", {"rotary_dim": 4}),
}


def make_model(family: str, extra: dict) -> nn.Module:
    torch.manual_seed(0)
    sizes = SIZES | ({"intermediate_size": 48} if family not in ("gpt2", "gptj", "opt", "bloom", "falcon") else {})
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **sizes, **extra)).eval()


@pytest.mark.parametrize("family", FAMILIES)
@torch.inference_mode()
def test_what_is_captured_is_what_the_output_projection_reads(family):
    name, extra = FAMILIES[family]
    model = make_model(family, extra)
    outputs = {}
    projections = [one for path, one in model.named_modules() if path.endswith(f".{name}") and "mlp" not in path]
    assert len(projections) == 3
    for block, one in enumerate(projections):
        one.register_forward_hook(lambda _, __, out, block=block: outputs.update({block: out}))
    ids = torch.randint(3, 40, (2, 7))
    with capture_activations(model, {0, 2}) as captured:
        model(ids)
    assert set(captured) == {0, 2}
    for block, activations in captured.items():
        assert activations.shape[:2] == (2, 7)
        assert torch.equal(projections[block](activations), outputs[block])


@torch.inference_mode()
def test_nothing_is_caught_outside_the_block_and_no_hook_stays(tiny):
    with capture_activations(tiny.model, {1}) as captured:
        tiny.model(torch.tensor([[3, 4, 5]]))
    before = captured[1]
    tiny.model(torch.tensor([[3, 4, 5, 6]]))
    assert captured[1] is before
    assert not any(one._forward_pre_hooks for one in tiny.model.modules())


def test_a_failing_pass_leaves_no_hook(tiny):
    with pytest.raises(ZeroDivisionError), capture_activations(tiny.model, {1}):
        1 / 0  # noqa: B018
    assert not any(one._forward_pre_hooks for one in tiny.model.modules())


@pytest.mark.parametrize("block", [-1, 2])
def test_a_block_that_is_not_there_is_refused(tiny, block):
    with pytest.raises(InputError, match=rf"captured block = {block}: LlamaForCausalLM has blocks 0\.\.1"):
        attention_linears(tiny.model, {block})


def test_a_model_without_attention_layers_is_refused_by_name():
    model = make_model("mamba", {})
    with pytest.raises(InputError, match="MambaForCausalLM: no attention with linear layers found in block 1"):
        attention_linears(model, {1})


@torch.inference_mode()
def test_an_attention_that_bypasses_its_layers_is_refused_by_name(tiny):
    for block in tiny.model.model.layers:
        block.self_attn.forward = lambda hidden_states, **_: (hidden_states, None)
    message = "the attention of block 0 does not call"
    with pytest.raises(InputError, match=message), capture_activations(tiny.model, {0}):
        tiny.model(torch.tensor([[3, 4]]))


class Reader(StaticScheduler):
    """Keeps the activations that it was shown."""

    def __init__(self, bits: int, blocks: set[int]) -> None:
        super().__init__(Schedule.uniform(bits))
        self.captured_blocks = frozenset(blocks)
        self.seen = {}

    def plan(self, prefill):
        self.seen[prefill.prompt_id] = {block: one.clone() for block, one in prefill.activations.items()}
        return super().plan(prefill)


def test_a_scheduler_sees_the_blocks_it_names_without_padding_alone_and_in_a_batch(tiny):
    prompts = [Prompt("a", (3, 4, 5), 3), Prompt("b", (6, 7, 8, 9, 10, 11), 3), Prompt("c", (12,), 3)]
    alone, together, other = Reader(3, {1}), Reader(3, {1}), Reader(3, {0, 1})
    decoder = Decoder(tiny, FakeSwitch(tiny.model))
    decoder.decode(prompts, alone, batch_size=1)
    decoder.decode_grid(prompts, [together, other], batch_size=3)
    for prompt in prompts:
        assert set(together.seen[prompt.id]) == {1}
        assert set(other.seen[prompt.id]) == {0, 1}
        assert together.seen[prompt.id][1].shape == (len(prompt.token_ids), 32)
        torch.testing.assert_close(together.seen[prompt.id][1], alone.seen[prompt.id][1], rtol=1e-4, atol=1e-4)
        assert torch.equal(together.seen[prompt.id][1], other.seen[prompt.id][1])


def test_a_block_without_attention_is_refused_before_anything_runs(tiny):
    with pytest.raises(InputError, match="captured block = 7"):
        Decoder(tiny, FakeSwitch(tiny.model)).decode([Prompt("a", (3,), 3)], Reader(3, {7}))


def test_any_precision_layers_are_layers_too(tiny):
    attention = tiny.model.model.layers[1].self_attn
    for name, projection in list(attention.named_children()):
        nested = AnyPrecisionLinear(projection.in_features, projection.out_features, min_bits=2, max_bits=3)
        nested.planes.copy_(torch.randint(-9, 9, nested.planes.shape))
        nested.lut3.normal_()
        setattr(attention, name, nested)
    outputs = []
    attention.o_proj.register_forward_hook(lambda _, __, out: outputs.append(out))
    with torch.inference_mode(), capture_activations(tiny.model, {1}) as captured:
        tiny.model(torch.tensor([[3, 4, 5]]))
    assert torch.equal(attention.o_proj(captured[1]), outputs[0])
