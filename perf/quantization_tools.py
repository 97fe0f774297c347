"""The programs that `perf/quantization.py` runs other quantization tools with.

Each runs under the interpreter of an environment that has the tool, with the arguments model
directory, output directory, file of rows, dtype. Each is asked for what `--method gptq` does: 4
bits, groups of 128, symmetric, columns by activation, head and embedding left alone.
"""

from __future__ import annotations

__all__ = ["MODELOPT", "PEAK", "TOOLS"]

GPTQMODEL = """
import json, sys, torch
from gptqmodel import GPTQModel, QuantizeConfig
model, out, rows = sys.argv[1:4]
ids = [row["ids"] for row in json.load(open(rows))]
calibration = [{"input_ids": row, "attention_mask": [1] * len(row)} for row in ids]
dtype = getattr(torch, sys.argv[4])
config = QuantizeConfig(bits=4, group_size=128, sym=True, desc_act=True)
loaded = GPTQModel.load(model, config, dtype=dtype)
loaded.quantize(calibration, batch_size=1)
loaded.save(out)
"""
LLM_COMPRESSOR = """
import json, sys, torch
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.gptq import GPTQModifier
from transformers import AutoModelForCausalLM, AutoTokenizer
model, out, rows = sys.argv[1:4]
ids = [row["ids"] for row in json.load(open(rows))]
dataset = Dataset.from_dict({"input_ids": ids, "attention_mask": [[1] * len(row) for row in ids]})
loaded = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, sys.argv[4]))
tokenizer = AutoTokenizer.from_pretrained(model)
oneshot(
    model=loaded, tokenizer=tokenizer, dataset=dataset, max_seq_length=len(ids[0]),
    num_calibration_samples=len(ids), output_dir=out,
    recipe=GPTQModifier(targets="Linear", scheme="W4A16", ignore=["lm_head"]),
)
"""
AUTO_ROUND = """
import json, sys, torch
from auto_round import AutoRound
from transformers import AutoModelForCausalLM, AutoTokenizer
model, out, rows = sys.argv[1:4]
ids = [row["ids"] for row in json.load(open(rows))]
loaded = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, sys.argv[4]))
tokenizer = AutoTokenizer.from_pretrained(model)
batches = [{"input_ids": torch.tensor(ids[i:i + 8])} for i in range(0, len(ids), 8)]
tool = AutoRound(
    loaded, tokenizer, scheme="W4A16", dataset=batches, nsamples=len(ids), seqlen=len(ids[0])
)
tool.quantize_and_save(out, format="auto_gptq")
"""
TOOLS = {"GPTQModel": GPTQMODEL, "llm-compressor": LLM_COMPRESSOR, "auto-round": AUTO_ROUND}
"""By the tool's name: its program. Each writes a checkpoint that is scored."""
MODELOPT = """
import json, math, sys, time
begin = time.monotonic()
import torch
import modelopt.torch.quantization as mtq
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32).eval()
rows = json.load(open(sys.argv[3]))
def run(row):
    with torch.no_grad():
        return model(input_ids=torch.tensor([row["ids"]]), use_cache=False).logits[0]
model = mtq.quantize(model, mtq.INT4_AWQ_CFG, lambda _: [run(row).shape for row in rows])
seconds = time.monotonic() - begin
status = open("/proc/self/status")
peak = next(1024 * int(line.split()[1]) for line in status if line.startswith("VmHWM"))
cross_entropy = torch.nn.functional.cross_entropy
total = count = 0
for row in json.load(open(sys.argv[4])):
    labels = torch.tensor(row["labels"])[1:]
    logits = run(row)[:-1].float()
    total += float(cross_entropy(logits, labels, ignore_index=-100, reduction="sum"))
    count += int((labels >= 0).sum())
result = {"seconds": seconds, "peak": peak / 1e9, "perplexity": math.exp(total / count)}
print(json.dumps(result))
"""
"""Scores itself; it writes no checkpoint that can be scored here."""
PEAK = """
import resource
used = resource.getrusage(resource.RUSAGE_SELF)
status = open("/proc/self/status")
peak = next(1024 * int(line.split()[1]) for line in status if line.startswith("VmHWM"))
print(json.dumps({"peak": peak / 1e9, "cpu": used.ru_utime + used.ru_stime}))
"""
"""Goes behind a program, and prints the resources that it used."""
