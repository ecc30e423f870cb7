"""optimum generates text with the models of export.py, greedily and by beams, with and without IOBinding."""

import json
import sys
from pathlib import Path

import torch
from optimum.onnxruntime import ORTModelForCausalLM, ORTModelForSeq2SeqLM

folder = Path(sys.argv[1])
prompt = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])
ways = {"greedy": {"max_new_tokens": 12}, "beams": {"max_new_tokens": 6, "num_beams": 3}}
tasks = {
    "text-generation-with-past": (ORTModelForCausalLM, {}),
    "text2text-generation-with-past": (ORTModelForSeq2SeqLM, {"use_merged": True}),
}
found = {}
for task, (kind, options) in tasks.items():
    for binding in (False, True):
        model = kind.from_pretrained(folder / task, use_io_binding=binding, **options)
        for way, asked in ways.items():
            tokens = model.generate(
                prompt, attention_mask=torch.ones_like(prompt), do_sample=False, eos_token_id=None, **asked
            )
            found[f"{task} {way} {binding}"] = tokens.tolist()
print(json.dumps(found))
