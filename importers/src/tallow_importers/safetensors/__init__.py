"""safetensors models as Graphs: Hugging Face folders whose architecture Tallow knows."""

from tallow_importers.safetensors.importer import load

__all__ = ["load"]
