import pytest

from hwsim.trace import InputError, ModelShape, shape_from_config

LLAMA = {
    "model_type": "llama",
    "num_hidden_layers": 32,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
    "hidden_act": "silu",
}


def test_llama_7b_has_6_476_005_376_linear_weights():
    # 32 blocks of four 4096 x 4096 and three 11008 x 4096 matrices
    assert shape_from_config(LLAMA, "llama-7b").linear_weights() == 32 * (4 * 4096**2 + 3 * 4096 * 11008)


def test_grouped_query_heads_narrow_keys_and_values_only():
    shape = shape_from_config({**LLAMA, "num_key_value_heads": 8}, "gqa")
    assert {name: (n, k) for name, n, k in shape.block_linears()}["k_proj"] == (1024, 4096)
    assert {name: (n, k) for name, n, k in shape.block_linears()}["q_proj"] == (4096, 4096)


def test_phi_has_two_mlp_matrices_in_parallel_with_attention():
    shape = shape_from_config(
        {
            "model_type": "phi",
            "num_hidden_layers": 24,
            "hidden_size": 2048,
            "intermediate_size": 8192,
            "num_attention_heads": 32,
            "vocab_size": 51200,
            "hidden_act": "gelu_new",
            "partial_rotary_factor": 0.5,
            "max_position_embeddings": 2048,
        },
        "phi-1.5",
    )
    assert [name for name, _, _ in shape.block_linears()][-2:] == ["up_proj", "down_proj"]
    assert (shape.mlp, shape.parallel_attention, shape.rotary_fraction) == ("two-matrix", True, 0.5)


def test_partial_rotary_is_read_from_rope_parameters_too():
    config = {**LLAMA, "model_type": "stablelm", "rope_parameters": {"partial_rotary_factor": 0.4}}
    assert shape_from_config(config, "zephyr").rotary_fraction == 0.4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "lama"}, "unknown model_type 'lama'; did you mean 'llama'"),
        ({"model_type": "bert"}, "unknown model_type 'bert'"),
        ({"hidden_size": None}, "hidden_size = None: must be an integer >= 1"),
        ({"num_hidden_layers": 0}, "num_hidden_layers = 0"),
        ({"num_key_value_heads": 5}, "heads = 32 must be a multiple of kv_heads = 5"),
        ({"hidden_act": "tanh"}, "unknown activation 'tanh'"),
    ],
)
def test_an_unusable_config_is_refused_by_field(changes, message):
    with pytest.raises(InputError, match=message):
        shape_from_config({**LLAMA, **changes}, "x")


def test_the_hash_ignores_the_name_and_nothing_else():
    shape = shape_from_config(LLAMA, "a")
    assert shape_from_config(LLAMA, "b").sha256() == shape.sha256()
    assert ModelShape.model_validate({**shape.model_dump(), "vocab_size": 32001}).sha256() != shape.sha256()


@pytest.mark.parametrize("family", ["gemma", "gemma2", "gemma3_text"])
def test_gemma_names_its_activation_in_a_key_of_its_own(family):
    config = {**LLAMA, "model_type": family, "hidden_act": None, "hidden_activation": "gelu_pytorch_tanh"}
    assert shape_from_config(config, "g").activation == "gelu"
    assert shape_from_config(config, "g").tied_embeddings
