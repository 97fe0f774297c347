"""Models around a text model, such as those that also see images.

Only the text model is compressed and exported. All other tensors are carried along unchanged. What
the rest of the package reads is the config.json of the text model alone; `text_config` makes it,
and `whole_config` puts a changed one back into the config.json of the whole model.

Text positions of mRoPE are the same in all its sections, so for text it is plain rotary.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from ..errors import Refused, UsageError
from .config_values import RESTORE, check_block_values

__all__ = [
    "WRAPPED_IN",
    "WRAPPERS",
    "Wrapper",
    "stored_names",
    "text_config",
    "text_name",
    "whole_block",
    "whole_config",
]

WRAPPED_IN = "wrapped_in"
"""Key of a text model's config: the model type of the wrapper it was taken from."""
TEXT = "text_config"
QUANTIZATION = "quantization_config"
TEXT_NAME = re.compile(
    r"(?:language_model\.model|model\.language_model|language_model|model)"
    r"(?=\.(?:layers|embed_tokens|norm)\.)"
)
"""How transformers 4 and 5 spell the beginning of a text model's names in files."""
HEAD_NAME = re.compile(r"(?:language_model\.)?(?=lm_head\.)")
ROPE_BLOCKS = ("rope_parameters", "rope_scaling")
MROPE = ("mrope_section", "mrope_interleaved")
TIED = "tie_word_embeddings"
OWN = {"model_type", "architectures", WRAPPED_IN, QUANTIZATION}
"""Keys that a wrapper and its text model have each for itself."""
INHERITED = ("dtype", "torch_dtype", "bos_token_id", "eos_token_id", "pad_token_id")
"""Keys that a text model which leaves them out has from its wrapper."""
DYNAMIC = "dynamic"
SKIPPED = r"-:^(?:model\.)?"
"""How a GPTQ block leaves out a module beside the text model."""
LISTS = {
    "modules_to_not_convert": ("model.{}", "{}"),
    "ignore": ("re:.*{}.*",),
    "exclude_modules": ("*{}*",),
}
"""Keys of quantization blocks that list modules in floating point, and how they name one that may
be anywhere in the model."""


@dataclass(frozen=True)
class Wrapper:
    """One kind of model around a text model.

    Attributes:
        model_type: what config.json calls it.
        families: by the model type of the text model: the family it is computed as, and its class.
            The first is what transformers takes if the config names none.
        defaults: values of the text model that transformers takes for keys that are left out, where
            they are not those of the family.
        fixed_heads: whether its class computes the width of a head from width and head count, so
            that no query head can be removed.
    """

    model_type: str
    families: Mapping[str, tuple[str, str]] = field(hash=False)
    defaults: Mapping[str, Any] = field(default_factory=dict[str, Any], hash=False)
    fixed_heads: bool = False


_ALL = (
    Wrapper("gemma3", {"gemma3_text": ("gemma3_text", "Gemma3ForCausalLM")}),
    Wrapper(
        "mistral3",
        {
            "mistral": ("mistral", "MistralForCausalLM"),
            "ministral3": ("ministral3", "Ministral3ForCausalLM"),
        },
    ),
    Wrapper(
        "qwen2_5_vl",
        {"qwen2_5_vl_text": ("qwen2", "Qwen2ForCausalLM")},
        {"rms_norm_eps": 1e-5, "rope_theta": 1e6, "max_window_layers": 80},
        fixed_heads=True,
    ),
    Wrapper(
        "qwen3_vl",
        {"qwen3_vl_text": ("qwen3", "Qwen3ForCausalLM")},
        {"rope_theta": 5e5},
    ),
)
WRAPPERS = {wrapper.model_type: wrapper for wrapper in _ALL}
"""By the `model_type` of their config.json."""


def text_name(name: str) -> str | None:
    """What a text model alone calls a stored tensor of a wrapper; None: it is no part of it."""
    for pattern, plain in ((TEXT_NAME, "model"), (HEAD_NAME, "")):
        if found := pattern.match(name):
            return plain + name[found.end() :]
    return None


def stored_names(known: Mapping[str, str], names: Collection[str]) -> dict[str, str]:
    """The names in files of a text model's tensors, spelled as those that are there already.

    Args:
        known: names in files, by the text model's own.
        names: own names of all tensors to write.
    """
    own, norm = next(item for item in known.items() if item[0].startswith("model.norm."))
    decoder = norm.removesuffix(own.removeprefix("model."))
    heads = [stored for own, stored in known.items() if own.startswith("lm_head.")]
    outer = "language_model." if (heads or [decoder])[0].startswith("language_model.") else ""
    return {
        name: decoder + name.removeprefix("model.") if name.startswith("model.") else outer + name
        for name in names
    }


def text_config(config: Mapping[str, Any], where: str = "config.json") -> dict[str, Any]:
    """The config.json of the text model in a wrapper; any other one as it is.

    Args:
        config: a config.json as it is in the file.
        where: its name in messages.

    Raises:
        Refused: the wrapper holds a text model that is not supported.
        UsageError: a block is not what it must be.
    """
    check_block_values(config.get(QUANTIZATION), where)
    wrapper = WRAPPERS.get(str(config.get("model_type")))
    if wrapper is None:
        return dict(config)
    nested: Any = config.get(TEXT)
    if nested is not None and not isinstance(nested, Mapping):
        raise UsageError(f"{where}: `{TEXT}` is not an object", RESTORE)
    # Flat in old Qwen2.5-VL.
    inner = config if nested is None else cast(Mapping[str, Any], nested)
    kind = next(iter(wrapper.families)) if nested is None else inner.get("model_type")
    kind = kind or next(iter(wrapper.families))
    if str(kind) not in wrapper.families:
        raise Refused(
            f"{where}: text model `{kind}` in a `{wrapper.model_type}` is not supported",
            f"supported there: {', '.join(wrapper.families)}",
        )
    family, architecture = wrapper.families[str(kind)]
    check_block_values(inner.get(QUANTIZATION), where)
    text = {key: value for key, value in inner.items() if key != "vision_config"}
    text |= {key: value for key, value in wrapper.defaults.items() if key not in inner}
    rope = text.get("rope_parameters")
    if isinstance(rope, Mapping) and "rope_theta" in rope and "rope_theta" not in inner:
        text.pop("rope_theta", None)
    text |= {"model_type": family, "architectures": [architecture], WRAPPED_IN: wrapper.model_type}
    for key in (*INHERITED, QUANTIZATION):
        if config.get(key) is not None and (key == QUANTIZATION or text.get(key) is None):
            text[key] = config[key]
    said = [part.get(TIED) for part in (config, inner)]
    if True in said or TIED in config:
        text[TIED] = True in said
    if text.get(QUANTIZATION):
        text[QUANTIZATION] = text_block(text[QUANTIZATION])
    for key in ROPE_BLOCKS:
        if isinstance(text.get(key), Mapping):
            text[key] = _without_mrope(text[key])
    return text


def _without_mrope(block: Mapping[str, Any]) -> dict[str, Any]:
    """Plain rotary positions in place of mRoPE."""
    plain = {key: value for key, value in block.items() if key not in MROPE}
    return plain | {key: "default" for key in ("type", "rope_type") if plain.get(key) == "mrope"}


def whole_config(
    config: Mapping[str, Any], text: Mapping[str, Any], others: Collection[str] = ()
) -> dict[str, Any]:
    """The config.json of a wrapper with a changed text model; all else stays as it was.

    Args:
        config: the wrapper's config.json as it is in the file.
        text: the changed config of the text model, made from that of `text_config`.
        others: names of the other modules, which are not quantized.
    """
    before = text_config(config)
    changed = {
        key: value
        for key, value in text.items()
        if key not in OWN and (key not in before or before[key] != value)
    }
    gone = before.keys() - text.keys() - OWN
    nested = config.get(TEXT)
    whole = {key: value for key, value in config.items() if key not in {*gone, QUANTIZATION}}
    # What both say, such as the end tokens or the type of the weights, stays the same in both.
    whole |= {key: changed[key] for key in changed if nested is None or key in whole}
    if nested is not None:
        kept = {key: value for key, value in nested.items() if key not in {*gone, QUANTIZATION}}
        whole[TEXT] = {**kept, **changed}
    if block := text.get(QUANTIZATION):
        whole[QUANTIZATION] = whole_block(block, others)
    return whole


def text_block(block: Mapping[str, Any]) -> dict[str, Any]:
    """A quantization block that names modules as the text model alone does."""

    def renamed(name: str) -> str:
        plain = re.sub(
            r"(?:model\\?\.language_model|language_model\\?\.model)(?=\\?\.)", "model", name
        )
        return re.sub(r"language_model\\?\.(?=lm_head)", "", plain)

    made = _renamed(block, renamed)
    if made.get(DYNAMIC):
        made[DYNAMIC] = {
            name: value for name, value in made[DYNAMIC].items() if not name.startswith(SKIPPED)
        }
    return made


def whole_block(block: Mapping[str, Any], others: Collection[str]) -> dict[str, Any]:
    """A quantization block that names modules as the loaded wrapper does.

    Args:
        block: the block of the text model.
        others: names of the other modules, which are not quantized.
    """

    def renamed(name: str) -> str:
        pattern = r"\bmodel(\\?\.)(?=layers|embed_tokens|norm)"
        return re.sub(pattern, r"model\1language_model\1", name)

    made = _renamed(block, renamed)
    for key, patterns in LISTS.items():
        if key in made:
            more = [pattern.format(other) for other in others for pattern in patterns]
            made[key] = list(dict.fromkeys([*made[key], *more]))
    if block.get("quant_method") == "gptq":
        skipped = {f"{SKIPPED}{re.escape(other)}": dict[str, Any]() for other in others}
        made[DYNAMIC] = {**made.get(DYNAMIC, {}), **skipped}
    return made


def _renamed(block: Mapping[str, Any], renamed: Callable[[str], str]) -> dict[str, Any]:
    """A quantization block with other names of modules."""
    made = dict(block)
    for key in LISTS:
        if made.get(key):
            made[key] = [renamed(name) for name in made[key]]
    if made.get(DYNAMIC):
        made[DYNAMIC] = {renamed(name): value for name, value in made[DYNAMIC].items()}
    return made
