"""Which way up a page is: PP-LCNet on a picture and its three turns."""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

import tallow

MEAN, STD = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)


def pixels(picture: Image.Image) -> np.ndarray:
    """[1, 3, 224, 224]: the shorter side brought to 256, the middle cut out, normalised."""
    scale = 256 / min(picture.size)
    picture = picture.convert("RGB").resize(
        [round(side * scale) for side in picture.size], Image.Resampling.BILINEAR
    )
    left, top = ((side - 224) // 2 for side in picture.size)
    array = np.asarray(picture.crop((left, top, left + 224, top + 224)), np.float32) / 255
    return ((array - MEAN) / STD).transpose(2, 0, 1)[None].copy()


def main(folder: str, path: str) -> None:
    run = tallow.compile(Path(folder) / "orientation.onnx")
    page = Image.open(path)
    for turn in (0, 90, 180, 270):
        scores = run(pixels(page.rotate(turn, expand=True)))[0]
        print(f"turned by {turn:3}: says {90 * int(scores.argmax()):3} ({scores.max():.2f})")


if __name__ == "__main__":
    main(*sys.argv[1:])
