"""ddddocr on words drawn as a CAPTCHA: what each recogniser reads, and where the detector sees letters."""

import io
import json

import ddddocr
from PIL import Image, ImageDraw, ImageFont


def drawn(word: str) -> bytes:
    image = Image.new("RGB", (40 + 28 * len(word), 64), "white")
    ImageDraw.Draw(image).text((12, 10), word, fill=(20, 40, 120), font=ImageFont.load_default(36))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


words = ("aX7k", "hello", "93142")
readers = {"new": ddddocr.DdddOcr(show_ad=False), "old": ddddocr.DdddOcr(show_ad=False, old=True)}
found = {name: [reader.classification(drawn(word)) for word in words] for name, reader in readers.items()}
found["boxes"] = sorted(ddddocr.DdddOcr(show_ad=False, det=True, ocr=False).detection(drawn("aX7k")))
print(json.dumps(found))
