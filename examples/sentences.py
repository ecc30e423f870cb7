"""How near sentences are in meaning: MiniLM from a safetensors folder."""

import sys
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

import tallow


def embed(run: tallow.Executable, tokenizer: Tokenizer, sentences: list[str]) -> np.ndarray:
    """Unit vectors [sentences, 384]."""
    tokenizer.enable_padding()
    tokenizer.enable_truncation(256)
    coded = tokenizer.encode_batch(sentences)
    ids, mask = (np.array([getattr(c, part) for c in coded], np.int64) for part in ("ids", "attention_mask"))
    return run.run({"input_ids": ids, "attention_mask": mask})["sentence_embedding"]


def main(folder: str, *sentences: str) -> None:
    model = Path(folder) / "minilm"
    run = tallow.compile(model)
    vectors = embed(run, Tokenizer.from_file(str(model / "tokenizer.json")), list(sentences))
    for sentence, vector in zip(sentences[1:], vectors[1:], strict=True):
        print(f"{float(vectors[0] @ vector):.3f}  {sentences[0]!r} ~ {sentence!r}")


if __name__ == "__main__":
    main(*sys.argv[1:])
