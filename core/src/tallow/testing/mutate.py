"""Mutations for fuzzing: of bytes, of protobuf messages field by field, and of JSON values."""

from __future__ import annotations

import random

EXTREMES = (
    0,
    1,
    -1,
    2,
    3,
    7,
    127,
    255,
    1 << 16,
    (1 << 31) - 1,
    -(1 << 31),
    1 << 40,
    (1 << 63) - 1,
    -(1 << 63),
)
REALS = (0.0, -1.0, 1e30, -1e30, float("inf"), float("-inf"), float("nan"))


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    """One to four small damages: bits, bytes, cuts, repeats, insertions."""
    copy = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        if not copy:
            break
        at = rng.randrange(len(copy))
        span = rng.randint(1, 1 + min(16, len(copy) - at))
        match rng.randrange(6):
            case 0:
                copy[at] ^= 1 << rng.randrange(8)
            case 1:
                copy[at] = rng.randrange(256)
            case 2:
                del copy[at:]
            case 3:
                del copy[at : at + span]
            case 4:
                copy[at:at] = copy[at : at + span]
            case 5:
                copy[at : at + span] = rng.randbytes(span)
    return bytes(copy)


def mutate_message(message, rng: random.Random) -> None:
    """One to three changes of a protobuf message, at any depth."""
    for _ in range(rng.randint(1, 3)):
        places = _places(message)
        if places:
            owner, field = rng.choice(places)
            _change(owner, field, rng, message)


def _places(message) -> list[tuple]:
    """(message, field descriptor) of every field that is set, at any depth."""
    found = []
    for field, value in message.ListFields():
        found.append((message, field))
        if field.type == field.TYPE_MESSAGE:
            for inner in value if _repeated(field) else [value]:
                found += _places(inner)
    return found


def _repeated(field) -> bool:
    return field.is_repeated if hasattr(field, "is_repeated") else field.label == field.LABEL_REPEATED


def _change(owner, field, rng: random.Random, root) -> None:
    if _repeated(field):
        _change_list(owner, field, rng, root)
    elif field.type == field.TYPE_MESSAGE or rng.random() < 0.2:
        owner.ClearField(field.name)
    else:
        setattr(owner, field.name, _value(field, getattr(owner, field.name), rng, root))


def _change_list(owner, field, rng: random.Random, root) -> None:
    values = getattr(owner, field.name)
    at = rng.randrange(len(values))
    match rng.randrange(4):
        case 0:
            del values[at]
        case 1 if field.type == field.TYPE_MESSAGE:
            values.add().CopyFrom(values[at])
        case 2 if field.type == field.TYPE_MESSAGE:
            order = [type(v).FromString(v.SerializeToString()) for v in values]
            rng.shuffle(order)
            del values[:]
            values.extend(order)
        case _ if field.type != field.TYPE_MESSAGE:
            values[at] = _value(field, values[at], rng, root)
        case _:
            del values[at:]


def _value(field, old, rng: random.Random, root):
    """Another value of a field's type; names are mostly exchanged for others of the model."""
    if field.type == field.TYPE_STRING:
        return rng.choice([*_texts(root), "", "x" * 300, "../w.bin", "/etc/passwd"])
    if field.type == field.TYPE_BYTES:
        return mutate_bytes(old, rng)
    if field.type in (field.TYPE_FLOAT, field.TYPE_DOUBLE):
        return rng.choice(REALS)
    if field.type == field.TYPE_ENUM:
        return rng.choice(field.enum_type.values).number
    wide = rng.choice((*EXTREMES, old + 1, old - 1))
    low, high = (-(1 << 31), (1 << 31) - 1) if field.type == field.TYPE_INT32 else (-(1 << 63), (1 << 63) - 1)
    if field.type in (field.TYPE_UINT32, field.TYPE_UINT64):
        low = 0
    return min(max(wide, low), high)


def _texts(message) -> list[str]:
    """All strings in a message."""
    found = []
    for field, value in message.ListFields():
        if field.type == field.TYPE_STRING:
            found += list(value) if _repeated(field) else [value]
        elif field.type == field.TYPE_MESSAGE:
            for inner in value if _repeated(field) else [value]:
                found += _texts(inner)
    return found


def mutate_json(value, rng: random.Random):
    """The value with one part of it replaced, dropped or repeated."""
    if isinstance(value, (dict, list)) and value and rng.random() < 0.85:
        copy = dict(value) if isinstance(value, dict) else list(value)
        key = rng.choice(list(copy)) if isinstance(copy, dict) else rng.randrange(len(copy))
        if rng.random() < 0.1:
            del copy[key]
        else:
            copy[key] = mutate_json(copy[key], rng)
        return copy
    return rng.choice(
        [*EXTREMES, *REALS[:4], "", "F32", "F64", None, True, [], {}, [1, 2], "x" * 300, [value]]
    )
