"""Make the files that the jobs read. The code under test makes none of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .models import BASE, FAMILIES, FURTHER, PUBLISHED
from .recipes import (
    OPTIONS_RECIPE,
    POLICY,
    RECIPE,
    REFUSED_RECIPE,
    SHORT_RECIPE,
    TRACES_RECIPE,
)
from .texts import SENTENCES, SPECIAL, SPLIT, TEMPLATE


def build_inputs(package: Path) -> None:
    """Write models, texts, measurements, recipes and policies to the current directory."""
    write_texts()
    write_measurements(Path("out/inputs"))
    write_recipes()
    shutil.copytree(package, "demo-model", dirs_exist_ok=True)
    tokenizer = Path("tokenizer")
    write_tokenizer(tokenizer)
    models = {name: (name, {}, 0, "float32") for name in FAMILIES} | FURTHER
    for name, (family, settings, seed, dtype) in models.items():
        write_model(Path("models") / name, tokenizer, family, settings, seed, dtype)
    spoil_models()
    for name, config in PUBLISHED.items():
        folder = Path("models") / name
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(json.dumps(config, indent=2))


def write_texts() -> None:
    """Write texts, questions and programs."""
    numbers = [(17 * i % 89 + 2, 31 * i % 97 + 1) for i in range(40)]
    story = "".join(f"{SENTENCES[i % 6]} {i * 37 % 101}\n" for i in range(400))
    other = "".join(f"{SENTENCES[(i * 5 + 2) % 6]} {i * 53 % 211}\n" for i in range(200))
    Path("story.txt").write_text(story)
    Path("other.txt").write_text(other)
    write_lines(
        "questions.jsonl",
        ({"question": f"{a} + {b} =", "answer": f"#### {a + b}"} for a, b in numbers),
    )
    write_lines(
        "choices.jsonl",
        (
            {
                "question": f"{a} + {b} =",
                "choices": [str(a + b), str(a - b), str(b + 7)],
                "answer": 0,
            }
            for a, b in numbers
        ),
    )
    write_lines("programs.jsonl", map(program, range(3)))


def program(number: int) -> dict[str, str]:
    """A programming task in the format of HumanEval."""
    return {
        "task_id": f"T/{number}",
        "prompt": f"def f{number}():\n",
        "entry_point": f"f{number}",
        "test": f"def check(f):\n    assert f() == {number}\n",
    }


def write_lines(name: str, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a JSON Lines file."""
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_measurements(folder: Path) -> None:
    """Write a baseline and four candidates: same, worse, slightly worse, other problems."""
    folder.mkdir(parents=True, exist_ok=True)
    right = [i % 20 != 0 for i in range(400)]
    kinds = {
        "base": (right, 1.0, 1000, 400),
        "same": (right, 1.0, 900, 400),
        "worse": ([ok and i % 5 != 0 for i, ok in enumerate(right)], 1.3, 1100, 400),
        "unsure": ([ok and i % 33 != 1 for i, ok in enumerate(right)], 1.0, 1000, 400),
        "longer": (right[:300], 1.0, 1000, 300),
    }
    for name, (correct, factor, size, count) in kinds.items():
        nll = [float(f"{(20 + i * 7 % 11) * (1 + (factor - 1) / 4):.7g}") for i in range(32)]
        perplexity = 2.718281828459045 ** (sum(nll) / (32 * 31))
        metrics = {
            "accuracy/reasoning": sum(correct) / count,
            "perplexity/text": perplexity,
            "size_bytes": size,
        }
        context = {
            "problems/reasoning": count,
            "problems_hash/reasoning": f"hash{count}",
            "data_hash/text": "aaaa",
            "seq_len/text": 32,
            "device": "cpu",
            "threads": 1,
        }
        samples = {
            "accuracy/reasoning": {"correct": "".join(str(int(ok)) for ok in correct)},
            "perplexity/text": {"nll": nll, "tokens": [31] * 32},
        }
        document = {"name": name, "metrics": metrics, "context": context, "samples": samples}
        (folder / f"{name}.json").write_text(json.dumps(document))


def write_recipes() -> None:
    """Write recipes and policies. They are JSON, which YAML includes."""
    wrong = {"kind": "prune", "heads": 2, "colour": "red"}
    documents = {
        "recipe.yaml": RECIPE,
        "short.yaml": SHORT_RECIPE,
        "options.yaml": OPTIONS_RECIPE,
        "traces.yaml": TRACES_RECIPE,
        "broken.yaml": RECIPE | {"steps": [wrong, {"kind": "fold"}], "speed": 1},
        "refused.yaml": REFUSED_RECIPE,
        "policy.yaml": POLICY,
        "strict.yaml": POLICY | {"inconclusive": "fail"},
        "bad-policy.yaml": POLICY | {"confidence": 2},
    }
    for name, document in documents.items():
        Path(name).write_text(json.dumps(document, indent=2))


def write_tokenizer(folder: Path) -> None:
    """Write a byte-pair tokenizer of at most 512 tokens, with a chat template."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(SPLIT), "isolated"), byte_level]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=BASE["vocab_size"],
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    folder.mkdir(exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "Qwen2Tokenizer",
        "model_max_length": 1024,
        "padding_side": "left",
        "eos_token": SPECIAL[0],
        "pad_token": SPECIAL[0],
        "clean_up_tokenization_spaces": False,
        "chat_template": TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2))
    (folder / "generation_config.json").write_text('{"eos_token_id": 0, "pad_token_id": 0}\n')


def write_model(
    folder: Path, tokenizer: Path, family: str, settings: dict[str, Any], seed: int, dtype: str
) -> None:
    """Write a model with random values in every tensor, norms and biases included."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(family, **(BASE | FAMILIES[family] | settings))
    model = AutoModelForCausalLM.from_config(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 1:
                parameter.add_(noise * 0.1)
            else:
                parameter.copy_(noise * parameter.shape[-1] ** -0.5)
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    shutil.copytree(tokenizer, folder, dirs_exist_ok=True)


def spoil_models() -> None:
    """Make three broken models: a truncated file, a NaN weight, an unknown architecture."""
    import torch
    from safetensors.torch import load_file, save_file

    damaged = Path("models/damaged/model.safetensors")
    damaged.write_bytes(damaged.read_bytes()[:-1000])
    bad = Path("models/nan/model.safetensors")
    state = load_file(bad)
    name = min(state)
    state[name].view(-1)[3] = torch.nan
    save_file(state, bad, metadata={"format": "pt"})
    unknown = Path("models/unknown")
    shutil.copytree("models/llama", unknown, dirs_exist_ok=True)
    config = json.loads((unknown / "config.json").read_text())
    config |= {"model_type": "own", "architectures": ["OwnForCausalLM"]}
    (unknown / "config.json").write_text(json.dumps(config))
