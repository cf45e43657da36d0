"""How bytes go wrong: a seeded choice of what networks, disks and liars do to a message.

Two kinds. Blind ones work on any bytes: flipped bits, cut ends, pieces lost, doubled or taken from another message.
Knowing ones find the heads of the items in MessagePack or DAG-CBOR (where each value's type and length stand) and
change just those: another type, a length beyond all memory, a number in a longer spelling, a key twice, a thousand
levels of nesting. Every choice comes from the generator that is given, so a case is its seed.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

#: Levels of nesting that are tried: within any limit, at the interpreter's, and far beyond it.
DEPTHS = (1, 2, 3, 60, 130, 500, 1100, 5000, 40_000)
#: Heads of one message that are looked for; behind thousands of levels of nesting nothing new comes.
HEADS_MAX = 300
#: Numbers at the edges of what formats and fields hold.
EDGES = (0, 1, 23, 24, 127, 128, 255, 256, 65535, 65536, 1 << 31, (1 << 32) - 1, 1 << 53, (1 << 63) - 1, 1 << 63)


@dataclass(frozen=True, slots=True)
class Head:
    """Where an item's type and length stand: `data[start:end]`; its `major` is CBOR's, for both formats."""

    start: int
    end: int
    major: int
    value: int


UINT, NEGATIVE, BYTES, TEXT, LIST, MAP, TAG, OTHER = range(8)


@dataclass(frozen=True, slots=True)
class Format:
    """How one encoding writes heads."""

    heads: Callable[[bytes], list[Head]]
    head: Callable[[int, int, int], bytes]
    strange: tuple[bytes, ...]


# -- DAG-CBOR


def cbor_heads(data: bytes) -> list[Head]:
    """Every head up to where the bytes make no more sense (a signature after the item, say)."""
    found: list[Head] = []
    at = 0
    while at < len(data) and len(found) < HEADS_MAX:
        major, info = data[at] >> 5, data[at] & 31
        width = {24: 1, 25: 2, 26: 4, 27: 8}.get(info, 0)
        end = at + 1 + width
        if info > 27 or end > len(data):
            break
        value = int.from_bytes(data[at + 1 : end], "big") if width else info
        found.append(Head(at, end, major, value))
        at = end + value if major in (BYTES, TEXT) else end
    return found


def cbor_head(major: int, value: int, spare: int = 0) -> bytes:
    """A head, `spare` sizes longer than it need be."""
    sizes = [(24, 0), (1 << 8, 1), (1 << 16, 2), (1 << 32, 4), (1 << 64, 8)]
    least = next((index for index, (limit, _) in enumerate(sizes) if value < limit), 4)
    width = sizes[min(4, least + spare)][1]
    if not width:
        return bytes((major << 5 | value,))
    info = {1: 24, 2: 25, 4: 26, 8: 27}[width]
    return bytes((major << 5 | info,)) + (value % (1 << 8 * width)).to_bytes(width, "big")


CBOR = Format(
    cbor_heads,
    cbor_head,
    (
        b"\xf6",  # null
        b"\xf4",
        b"\xf5",
        b"\xf7",  # undefined
        b"\xfb\x7f\xf8" + bytes(6),  # NaN
        b"\xfb\x7f\xf0" + bytes(6),  # infinity
        b"\xfb\x40\x09\x21\xfb\x54\x44\x2d\x18",
        b"\xfa\x40\x49\x0f\xdb",  # a short float
        b"\xf9\x3c\x00",
        b"\x5f\x41a\xff",  # strings and lists without a length
        b"\x9f\xff",
        b"\xbf\xff",
        b"\xc1\x1a\x51\x4b\x67\xb0",  # a time, a big number
        b"\xc2\x49\x01" + bytes(8),
        b"\xd8\x2a\x58\x25\x00\x01\x71\x12\x20" + bytes(32),  # a link
        b"\xd8\x2a\x41\x00",
        b"\xff",
        b"\x1c",
        b"\x40",
        b"\x60",
        b"\x80",
        b"\xa0",
        b"\x62\xc3\x28",  # no UTF-8
        b"\x3b" + b"\xff" * 8,
    ),
)


# -- MessagePack


def msgpack_heads(data: bytes) -> list[Head]:
    """As `cbor_heads`."""
    found: list[Head] = []
    at = 0
    while at < len(data) and len(found) < HEADS_MAX:
        head = _msgpack_at(data, at)
        if head is None:
            break
        found.append(head)
        at = head.end + head.value if head.major in (BYTES, TEXT, TAG) else head.end
    return found


#: First byte -> (major, bytes of length or value after it).
_MSGPACK = {
    0xC0: (OTHER, 0), 0xC2: (OTHER, 0), 0xC3: (OTHER, 0), 0xC4: (BYTES, 1), 0xC5: (BYTES, 2), 0xC6: (BYTES, 4),
    0xC7: (TAG, 1), 0xC8: (TAG, 2), 0xC9: (TAG, 4), 0xCA: (OTHER, 4), 0xCB: (OTHER, 8), 0xCC: (UINT, 1),
    0xCD: (UINT, 2), 0xCE: (UINT, 4), 0xCF: (UINT, 8), 0xD0: (NEGATIVE, 1), 0xD1: (NEGATIVE, 2), 0xD2: (NEGATIVE, 4),
    0xD3: (NEGATIVE, 8), 0xD9: (TEXT, 1), 0xDA: (TEXT, 2), 0xDB: (TEXT, 4), 0xDC: (LIST, 2), 0xDD: (LIST, 4),
    0xDE: (MAP, 2), 0xDF: (MAP, 4),
}  # fmt: skip


def _msgpack_at(data: bytes, at: int) -> Head | None:
    first = data[at]
    if first < 0x80:
        return Head(at, at + 1, UINT, first)
    if first < 0x90:
        return Head(at, at + 1, MAP, first & 15)
    if first < 0xA0:
        return Head(at, at + 1, LIST, first & 15)
    if first < 0xC0:
        return Head(at, at + 1, TEXT, first & 31)
    if first >= 0xE0:
        return Head(at, at + 1, NEGATIVE, 256 - first)
    major, width = _MSGPACK.get(first, (OTHER, 0))
    end = at + 1 + width
    return None if end > len(data) else Head(at, end, major, int.from_bytes(data[at + 1 : end], "big"))


#: major -> the heads with a length of 1, 2, 4 and 8 bytes.
_WIDE = {
    UINT: (0xCC, 0xCD, 0xCE, 0xCF),
    NEGATIVE: (0xD0, 0xD1, 0xD2, 0xD3),
    BYTES: (0xC4, 0xC5, 0xC6, 0xC6),
    TEXT: (0xD9, 0xDA, 0xDB, 0xDB),
    LIST: (0xDC, 0xDC, 0xDD, 0xDD),
    MAP: (0xDE, 0xDE, 0xDF, 0xDF),
    TAG: (0xC7, 0xC8, 0xC9, 0xC9),
}
_WIDTH = {first: width for first, (_, width) in _MSGPACK.items()}
_SHORT = {UINT: (0x00, 0x80), MAP: (0x80, 16), LIST: (0x90, 16), TEXT: (0xA0, 32)}


def msgpack_head(major: int, value: int, spare: int = 0) -> bytes:
    """A head, `spare` sizes longer than it need be."""
    short, limit = _SHORT.get(major, (0, 0))
    if value < limit and not spare:
        return bytes((short | value,))
    if major not in _WIDE:
        return b"\xc0"
    least = next((index for index, bits in enumerate((8, 16, 32)) if value < 1 << bits), 3)
    first = _WIDE[major][min(3, least + max(0, spare - 1))]
    width = _WIDTH[first]
    return bytes((first,)) + (value % (1 << 8 * width)).to_bytes(width, "big")


MSGPACK = Format(
    msgpack_heads,
    msgpack_head,
    (
        b"\xc0",
        b"\xc1",  # never used
        b"\xc2",
        b"\xc3",
        b"\xcb\x7f\xf8" + bytes(6),
        b"\xcb\x40\x09\x21\xfb\x54\x44\x2d\x18",
        b"\xca\x7f\x80\x00\x00",
        b"\xd4\x01x",  # extension types, one of them a time
        b"\xd6\xff" + bytes(4),
        b"\xc7\xff\x00",
        b"\xa0",
        b"\xc4\x00",
        b"\x90",
        b"\x80",
        b"\xa2\xc3\x28",
        b"\xd3" + b"\xff" * 8,
        b"\xcf" + b"\xff" * 8,
    ),
)


# -- text: JSON and TOML

_TOKEN = re.compile(rb'"[^"\n]*"|-?[0-9][0-9a-zA-Z.+-]*|[a-z_]+|[][{}:,=]')


def text_heads(data: bytes) -> list[Head]:
    """Every token, whatever it means."""
    return [Head(found.start(), found.end(), OTHER, 0) for found in _TOKEN.finditer(data)]


def text_head(major: int, value: int, spare: int = 0) -> bytes:
    """What opens a list or a table; else a number."""
    return {LIST: b"[", MAP: b'{"x":'}.get(major, b"%d" % value)


WORDS = Format(
    text_heads,
    text_head,
    (
        b"null",
        b"true",
        b"false",
        b"[]",
        b"{}",
        b'""',
        b'"x"',
        b"-1",
        b"0",
        b"1.5",
        b"1e999",
        b"NaN",
        b"nan",
        b"-inf",
        b"18446744073709551616",
        b"9" * 5000,
        b'"' + b"y" * 5000 + b'"',
        b'"\\u0000"',
        b'"\\ud800"',
        b'"\xff"',
        b"[null, {}]",
        b'"12"',
        b"1979-05-27T07:32:00Z",
        b"[[x]]",
        b"\n",
    ),
)


# -- mutations


def mutate(rng: Random, data: bytes, other: bytes, form: Format | None) -> bytes:
    """`data` after one to four accidents; `other` lends pieces."""
    for _ in range(1 if rng.random() < 0.6 else rng.randint(2, 4)):
        knowing = form is not None and rng.random() < 0.7
        data = _knowing(rng, data, other, form) if knowing and form is not None else _blind(rng, data, other)
    return data


def _blind(rng: Random, data: bytes, other: bytes) -> bytes:
    size = len(data)
    if not size:
        return other[: rng.randint(0, len(other))]
    at = rng.randrange(size)
    match rng.randrange(9):
        case 0 | 1:
            changed = bytearray(data)
            for _ in range(rng.choice((1, 1, 1, 2, 8))):
                changed[rng.randrange(size)] ^= 1 << rng.randrange(8)
            return bytes(changed)
        case 2:
            return data[:at]
        case 3:
            return data[:at] + data[min(size, at + rng.randint(1, 8)) :]
        case 4:
            return data[:at] + rng.randbytes(rng.choice((1, 2, 8, 64))) + data[at:]
        case 5:
            end = min(size, at + rng.choice((1, 4, 32, 256)))
            return data[:end] + data[at:end] * rng.choice((1, 1, 2, 50)) + data[end:]
        case 6:
            start = rng.randrange(len(other) + 1)
            return data[:at] + other[start:]
        case 7:
            changed = bytearray(data)
            changed[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
            return bytes(changed)
        case _:
            number = rng.choice(EDGES)
            packed = struct.pack(rng.choice(("<Q", ">Q")), number)[: rng.choice((1, 2, 4, 8))]
            return data[:at] + packed + data[at + len(packed) :]


def _knowing(rng: Random, data: bytes, other: bytes, form: Format) -> bytes:
    heads = form.heads(data)
    if not heads:
        return _blind(rng, data, other)
    head = rng.choice(heads)
    before, after = data[: head.start], data[head.end :]
    match rng.randrange(9):
        case 0:  # another type, the same length
            return before + form.head(rng.randrange(7), head.value, 0) + after
        case 1:  # something strange in its place
            return before + rng.choice(form.strange) + after
        case 2:  # something strange before it
            return before + rng.choice(form.strange) + data[head.start :]
        case 3:  # a length, or a number, at an edge
            return before + form.head(head.major, rng.choice(EDGES), 0) + after
        case 4:  # off by one
            return before + form.head(head.major, max(0, head.value + rng.choice((-1, 1))), 0) + after
        case 5:  # the same in more bytes
            return before + form.head(head.major, head.value, rng.randint(1, 3)) + after
        case 6:  # inside ever more lists or maps
            inside = rng.choice((form.head(LIST, 1, 0), form.head(MAP, 1, 0) + form.head(TEXT, 1, 0) + b"x"))
            return before + inside * rng.choice(DEPTHS) + data[head.start :]
        case 7:  # items twice: a key, a value, a pair
            end = rng.choice([later.start for later in heads if later.start >= head.start] or [len(data)])
            return data[:end] + data[head.start : end] + data[end:]
        case _:  # an item of the other message in its place
            others = form.heads(other)
            taken = rng.choice(others) if others else None
            return before + (other[taken.start :] if taken else b"") + (after if rng.random() < 0.5 else b"")
