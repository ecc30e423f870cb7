"""Small models of random weights, exported by optimum to a folder: GPT-2, and T5 with both its decoders in one."""

import sys
from pathlib import Path

import torch
import transformers
from optimum.exporters.onnx import onnx_export_from_model

folder = Path(sys.argv[1])
torch.manual_seed(0)
small = {"vocab_size": 100, "pad_token_id": 0, "eos_token_id": 1}
models = {
    "text-generation-with-past": transformers.GPT2LMHeadModel(
        transformers.GPT2Config(n_layer=2, n_head=2, n_embd=32, n_positions=64, bos_token_id=2, **small)
    ),
    "text2text-generation-with-past": transformers.T5ForConditionalGeneration(
        transformers.T5Config(
            d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, decoder_start_token_id=0, **small
        )
    ),
}
for task, model in models.items():
    onnx_export_from_model(model.eval(), folder / task, task=task, do_validation=False)
