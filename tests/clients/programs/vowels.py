"""text2tashkeel adds vowels to Arabic, by its models of 8 bits."""

import json

import text2tashkeel

kinds = ("BilstmInt8", "RawiV3Int8", "RawiEnsemble")
print(json.dumps([getattr(text2tashkeel, kind)().diacritize("السلام عليكم ورحمة الله") for kind in kinds]))
