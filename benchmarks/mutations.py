"""Mutations of a file: of bytes regardless of their meaning, and of the fields of its format.

Each function takes the intact content and a random generator and returns mutated content; the same state of
the generator gives the same mutation.
"""

from __future__ import annotations

import io
import json
import pickletools
import struct
import zipfile
from collections.abc import Sequence
from copy import deepcopy
from random import Random
from typing import Any

import tifffile

#: Values at which readers go wrong: nothing, the ends of the integers, and what only looks small.
ODD_INTEGERS = (
    *(0, 1, 2, 3, 7, 8, 255, 256, 65535, 65536),
    *(2**20, 2**24, 2**28, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1),
)

#: Tags of a TIFF that decide where its pixels lie and what they mean (TIFF 6.0; 330 is SubIFDs, 347
#: JPEGTables). The others are damaged too, but not as often.
_TAGS = (256, 257, 258, 259, 262, 270, 277, 278, 279, 273, 282, 322, 323, 324, 325, 330, 347)

#: Letters in which YAML, JSON and file names mean something else than themselves.
_ODD_TEXTS = (
    *("", "\n", "a\nb", "\0", "\u2028", "../../etc/passwd", "null", "1e999", "${HOME}", "%s%n"),
    *("x" * 5000, "\U0001f600", "-1", "nan"),
)

#: Text that stands for a value which JSON's writer would not write, and the text that replaces it.
_PLACEHOLDER = "@@{}@@"
_JSON_TEXTS = (
    *(
        "NaN",
        "Infinity",
        "-Infinity",
        "1e999",
        "-0",
        "0x10",
        "'a'",
        "01",
        "9" * 5000,
        "1." + "0" * 5000,
    ),
    *("[" * 5000, "[" * 400 + "]" * 400, '{"a":' * 5000, '"\\ud800"', "{", "", "/**/1", "[1,]"),
)
_YAML_TEXTS = (
    *(
        ".nan",
        ".inf",
        "-.inf",
        "2001-99-99",
        "2001-02-30T25:00:00Z",
        "0b",
        "0x_",
        "1_0",
        "190:20:30",
    ),
    *("9" * 5000, "&a [*a]", "*nowhere", "!!binary x", "!!int x", "!!float x", "!!set {a, b}"),
    *("!!python/object/apply:os.mkdir [{marker}]", "!!timestamp x", "? [1, 2]\n: 3", "[" * 5000),
    *(
        "{" * 2000,
        "[" * 900 + "]" * 900,
        "|\n  a\n  b",
        "'",
        "\t",
        "%YAML 3.0",
        "---\na: 1",
        "@",
        "`",
    ),
    *(
        "!!omap [a]",
        "!!null x",
        "!!bool x",
        "<<: 1",
        "0o9",
        "1e400",
        "-0o",
        "!<tag> 1",
        "{? [a]: b}",
    ),
    *(
        "&a [x,x,x,x], b: &b [*a,*a,*a,*a], c: &c [*b,*b,*b,*b], d: &d [*c,*c,*c,*c], e: [*d,*d,*d]",
    ),
)


def damage_bytes(data: bytes, rng: Random) -> bytes:
    """Damage bytes in one to three ways that need not know what they mean."""
    damaged = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        if not damaged:
            break
        rng.choice(_BYTE_DAMAGES)(damaged, rng)
    return bytes(damaged)


def _span(data: bytearray, rng: Random, longest: int = 4096) -> tuple[int, int]:
    start = rng.randrange(len(data))
    return start, min(len(data), start + rng.choice((1, 4, 64, rng.randrange(1, longest))))


def _flip(data: bytearray, rng: Random) -> None:
    for _ in range(rng.choice((1, 2, 8, 64))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _fill(data: bytearray, rng: Random) -> None:
    start, end = _span(data, rng)
    data[start:end] = rng.choice((b"\0", b"\xff")) * (end - start)


def _cut(data: bytearray, rng: Random) -> None:
    del data[rng.randrange(len(data)) :]


def _remove(data: bytearray, rng: Random) -> None:
    start, end = _span(data, rng)
    del data[start:end]


def _insert(data: bytearray, rng: Random) -> None:
    start, end = _span(data, rng)
    data[start:start] = rng.choice((data[start:end], rng.randbytes(end - start)))


def _swap(data: bytearray, rng: Random) -> None:
    (a, end), (b, _) = _span(data, rng), _span(data, rng)
    length = min(end - a, abs(b - a), len(data) - max(a, b))
    data[a : a + length], data[b : b + length] = data[b : b + length], data[a : a + length]


def _integer(data: bytearray, rng: Random) -> None:
    width = rng.choice((2, 4, 8))
    place = rng.randrange(max(1, len(data) - width))
    put_integer(data, place, width, rng.choice(ODD_INTEGERS), rng.choice(("little", "big")))


_BYTE_DAMAGES = (_flip, _flip, _fill, _cut, _remove, _insert, _swap, _integer, _integer)


def put_integer(data: bytearray, place: int, width: int, value: int, order: Any) -> None:
    """Write an unsigned integer, cut to its width, where the data has room for it."""
    if 0 <= place <= len(data) - width:
        data[place : place + width] = (value % 2 ** (8 * width)).to_bytes(width, order)


class TiffFields:
    """Where in a TIFF the fields of its directories and the segments of its tiles lie.

    Args:
        data: of a whole TIFF.
    """

    def __init__(self, data: bytes) -> None:
        """Find the fields."""
        self.data = data
        self.fields: list[tuple[int, int]] = []  # place and width
        self.often: list[tuple[int, int]] = []
        self.tiles: list[tuple[int, int]] = []  # place and length
        with tifffile.TiffFile(io.BytesIO(data)) as tiff:
            self.order = "little" if tiff.byteorder == "<" else "big"
            pages = [page for one in tiff.pages for page in (one, *(one.pages or ()))]
            self.directories = [page.offset for page in pages]
            # A number of tags, the tags, and where the next directory lies.
            counter, entry, word = (8, 20, 8) if tiff.is_bigtiff else (2, 12, 4)
            for page in pages:
                tags = list(page.tags)
                self.often.append((page.offset + counter + entry * len(tags), word))
                self.fields.append((page.offset, counter))
                for tag in tags:
                    of_tag = [(tag.offset, 2), (tag.offset + 2, 2), (tag.offset + 4, word)]
                    inside = tag.valueoffset == tag.offset + 4 + word
                    if not inside:
                        of_tag.append((tag.offset + 4 + word, word))
                    unit = max(1, tag.valuebytecount // max(1, tag.count))
                    of_tag += [
                        (tag.valueoffset + unit * index, min(unit, 8))
                        for index in range(min(tag.count, 64))
                    ]
                    self.fields += of_tag
                    if tag.code in _TAGS:
                        self.often += of_tag[2:]
                if page.is_tiled:
                    self.tiles += zip(page.dataoffsets, page.databytecounts, strict=True)

    def damage(self, rng: Random) -> bytes:
        """Damage one to four fields, tables or tiles."""
        damaged = bytearray(self.data)
        for _ in range(rng.choice((1, 1, 2, 4))):
            if self.tiles and rng.random() < 0.3:
                self._damage_tile(damaged, rng)
                continue
            place, width = rng.choice(rng.choice((self.often, self.often, self.fields)))
            now = int.from_bytes(damaged[place : place + width], self.order)  # type: ignore[arg-type]
            near = (now + 1, now - 1, now * 2, now // 2, now * 1000, now << 16, rng.getrandbits(32))
            loops = (*self.directories, len(damaged), len(damaged) - 4)
            value = rng.choice(rng.choice((ODD_INTEGERS, near, loops)))
            put_integer(damaged, place, width, value, self.order)
        return bytes(damaged)

    def _damage_tile(self, data: bytearray, rng: Random) -> None:
        """Damage a marker segment of a JPEG or JPEG 2000 stream, or anything in its headers."""
        start, length = rng.choice(self.tiles)
        markers = [
            place
            for place in range(start, min(start + length, start + 1000) - 4)
            if data[place] == 0xFF and data[place + 1] not in (0x00, 0xFF)
        ]
        if not markers or rng.random() < 0.1:
            data[start : start + length] = damage_bytes(bytes(data[start : start + length]), rng)[
                :length
            ].ljust(length, b"\0")
            return
        marker = rng.choice(markers)
        if rng.random() < 0.2:
            data[marker + 1] = rng.choice((0xC0, 0xC2, 0xC4, 0xD8, 0xD9, 0xDA, 0xDB, 0xDD, 0x4F))
            return
        place, width = marker + 2 + rng.randrange(0, 40), rng.choice((1, 1, 2, 4))
        put_integer(data, place, width, rng.choice(ODD_INTEGERS), "big")


def damage_tree(tree: Any, rng: Random, texts: Sequence[str]) -> tuple[Any, dict[str, str]]:
    """Damage one to three values, names or branches of what a JSON or YAML text holds.

    Args:
        tree: of dictionaries, lists and plain values.
        rng: draws the damage.
        texts: of values that are to stand in the file letter by letter.

    Returns:
        The damaged tree, and the text for each placeholder in it.
    """
    tree, replaced = deepcopy(tree), {}
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        places = list(_places(tree))
        if not places:
            break
        parent, key = rng.choice(places)
        kind = rng.random()
        if kind < 0.2:
            token = _PLACEHOLDER.format(len(replaced))
            parent[key] = token
            replaced[token] = rng.choice(texts)
        elif kind < 0.3:
            del parent[key]
        elif kind < 0.4:
            other, its_key = rng.choice(places)
            parent[key] = deepcopy(other[its_key])
        elif kind < 0.5 and isinstance(parent, dict):
            name = rng.choice((*_ODD_TEXTS, *parent))
            parent[name] = parent.pop(key) if rng.random() < 0.5 else deepcopy(parent[key])
        else:
            parent[key] = _odd_value(parent[key], rng)
    return tree, replaced


def _places(tree: Any) -> Any:
    """All places in a tree that hold a value, as container and key."""
    if isinstance(tree, dict | list):
        keys = list(tree) if isinstance(tree, dict) else range(len(tree))
        for key in keys:
            yield tree, key
            yield from _places(tree[key])


def _odd_value(value: Any, rng: Random) -> Any:
    odd: tuple[Any, ...] = (
        *(None, True, False, -1, 0, 1, 0.5, 1e-300, 1e300, -1e9, 2**70, [], {}, [[]], {"": 0}),
        *(rng.choice(ODD_INTEGERS), -rng.choice(ODD_INTEGERS), rng.choice(_ODD_TEXTS)),
    )
    if isinstance(value, bool | None):
        return rng.choice(odd)
    if isinstance(value, int | float) and rng.random() < 0.6:
        return rng.choice((value + 1, value - 1, -value, value * 2, value * 1000, value * 10**9))
    if isinstance(value, str) and value and rng.random() < 0.6:
        place = rng.randrange(len(value))
        return value[:place] + rng.choice(_ODD_TEXTS) + value[place + rng.randrange(2) :]
    if isinstance(value, list) and value and rng.random() < 0.6:
        return rng.choice((value * 2, value[:-1], value[::-1], value * 3000, [value], value[0]))
    return rng.choice(odd)


def damage_json(data: bytes, rng: Random) -> bytes:
    """Damage a JSON text: its bytes, or what it says, names that stand twice included."""
    if rng.random() < 0.25:
        return damage_bytes(data, rng)
    tree, replaced = damage_tree(json.loads(data), rng, _JSON_TEXTS)
    text = json.dumps(tree)
    for token, value in replaced.items():
        text = text.replace(json.dumps(token), value)
    if rng.random() < 0.1:
        first = rng.choice(list(json.loads(data)))
        text = text.replace("{", "{" + f"{json.dumps(first)}: {rng.choice(_JSON_TEXTS)},", 1)
    return text.encode(rng.choice(("utf-8", "utf-8", "utf-8", "utf-16")), "surrogatepass")


def damage_yaml(data: bytes, rng: Random, marker: str) -> bytes:
    """Damage a YAML text, see `damage_json`; `marker` is what a malicious one would make a folder of."""
    import yaml

    if rng.random() < 0.25:
        return damage_bytes(data, rng)
    texts = [text.replace("{marker}", json.dumps(marker)) for text in _YAML_TEXTS]
    tree, replaced = damage_tree(yaml.safe_load(data), rng, texts)
    flow = rng.choice((True, False))
    text = yaml.safe_dump(tree, default_flow_style=flow, sort_keys=False, width=10**6)
    for token, value in replaced.items():
        text = text.replace(f"'{token}'", value)
    if rng.random() < 0.1 and not flow:
        text += "\n" + rng.choice(text.splitlines() or [""])  # a name that stands twice
    return text.encode(rng.choice(("utf-8", "utf-8", "utf-8", "utf-16")), "surrogatepass")


def damage_safetensors(data: bytes, rng: Random) -> bytes:
    """Damage a safetensors file: its bytes, the length of its header or what the header says."""
    kind = rng.random()
    if kind < 0.25:
        return damage_bytes(data, rng)
    (length,) = struct.unpack_from("<Q", data)
    if kind < 0.35:
        near = (length + 1, length - 1, length * 2, len(data), len(data) - 8)
        return struct.pack("<Q", rng.choice((*ODD_INTEGERS, *near))) + data[8:]
    header, values = json.loads(data[8 : 8 + length]), data[8 + length :]
    if kind < 0.6:  # what the file holds is meant for another type or shape
        name = rng.choice([name for name in header if name != "__metadata__"])
        entry = header[name]
        if rng.random() < 0.5:
            entry["dtype"] = rng.choice(
                ("F16", "BF16", "F64", "I32", "U32", "I64", "U8", "BOOL", "F8_E4M3", "C64", "X")
            )
        else:
            entry["shape"] = [*entry["shape"], rng.choice((0, 1, 2, *ODD_INTEGERS))][::-1]
        text = json.dumps(header).encode()
    else:
        text = damage_json(json.dumps(header).encode(), rng)
    stated = len(text) if rng.random() < 0.9 else length
    return struct.pack("<Q", stated) + text + values


def damage_torch(data: bytes, rng: Random, marker: str) -> bytes:
    """Damage a file of `torch.save`: its bytes, the members of its archive or the pickle in it."""
    if rng.random() < 0.25:
        return damage_bytes(data, rng)
    if not zipfile.is_zipfile(io.BytesIO(data)):
        return damage_pickle(data, rng, marker)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {item.filename: archive.read(item) for item in archive.infolist()}
    name = rng.choice(list(members))
    if rng.random() < 0.6:
        name = next(name for name in members if name.endswith(".pkl"))
        members[name] = damage_pickle(members[name], rng, marker)
    elif rng.random() < 0.3:
        del members[name]
    else:
        members[name] = damage_bytes(members[name], rng)
    written = io.BytesIO()
    method = zipfile.ZIP_STORED if rng.random() < 0.8 else zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(written, "w", method) as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    return written.getvalue()


def damage_pickle(data: bytes, rng: Random, marker: str) -> bytes:
    """Damage the instructions of a pickle, or add some that would make a folder."""
    try:
        places = [(op, place) for op, _, place in pickletools.genops(data)]
    except ValueError:  # bytes follow that are no pickle
        places = []
    if not places:
        return damage_bytes(data, rng)
    damaged = bytearray(data)
    kind = rng.random()
    integers = [(op, place) for op, place in places if op.name in ("BININT", "BININT1", "BININT2")]
    if kind < 0.15:
        text = marker.encode()
        code = b"cos\nmkdir\n(X" + struct.pack("<I", len(text)) + text + b"tR0"
        start = rng.choice(places[1:])[1]
        damaged[start:start] = code
    elif kind < 0.5 and integers:
        op, place = rng.choice(integers)
        width = {"BININT": 4, "BININT1": 1, "BININT2": 2}[op.name]
        put_integer(damaged, place + 1, width, rng.choice(ODD_INTEGERS), "little")
    elif kind < 0.6 and integers:  # a size that is too large for what was there
        op, place = rng.choice(integers)
        width = {"BININT": 5, "BININT1": 2, "BININT2": 3}[op.name]
        size = rng.choice(ODD_INTEGERS).to_bytes(9, "little")
        damaged[place : place + width] = b"\x8a\x09" + size  # LONG1
    elif kind < 0.75:
        damaged[rng.choice(places)[1]] = ord(rng.choice(pickletools.opcodes).code)
    elif kind < 0.85:
        start = rng.choice(places)[1]
        damaged[start:start] = rng.choice((b"(", b"]", b"}", b"\x94", b"0", b"2")) * 100_000
    else:
        (_, start), (_, end) = sorted(rng.sample(places, 2), key=lambda item: item[1])
        piece = damaged[start:end]
        if rng.random() < 0.5:
            del damaged[start:end]
        else:
            damaged[end:end] = piece
    return bytes(damaged)
