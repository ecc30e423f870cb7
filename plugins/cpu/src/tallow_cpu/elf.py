"""A linker for one ELF object: its sections laid out flat, so that loading is copying.

The result holds no absolute address and needs no symbol from outside; what does is refused by name.
Sources: System V ABI, AMD64 supplement, section 4.4 (relocations); ELF for the Arm 64-bit architecture.
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
_X86_64 = 62
# x86-64 relocations that are a 32-bit distance from the place they stand at.
_RELATIVE_32 = {2: "PC32", 4: "PLT32"}


@dataclass(frozen=True, slots=True)
class Linked:
    """Code and data in one piece, and where each entry starts."""

    blob: bytes
    entries: dict[str, int]


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


def link(data: bytes, entries: Sequence[str]) -> Linked:
    """Lay out an object's sections from a 64-byte boundary and apply its relocations."""
    if data[:4] != b"\x7fELF" or data[4] != 2:
        raise CompileError("the compiler did not make a 64-bit ELF object: this target cannot be linked yet")
    machine = struct.unpack_from("<H", data, 18)[0]
    if machine != _X86_64:
        raise CompileError(f"linking for ELF machine {machine} is not supported: expected x86-64 ({_X86_64})")
    sections = _read_sections(data)
    blob = bytearray()
    for section in sections:
        if section.flags & _ALLOC and section.size and not section.name.startswith((".eh_frame", ".note")):
            blob += b"\0" * (-len(blob) % max(section.align, 16))
            section.address = len(blob)
            blob += b"\0" * section.size if section.type == _NOBITS else data[section.offset : section.offset + section.size]
    symbols = _read_symbols(data, sections)
    for section in sections:
        if section.type == _RELA_TYPE and sections[section.info].address >= 0:
            _relocate(data, blob, section, sections, symbols)
    found = {name: value for name, _, value in symbols if name in entries and value is not None}
    missing = [name for name in entries if name not in found]
    if missing:
        raise CompileError(f"the compiled object lacks {', '.join(missing)}")
    return Linked(bytes(blob), found)


def _read_sections(data: bytes) -> list[_Section]:
    start = struct.unpack_from("<Q", data, 40)[0]
    count, names_at = struct.unpack_from("<HH", data, 60)
    raw = [_SECTION.unpack_from(data, start + i * _SECTION.size) for i in range(count)]
    names = raw[names_at][4]
    return [
        _Section(_string(data, names + r[0]), r[1], r[2], r[4], r[5], r[6], r[7], r[8]) for r in raw
    ]


def _string(data: bytes, at: int) -> str:
    return data[at : data.index(b"\0", at)].decode()


def _read_symbols(data: bytes, sections: list[_Section]) -> list[tuple[str, int, int | None]]:
    """(name, section number, place in the blob or None) of every symbol."""
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
        label = _string(data, strings + name) if name else (sections[index].name if index < len(sections) else "")
        symbols.append((label, index, place))
    return symbols


def _relocate(data: bytes, blob: bytearray, table: _Section, sections, symbols) -> None:
    base = sections[table.info].address
    for at in range(table.offset, table.offset + table.size, _RELA.size):
        offset, info, addend = _RELA.unpack_from(data, at)
        kind, (name, _, value) = info & 0xFFFFFFFF, symbols[info >> 32]
        place = base + offset
        if value is None:
            raise CompileError(f"compiled code calls {name or 'an unnamed symbol'}, which generated code may not import")
        if kind not in _RELATIVE_32:
            raise CompileError(f"relocation type {kind} against {name}: expected only {', '.join(_RELATIVE_32.values())}")
        struct.pack_into("<i", blob, place, value + addend - place)
