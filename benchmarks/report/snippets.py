"""How to load what a step made: a snippet for each runtime that can read its files.

They go into the model card. A test runs those in Python and parses the commands of the others.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...documents import read_object

__all__ = ["Snippet", "snippets_for"]

PROMPT = "12+30="
TRANSFORMERS = """\
from transformers import AutoModelForCausalLM, AutoTokenizer

path = {path}
model = AutoModelForCausalLM.from_pretrained(path, dtype="auto", device_map="auto")
tokenizer = AutoTokenizer.from_pretrained(path)
inputs = tokenizer({prompt}, return_tensors="pt").to(model.device)
tokens = model.generate(**inputs, max_new_tokens=64, do_sample=False)
print(tokenizer.decode(tokens[0], skip_special_tokens=True))
"""
CHAT_TRANSFORMERS = """\
from transformers import AutoModelForCausalLM, AutoTokenizer

path = {path}
model = AutoModelForCausalLM.from_pretrained(path, dtype="auto", device_map="auto")
tokenizer = AutoTokenizer.from_pretrained(path)
messages = [{{"role": "user", "content": {prompt}}}]
inputs = tokenizer.apply_chat_template(
    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
).to(model.device)
tokens = model.generate(**inputs, max_new_tokens=64, do_sample=False)
print(tokenizer.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
"""
ONNX_RUNTIME = """\
import numpy as np
import onnxruntime
from tokenizers import Tokenizer

path = {path}
options = onnxruntime.SessionOptions()
options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")  # float inputs
session = onnxruntime.InferenceSession(f"{{path}}/model.onnx", options)
tokenizer = Tokenizer.from_file(f"{{path}}/tokenizer.json")
types = {{"tensor(float)": np.float32, "tensor(float16)": np.float16}}
cache = {{
    one.name: np.zeros((1, one.shape[1], 0, one.shape[3]), types[one.type])
    for one in session.get_inputs()
    if one.name.startswith("past_key_values.")
}}
names = [one.name for one in session.get_outputs()]
tokens = tokenizer.encode({prompt}).ids
new = tokens
for _ in range(32):
    places = np.arange(len(tokens) - len(new), len(tokens), dtype=np.int64)[None]
    inputs = {{
        "input_ids": np.array([new], np.int64),
        "attention_mask": np.ones((1, len(tokens)), np.int64),
        "position_ids": places,
    }}
    found = dict(zip(names, session.run(None, inputs | cache)))
    cache = {{name: found[name.replace("past_key_values", "present")] for name in cache}}
    new = [int(found["logits"][0, -1].argmax())]
    if new[0] in {ends}:
        break
    tokens = tokens + new
print(tokenizer.decode(tokens))
"""
GENAI = """\
import onnxruntime_genai as og

model = og.Model({path})
tokenizer = og.Tokenizer(model)
params = og.GeneratorParams(model)
params.set_search_options(max_length=256)
generator = og.Generator(model, params)
generator.append_tokens(tokenizer.encode({prompt}))
while not generator.is_done():
    generator.generate_next_token()
print(tokenizer.decode(generator.get_sequence(0)))
"""
VLLM = """\
from vllm import LLM, SamplingParams

model = LLM({path})
answers = model.generate([{prompt}], SamplingParams(temperature=0, max_tokens=64))
print(answers[0].outputs[0].text)
"""


@dataclass(frozen=True)
class Snippet:
    """A few lines that load a model.

    Attributes:
        runtime: what loads it.
        language: `python` or `sh`.
        code: the lines; those of Python run as they are beside the directory.
        needs: what to install first.
    """

    runtime: str
    language: str
    code: str
    needs: str = ""


def snippets_for(folder: Path, config: dict[str, Any]) -> list[Snippet]:
    """The snippets for what lies in a directory.

    Args:
        folder: the output of a step.
        config: the options of the step.
    """
    path = folder.name
    if (folder / "export.sh").is_file():
        return list(_edge_llm(folder, path))
    if config.get("format") == "triton":
        code = f"tritonserver --model-repository={shlex.quote(f'{path}/models')}"
        return [Snippet("Triton Inference Server", "sh", code)]
    if files := sorted(folder.glob("*.gguf")):
        file = shlex.quote(f"{path}/{files[0].name}")
        code = (
            f"llama-server --model {file} --port 8080\nllama-cli --model {file} --prompt '{PROMPT}'"
        )
        return [Snippet("llama.cpp", "sh", code)]
    if (folder / "model.onnx").is_file():
        return list(_onnx(folder, path, config))
    if any(folder.glob("*.safetensors")):
        return list(_checkpoint(folder, path))
    return []


def _python(template: str, path: str, **values: Any) -> str:
    """A template of Python with its values as literals."""
    return template.format(path=json.dumps(path), prompt=json.dumps(PROMPT), **values)


def _checkpoint(folder: Path, path: str) -> Iterator[Snippet]:
    """Transformers and vLLM."""
    quantization = _object(folder / "config.json").get("quantization_config")
    packed = quantization.get("quant_method") if isinstance(quantization, dict) else None
    needs = {
        "gptq": "transformers gptqmodel optimum",
        "awq": "transformers gptqmodel optimum",
        "compressed-tensors": "transformers compressed-tensors",
    }
    in_config = "chat_template" in _object(folder / "tokenizer_config.json")
    has_chat = in_config or (folder / "chat_template.jinja").is_file()
    if packed != "modelopt":
        template = CHAT_TRANSFORMERS if has_chat else TRANSFORMERS
        what = f"{needs.get(str(packed), 'transformers')} accelerate"
        yield Snippet("transformers", "python", _python(template, path), f"pip install {what}")
    yield Snippet("vLLM (a GPU)", "python", _python(VLLM, path), "pip install vllm")


def _onnx(folder: Path, path: str, config: dict[str, Any]) -> Iterator[Snippet]:
    """The server, onnxruntime-genai, ONNX Runtime itself, and a device."""
    quoted = shlex.quote(path)
    code = f"edgewright serve {quoted} --port 8080"
    yield Snippet("edgewright", "sh", code, "pip install 'edgewright[serve]'")
    if (folder / "genai_config.json").is_file():
        code = _python(GENAI, path)
        yield Snippet("onnxruntime-genai", "python", code, "pip install onnxruntime-genai")
    is_plain = not config.get("window") and config.get("kv_cache") != "int8"
    if is_plain and config.get("precision") != "bf16":
        code = _python(ONNX_RUNTIME, path, ends=_end_tokens(folder))
        yield Snippet("ONNX Runtime", "python", code, "pip install onnxruntime tokenizers numpy")
    code = f"edgewright deploy {quoted} --target jetson-orin-nano-8gb --host USER@HOST"
    yield Snippet("a Jetson", "sh", code, "pip install 'edgewright[device]'")


def _object(file: Path) -> dict[str, Any]:
    """The object in a JSON file; empty if there is none."""
    return read_object(file, "") if file.is_file() else {}


def _end_tokens(folder: Path) -> list[int]:
    """The tokens that end a text, as transformers finds them."""
    for name in ("generation_config.json", "config.json"):
        found = _object(folder / name).get("eos_token_id")
        if found is not None:
            values = found if isinstance(found, list) else [found]
            return [value for value in values if isinstance(value, int)]
    return []


def _edge_llm(folder: Path, path: str) -> Iterator[Snippet]:
    """The scripts that lie in the directory, in their order."""
    scripts = sorted(file.name for file in folder.glob("build-*.sh"))
    here = f"bash {shlex.quote(path)}/export.sh"
    there = (f"bash {shlex.quote(name)}" for name in scripts)
    lines = [here, "# then, on the device, the one for its JetPack:", *there]
    yield Snippet("TensorRT-Edge-LLM", "sh", "\n".join(lines))
