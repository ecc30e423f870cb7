"""magika on files: what each is, and how sure it is."""

import json
import sys
from pathlib import Path

from magika import Magika

told = [Magika().identify_path(Path(path)) for path in sys.argv[1:]]
print(json.dumps({"labels": [str(t.output.label) for t in told], "scores": [t.score for t in told]}))
