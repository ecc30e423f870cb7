"""silero-vad on a recording: where speech is, by its own wrappers of its models."""

import json
import sys
import wave

import numpy as np
import torch
from silero_vad import get_speech_timestamps, get_speech_timestamps_sequence, load_silero_vad

with wave.open(sys.argv[1]) as file:
    samples = np.frombuffer(file.readframes(file.getnframes()), np.int16)
audio = torch.from_numpy(samples.astype(np.float32) / 32768)
found = {"spans": [], "scores": []}
for version in (15, 16):
    model = load_silero_vad(onnx=True, opset_version=version)
    found["spans"].append(get_speech_timestamps(audio, model, sampling_rate=16000))
    found["scores"] += model.audio_forward(audio, 16000).numpy().ravel().tolist()
whole = load_silero_vad(sequence=True)
found["spans"].append(get_speech_timestamps_sequence(audio, whole, sampling_rate=16000))
found["scores"] += whole.audio_forward(audio.numpy(), 16000).tolist()
print(json.dumps(found))
