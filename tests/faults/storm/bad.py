"""Bad cells, images and files of prompts, each with whether it must be refused."""

from __future__ import annotations

import io
import struct
import zlib

from PIL import Image

from tests.faults.storm.trial import Trial

CELLS: dict[str, list[tuple[str, bool]]] = {
    "score": [
        *(("nan", True), ("inf", True), ("", True), ("good", True), ("🙂", True), ("1\0", True)),
        *(("1e400", True), ("0x10", True), ("1,5", True), ("--1", True), ("9" * 400, True)),
        *(("1e8", False), ("-3", False), (" 0.5 ", False), ("1e-320", False)),
    ],
    "prompt": [
        *(("🙂", False), ("x" * 10_000, False), ("a\nb", False), ('"', False), ("\u202e", False)),
        ("a\0b", False),
    ],
    "image": [
        *(("../secret.png", True), ("/etc/passwd", True), ("", True), ("a\0b.png", True)),
        *(("x" * 5000 + ".png", True), ("none.png", True), ("https://a.b/c.png", True)),
        *((".", True), ("🙂.png", True), ("a.tar#1.png", True), ("0.png", False)),
    ],
}
"""Column -> cells, and whether training must refuse them."""


def _huge(_: bytes, trial: Trial) -> bytes:
    side = trial.random.choice([20_000, 60_000, 2**31 - 1])

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"x") + chunk(b"IEND", b"")
    )


def _as(form: str, data: bytes) -> bytes:
    output = io.BytesIO()
    Image.open(io.BytesIO(data)).save(output, form)
    return output.getvalue()


IMAGES = {
    "truncated": lambda data, trial: (data[: trial.random.randrange(len(data) // 2)], True),
    "empty": lambda data, trial: (b"", True),
    "a huge header": lambda data, trial: (_huge(data, trial), True),
    "text": lambda data, trial: (b"not an image", True),
    "noise": lambda data, trial: (trial.random.randbytes(3000), True),
    "a pickle": lambda data, trial: (b"\x80\x04\x95\x0b\0\0\0\0\0\0\0}\x94.", True),
    "SVG": lambda data, trial: (b'<svg xmlns="http://www.w3.org/2000/svg"/>', True),
    "a GIF": lambda data, trial: (_as("GIF", data), False),
    "a JPEG": lambda data, trial: (_as("JPEG", data), False),
    "a torn JPEG": lambda data, trial: (_as("JPEG", data)[:-200], True),
}
"""Name -> (an image's bytes, trial) -> other bytes, and whether they must be refused."""

PROMPTS: dict[str, tuple[bytes, bool]] = {
    "empty": (b"", True),
    "blank lines": (b"\n \n\t\n", True),
    "no UTF-8": (b"\xff\xfe\xfa\xfb", True),
    "a NUL": (b"a\0b\n", False),
    "noise": (bytes(range(256)) * 4, True),
    "deep JSON": (b"[" * 100_000, False),
    "a JSON object": (b'{"a": 1}', False),
    "a list of numbers": (b"[1, 2]", False),
    "a list of texts": (b'["a red house"]', False),
    "a table": (b"prompt,category\na red house,x\n", False),
    "a table without prompts": (b"name\tsize\nx\t1\n", False),
    "a long line": (b"word " * 20_000, False),
    "a lone surrogate": (b'["\\ud800"]', False),
    "right to left": ("\u202eabc\n🙂\n".encode(), False),
}
"""Name -> a file's bytes, and whether they must be refused whatever the file's ending."""
