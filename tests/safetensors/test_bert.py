"""The safetensors importer: a small BERT against a numpy forward written here, and folders that are wrong."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

import tallow
from tallow.errors import ImportFailed

CONFIG = {
    "model_type": "bert",
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "hidden_act": "relu",
    "layer_norm_eps": 1e-5,
}
HIDDEN, WIDE, WORDS, PLACES = 8, 12, 20, 16


@pytest.fixture
def tensors(rng):
    made = {}

    def add(name, *shape):
        made[name] = rng.normal(0, 0.3, shape).astype("f4")

    for table, rows in (("word", WORDS), ("position", PLACES), ("token_type", 2)):
        add(f"embeddings.{table}_embeddings.weight", rows, HIDDEN)
    norms = ["embeddings.LayerNorm"]
    for n in range(2):
        base = f"encoder.layer.{n}"
        for name, out, into in [
            *((f"attention.self.{p}", HIDDEN, HIDDEN) for p in ("query", "key", "value")),
            ("attention.output.dense", HIDDEN, HIDDEN),
            ("intermediate.dense", WIDE, HIDDEN),
            ("output.dense", HIDDEN, WIDE),
        ]:
            add(f"{base}.{name}.weight", out, into)
            add(f"{base}.{name}.bias", out)
        norms += [f"{base}.attention.output.LayerNorm", f"{base}.output.LayerNorm"]
    for name in norms:
        add(f"{name}.weight", HIDDEN)
        add(f"{name}.bias", HIDDEN)
    return made


@pytest.fixture
def folder(tmp_path, tensors):
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return tmp_path


def forward(t, ids, mask):
    """BERT in numpy, in f64."""
    t = {k: v.astype("f8") for k, v in t.items()}

    def linear(x, name):
        return x @ t[f"{name}.weight"].T + t[f"{name}.bias"]

    def norm(x, name):
        y = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return y * t[f"{name}.weight"] + t[f"{name}.bias"]

    x = t["embeddings.word_embeddings.weight"][ids] + t["embeddings.token_type_embeddings.weight"][0]
    x = norm(x + t["embeddings.position_embeddings.weight"][: ids.shape[1]], "embeddings.LayerNorm")
    for n in range(2):
        base = f"encoder.layer.{n}"
        parts = []
        for p in ("query", "key", "value"):
            y = linear(x, f"{base}.attention.self.{p}")
            parts.append(y.reshape(*ids.shape, 2, HIDDEN // 2).transpose(0, 2, 1, 3))
        q, k, v = parts
        scores = q @ k.transpose(0, 1, 3, 2) / np.sqrt(HIDDEN // 2) + np.where(mask, 0, -1e30)[:, None, None]
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        y = (weights / weights.sum(-1, keepdims=True) @ v).transpose(0, 2, 1, 3).reshape(x.shape)
        x = norm(linear(y, f"{base}.attention.output.dense") + x, f"{base}.attention.output.LayerNorm")
        y = linear(np.maximum(linear(x, f"{base}.intermediate.dense"), 0), f"{base}.output.dense")
        x = norm(y + x, f"{base}.output.LayerNorm")
    pooled = (x * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
    return x, pooled


@pytest.mark.parametrize("batch,steps", [(1, 1), (2, 7), (3, 16)])
def test_bert_agrees_with_numpy(folder, tensors, rng, batch, steps):
    ids = rng.integers(0, WORDS, (batch, steps))
    mask = (np.arange(steps)[None] < rng.integers(1, steps + 1, (batch, 1))).astype("i8")
    got = tallow.compile(folder).run({"input_ids": ids, "attention_mask": mask})
    hidden, pooled = forward(tensors, ids, mask)
    np.testing.assert_allclose(got["last_hidden_state"][mask > 0], hidden[mask > 0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(got["sentence_embedding"], pooled, rtol=1e-4, atol=1e-5)


def test_shards_and_normalisation(tmp_path, tensors, rng):
    names = sorted(tensors)
    halves = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, part in halves.items():
        save_file({n: tensors[n] for n in part}, tmp_path / file)
    index = {"weight_map": {n: file for file, part in halves.items() for n in part}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "modules.json").write_text('[{"type": "sentence_transformers.models.Normalize"}]')
    ids = rng.integers(0, WORDS, (2, 5))
    got = tallow.compile(tmp_path).run({"input_ids": ids, "attention_mask": np.ones_like(ids)})[
        "sentence_embedding"
    ]
    _, pooled = forward(tensors, ids, np.ones_like(ids))
    np.testing.assert_allclose(
        got, pooled / np.linalg.norm(pooled, axis=1, keepdims=True), rtol=1e-4, atol=1e-5
    )


def refused(path, message):
    with pytest.raises(ImportFailed, match=message):
        tallow.load(path)


def test_what_is_wrong_is_said(folder, tensors):
    model, config = folder / "model.safetensors", folder / "config.json"
    good = model.read_bytes()
    for content in (b"", b"12345678", good[:100], good[:-10], b"\xff" * 64):
        model.write_bytes(content)
        refused(folder, "model.safetensors")
    save_file({k: v for k, v in tensors.items() if k != "encoder.layer.1.output.dense.bias"}, model)
    tallow.load(folder)  # biases are optional
    save_file({k: v for k, v in tensors.items() if k != "encoder.layer.1.output.dense.weight"}, model)
    refused(folder, "no tensor 'encoder.layer.1.output.dense.weight'")
    config.write_text(json.dumps({**CONFIG, "model_type": "gpt9"}))
    refused(folder, "model type 'gpt9' is not supported: expected one of bert")
    config.write_text("{")
    refused(folder, "no model configuration")
    config.unlink()
    refused(model, "no config.json")
    config.write_text(json.dumps(CONFIG))
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"x": "../../secret.safetensors"}}')
    refused(folder, "outside the model's folder")
