"""safetensors models as Graphs: Hugging Face folders whose architecture Tallow knows; `importer.load` is the way in."""
