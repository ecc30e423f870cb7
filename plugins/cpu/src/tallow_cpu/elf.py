"""A linker for one ELF object: its sections laid out flat, so that loading is copying.

The result holds no absolute address and needs no symbol from outside; what does is refused by name.
Sources: System V ABI, AMD64 supplement, section 4.4 (relocations); ELF for the Arm 64-bit architecture,
section 5.7.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from tallow.errors import CompileError

_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_RELA = struct.Struct("<QQq")
_ALLOC, _NOBITS, _SYMTAB, _RELA_TYPE = 2, 8, 2, 4
_PAGE = 4096


@dataclass(frozen=True, slots=True)
class Linked:
    """Code and data in one piece, and where each entry starts. It may be placed at any multiple of `align`."""

    blob: bytes
    entries: dict[str, int]
    align: int


@dataclass(slots=True)
class _Section:
    name: str
    type: int
    flags: int
    offset: int
    size: int
    link: int
    info: int
    align: int
    address: int = -1


@dataclass(frozen=True, slots=True)
class _Field:
    """Where a relocation's value goes: `bits` of it, after dropping `drop`, at bit `at` of a 32-bit word.

    kind: "relative" is a distance in bytes, "page" one in pages, "low" the place within a page.
    """

    kind: str
    at: int
    bits: int
    drop: int = 0


# (ELF machine, relocation type) -> field
_FIELDS = {
    (62, 2): _Field("relative", 0, 32),  # R_X86_64_PC32
    (62, 4): _Field("relative", 0, 32),  # R_X86_64_PLT32
    (183, 261): _Field("relative", 0, 32),  # R_AARCH64_PREL32
    (183, 273): _Field("relative", 5, 19, 2),  # R_AARCH64_LD_PREL_LO19
    (183, 275): _Field("page", 5, 21, 12),  # R_AARCH64_ADR_PREL_PG_HI21
    (183, 277): _Field("low", 10, 12),  # R_AARCH64_ADD_ABS_LO12_NC
    (183, 278): _Field("low", 10, 12),  # R_AARCH64_LDST8_ABS_LO12_NC
    (183, 279): _Field("relative", 5, 14, 2),  # R_AARCH64_TSTBR14
    (183, 280): _Field("relative", 5, 19, 2),  # R_AARCH64_CONDBR19
    (183, 282): _Field("relative", 0, 26, 2),  # R_AARCH64_JUMP26
    (183, 283): _Field("relative", 0, 26, 2),  # R_AARCH64_CALL26
    (183, 284): _Field("low", 10, 12, 1),  # R_AARCH64_LDST16_ABS_LO12_NC
    (183, 285): _Field("low", 10, 12, 2),  # R_AARCH64_LDST32_ABS_LO12_NC
    (183, 286): _Field("low", 10, 12, 3),  # R_AARCH64_LDST64_ABS_LO12_NC
    (183, 299): _Field("low", 10, 12, 4),  # R_AARCH64_LDST128_ABS_LO12_NC
}
_MACHINES = {62: "x86-64", 183: "aarch64"}


def link(data: bytes, entries: Sequence[str]) -> Linked:
    """Lay out an object's sections and apply its relocations; CompileError names what cannot be done."""
    if data[:4] != b"\x7fELF" or data[4] != 2:
        raise CompileError("the compiler did not make a 64-bit ELF object: this target cannot be linked")
    machine = struct.unpack_from("<H", data, 18)[0]
    if machine not in _MACHINES:
        known = ", ".join(f"{name} ({number})" for number, name in _MACHINES.items())
        raise CompileError(f"linking for ELF machine {machine} is not supported: expected {known}")
    sections = _read_sections(data)
    blob = bytearray()
    for section in sections:
        if section.flags & _ALLOC and section.size and not section.name.startswith((".eh_frame", ".note")):
            blob += b"\0" * (-len(blob) % max(section.align, 16))
            section.address = len(blob)
            blob += (
                b"\0" * section.size
                if section.type == _NOBITS
                else data[section.offset : section.offset + section.size]
            )
    symbols = _read_symbols(data, sections)
    kinds = set()
    for section in sections:
        if section.type == _RELA_TYPE and sections[section.info].address >= 0:
            kinds |= _relocate(data, blob, section, sections[section.info].address, symbols, machine)
    found = {name: place for name, place in symbols if name in entries and place is not None}
    missing = [name for name in entries if name not in found]
    if missing:
        raise CompileError(f"the compiled object lacks {', '.join(missing)}")
    return Linked(bytes(blob), found, _PAGE if kinds & {"page", "low"} else 64)


def _read_sections(data: bytes) -> list[_Section]:
    start = struct.unpack_from("<Q", data, 40)[0]
    count, names_at = struct.unpack_from("<HH", data, 60)
    raw = [_SECTION.unpack_from(data, start + i * _SECTION.size) for i in range(count)]
    names = raw[names_at][4]
    return [_Section(_string(data, names + r[0]), r[1], r[2], r[4], r[5], r[6], r[7], r[8]) for r in raw]


def _string(data: bytes, at: int) -> str:
    return data[at : data.index(b"\0", at)].decode()


def _read_symbols(data: bytes, sections: list[_Section]) -> list[tuple[str, int | None]]:
    """(name, place in the blob or None) of every symbol."""
    table = next((s for s in sections if s.type == _SYMTAB), None)
    if table is None:
        return []
    strings = sections[table.link].offset
    symbols = []
    for at in range(table.offset, table.offset + table.size, _SYMBOL.size):
        name, _, _, index, value, _ = _SYMBOL.unpack_from(data, at)
        place = None
        if 0 < index < len(sections) and sections[index].address >= 0:
            place = sections[index].address + value
        label = (
            _string(data, strings + name) if name else (sections[index].name if index < len(sections) else "")
        )
        symbols.append((label, place))
    return symbols


def _relocate(data: bytes, blob: bytearray, table: _Section, base: int, symbols, machine: int) -> set[str]:
    """Apply one table of relocations; the kinds of fields that were met."""
    kinds = set()
    for at in range(table.offset, table.offset + table.size, _RELA.size):
        offset, info, addend = _RELA.unpack_from(data, at)
        type_, (name, value) = info & 0xFFFFFFFF, symbols[info >> 32]
        if value is None:
            raise CompileError(
                f"compiled code calls {name or 'an unnamed symbol'}, which generated code may not import"
            )
        field = _FIELDS.get((machine, type_))
        if field is None:
            raise CompileError(
                f"relocation type {type_} against {name or 'a section'} for {_MACHINES[machine]} is not position-independent"
            )
        _write(blob, base + offset, value + addend, field, name)
        kinds.add(field.kind)
    return kinds


def _write(blob: bytearray, place: int, target: int, field: _Field, name: str) -> None:
    if field.kind == "low":
        value = target % _PAGE
    elif field.kind == "page":
        value = target // _PAGE * _PAGE - place // _PAGE * _PAGE
    else:
        value = target - place
    if value % (1 << field.drop):
        raise CompileError(f"{name or 'a section'} at {target} is not aligned to {1 << field.drop} bytes")
    value >>= field.drop
    if field.kind != "low" and not -(1 << field.bits - 1) <= value < 1 << field.bits - 1:
        raise CompileError(
            f"{name or 'a section'} is too far from its use: {value} needs more than {field.bits} bits"
        )
    word = struct.unpack_from("<I", blob, place)[0]
    mask = (1 << field.bits) - 1
    if field.kind == "page":  # the low two bits of the page distance stand apart, at bit 29
        word = word & ~0x60FFFFE0 | (value & 3) << 29 | (value >> 2 & 0x7FFFF) << 5
    else:
        word = word & ~(mask << field.at) | (value & mask) << field.at
    struct.pack_into("<I", blob, place, word & 0xFFFFFFFF)
