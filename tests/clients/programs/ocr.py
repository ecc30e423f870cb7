"""rapidocr on a picture of three lines: texts, how sure it is, and where they are."""

import json
import logging

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from rapidocr import RapidOCR

logging.disable(logging.INFO)
image = Image.new("RGB", (640, 200), "white")
font = ImageFont.load_default(36)
for row, line in enumerate(("Tensor compiler 2024", "reads a line of text", "OPEN 09:30 - 18:45")):
    ImageDraw.Draw(image).text((20, 15 + 60 * row), line, fill="black", font=font)
found = RapidOCR()(np.asarray(image)[..., ::-1])
scores = [float(score) for score in found.scores]
print(json.dumps({"texts": list(found.txts), "scores": scores, "boxes": np.asarray(found.boxes).tolist()}))
