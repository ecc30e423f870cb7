"""Where a 16 kHz mono recording holds speech: Silero's voice activity detector over the whole file."""

import sys
import wave
from pathlib import Path

import numpy as np

import tallow

RATE, FRAME, BEFORE = 16000, 512, 64  # each frame is seen with the 64 samples before it


def read_wave(path: str) -> np.ndarray:
    """Samples in -1..1 of a 16-bit mono file at 16 kHz."""
    with wave.open(path) as file:
        if (file.getframerate(), file.getnchannels(), file.getsampwidth()) != (RATE, 1, 2):
            raise SystemExit(f"{path}: expected 16-bit mono at {RATE} Hz")
        return np.frombuffer(file.readframes(file.getnframes()), np.int16).astype(np.float32) / 32768


def frames(samples: np.ndarray) -> np.ndarray:
    """[frames, 576]: overlapping frames of the recording."""
    count = len(samples) // FRAME
    padded = np.concatenate([np.zeros(BEFORE, np.float32), samples[: count * FRAME]])
    return np.lib.stride_tricks.sliding_window_view(padded, FRAME + BEFORE)[::FRAME]


def main(folder: str, path: str) -> None:
    run = tallow.compile(Path(folder) / "silero_vad.onnx")
    state = np.zeros((1, 1, 128), np.float32)
    speech = run.run({"input": frames(read_wave(path)), "h": state, "c": state})["speech_probs"] > 0.5
    edges = np.flatnonzero(np.diff(np.concatenate([[0], speech.astype(int), [0]])))
    for start, stop in zip(edges[::2], edges[1::2], strict=True):
        print(f"speech from {start * FRAME / RATE:6.2f} s to {stop * FRAME / RATE:6.2f} s")
    print(f"{speech.mean():.0%} of {len(speech) * FRAME / RATE:.1f} s is speech")


if __name__ == "__main__":
    main(*sys.argv[1:])
