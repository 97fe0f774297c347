"""StarCoder2: layer norms, biases everywhere, an FFN without a gate."""

from __future__ import annotations

from ..family import ATTENTION_BIAS, FFN_BIAS, Family

FAMILY = Family(
    "starcoder2",
    norm_kind="layer",
    norm_bias=True,
    norm_epsilon="norm_epsilon",
    ffn_projections=(None, "c_fc", "c_proj"),
    biases={"use_bias": (*ATTENTION_BIAS, *FFN_BIAS)},
    windowed=True,
    awq_activation="mlp.act",
    defaults={
        "num_attention_heads": 24,
        "num_key_value_heads": 2,
        "hidden_act": "gelu_pytorch_tanh",
        "norm_epsilon": 1e-5,
        "use_bias": True,
        "tie_word_embeddings": True,
    },
)
