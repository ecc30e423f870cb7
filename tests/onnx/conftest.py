"""Helpers of the operator tests are imported by name from `onnx_support`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
