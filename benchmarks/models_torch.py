"""Models of torch and transformers in their default configurations with seeded weights, exported to ONNX."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

PACKAGES = "torch transformers onnxscript"  # what must be installed to build these


@dataclass(frozen=True)
class Recipe:
    """How to make one model: the module, what it takes and gives, and which axes stay open.

    make: gets (torch, transformers); a module that returns one tensor.
    sample: gets torch; the arguments to trace it with.
    axes: the names of the axes that stay open, the same in every input.
    """

    make: Callable
    sample: Callable
    inputs: tuple[str, ...] = ("x",)
    axes: Mapping[int, str] = field(default_factory=dict)


def write(name: str, path: Path) -> None:
    """Export the model of that name; ImportError when one of PACKAGES is missing."""
    import onnxscript  # noqa: F401  torch.onnx.export needs it and says so only late
    import torch
    import transformers

    recipe = RECIPES[name]
    torch.manual_seed(0)
    module = recipe.make(torch, transformers)
    _calibrate(torch, module, recipe.sample(torch))
    axes = tuple({i: torch.export.Dim(d) for i, d in recipe.axes.items()} for _ in recipe.inputs)
    with torch.no_grad():
        torch.onnx.export(
            module.eval(),
            recipe.sample(torch),
            path,
            input_names=list(recipe.inputs),
            output_names=["y"],
            dynamic_shapes={"tensors": axes} if recipe.axes else None,
            dynamo=True,
            external_data=False,
            verbose=False,
        )


def _calibrate(torch, module, sample) -> None:
    """Batch normalisation learns its statistics from noise: with fresh ones activations shrink from
    layer to layer until they are denormal numbers, and times mean nothing."""
    norms = [m for m in module.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average of all batches
    if norms:
        module.train()
        with torch.no_grad():
            for _ in range(3):
                module(torch.randn(8, *sample[0].shape[1:]))


def _tensor_of(torch, module, call: Callable):
    """A module that takes tensors in order and returns one tensor."""

    class Plain(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.module = module

        def forward(self, *tensors):
            return call(self.module, *tensors)

    return Plain()


def _classifier(kind: str, **options) -> Callable:
    """An image classifier of transformers, with 1000 classes."""

    def make(torch, transformers):
        config = getattr(transformers, f"{kind}Config")(num_labels=1000, **options)
        module = getattr(transformers, f"{kind}ForImageClassification")(config)
        return _tensor_of(torch, module, lambda m, x: m(pixel_values=x).logits)

    return make


def _bert(torch, transformers):
    module = transformers.BertModel(transformers.BertConfig(attn_implementation="eager"))
    return _tensor_of(torch, module, lambda m, ids: m(input_ids=ids).last_hidden_state)


def _minilm(torch, transformers):
    config = transformers.BertConfig(
        attn_implementation="eager",
        hidden_size=384,
        num_hidden_layers=6,
        num_attention_heads=12,
        intermediate_size=1536,
    )
    module = transformers.BertModel(config)
    return _tensor_of(
        torch, module, lambda m, ids, mask: m(input_ids=ids, attention_mask=mask).last_hidden_state
    )


def _gpt2(torch, transformers):
    module = transformers.GPT2LMHeadModel(transformers.GPT2Config(attn_implementation="eager"))
    return _tensor_of(torch, module, lambda m, ids: m(input_ids=ids, use_cache=False).logits)


def _whisper(torch, transformers):
    config = transformers.WhisperConfig(
        attn_implementation="eager",
        d_model=384,
        encoder_layers=4,
        decoder_layers=4,
        encoder_attention_heads=6,
        decoder_attention_heads=6,
        encoder_ffn_dim=1536,
        decoder_ffn_dim=1536,
    )
    module = transformers.WhisperModel(config).encoder
    return _tensor_of(torch, module, lambda m, mel: m(mel).last_hidden_state)


def _bilstm(torch, transformers):
    layers = torch.nn.ModuleDict(
        {
            "lstm": torch.nn.LSTM(80, 256, 2, batch_first=True, bidirectional=True),
            "out": torch.nn.Linear(512, 100),
        }
    )
    return _tensor_of(torch, layers, lambda m, x: m["out"](m["lstm"](x)[0]))


def _mlp(torch, transformers):
    layers = [layer for _ in range(6) for layer in (torch.nn.Linear(64, 64), torch.nn.ReLU())]
    return torch.nn.Sequential(*layers)


def _floats(*shape: int) -> Callable:
    return lambda torch: (torch.randn(*shape),)


def _tokens(*shape: int) -> Callable:
    return lambda torch: (torch.randint(0, 30000, shape),)


_PICTURE = _floats(1, 3, 224, 224)
RECIPES = {
    "mobilenetv2": Recipe(_classifier("MobileNetV2"), _PICTURE),
    "convnext_tiny": Recipe(_classifier("ConvNext"), _PICTURE),
    "vit_b16": Recipe(_classifier("ViT"), _PICTURE),
    "bert_base": Recipe(_bert, _tokens(1, 128), ("ids",)),
    "minilm": Recipe(
        _minilm,
        lambda torch: (*_tokens(2, 64)(torch), torch.ones(2, 64, dtype=torch.int64)),
        ("ids", "mask"),
        {0: "batch", 1: "sequence"},
    ),
    "gpt2": Recipe(_gpt2, _tokens(1, 64), ("ids",)),
    "whisper_tiny_encoder": Recipe(_whisper, _floats(1, 80, 3000), ("mel",)),
    "bilstm": Recipe(_bilstm, _floats(1, 100, 80)),
    "mlp": Recipe(_mlp, _floats(1, 64)),
}
