"""What a kernel's machine code does with memory: the text that cuobjdump prints, read line by line."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

WIDE = 16
"""Bytes of the widest access that every GPU here has; sm_100 also has accesses of 32."""

_LINE = re.compile(r"\s*/\*([0-9a-f]{4,})\*/\s+(@\S+\s+)?([A-Z][\w.]*)\s*(.*?)\s*;")
_ATOMIC = re.compile(r"(?:ATOM|ATOMG|ATOMS|RED|REDG)\.(?:\S*\.)?(?:F16|F32|F64|BF16)")
_ADDRESS = re.compile(r"\[(U?R\d+)?[^\]+-]*(?:\+?(-?0x[0-9a-f]+))?\]")


class Instruction(NamedTuple):
    address: int
    opcode: str  # "LDG.E.128.CONSTANT"
    operands: tuple[str, ...]

    @property
    def kind(self) -> str:
        return self.opcode.split(".")[0]

    @property
    def bytes(self) -> int:
        """Width of an access by one thread."""
        for part in reversed(self.opcode.split(".")):
            if found := re.fullmatch(r"(?:ENL2)?([USF]?)(8|16|64|128|256)(?:x2)?", part):
                return int(found[2]) // 8
        return 4

    @property
    def registers(self) -> set[int]:
        """The registers that are written by a load."""
        first = re.fullmatch(r"R(\d+)", self.operands[0]) if self.operands else None
        return (
            set(range(int(first[1]), int(first[1]) + max(1, self.bytes // 4))) if first else set()
        )

    def reads(self) -> set[int]:
        """The registers that this instruction names other than as its first operand."""
        every = self.kind.startswith(("ST", "RED", "BRA"))
        text = " ".join(self.operands if every else self.operands[1:])
        return {int(number) for number in re.findall(r"\bR(\d+)", text)}


class Loop(NamedTuple):
    """An innermost loop that moves 16 bytes at a time."""

    loads: int  # global loads of 16 bytes and more in it
    stores: int
    instructions: int
    in_flight: int  # see `in_flight`


def functions(text: str) -> dict[str, list[Instruction]]:
    """Return the instructions of every function in the output of `cuobjdump --dump-sass`."""
    found: dict[str, list[Instruction]] = {}
    for line in text.splitlines():
        if "Function :" in line:
            current = found[line.split("Function :")[1].strip()] = []
        elif ";" in line and (match := _LINE.match(line)):  # others hold bits alone
            operands = tuple(part.strip() for part in match[4].split(",")) if match[4] else ()
            current.append(Instruction(int(match[1], 16), match[3], operands))
    return found


def widths(code: Sequence[Instruction], kind: str) -> dict[int, int]:
    """Count the accesses of a kind ("LDG", "STG") by their bytes."""
    found = dict.fromkeys((32, 16, 8, 4, 2, 1), 0)
    for instruction in code:
        if instruction.kind == kind:
            found[instruction.bytes] += 1
    return {bytes_: count for bytes_, count in found.items() if count}


def float_atomics(code: Sequence[Instruction]) -> int:
    return sum(bool(_ATOMIC.match(instruction.opcode)) for instruction in code)


def local_accesses(code: Sequence[Instruction]) -> int:
    return sum(instruction.kind in ("LDL", "STL") for instruction in code)


def split_vectors(code: Sequence[Instruction], kind: str, sizes: Sequence[int]) -> int:
    """Count vectors that a thread moves in pieces: neighbouring accesses of one of the sizes in bytes
    that together cover 16, at one address register, with no branch between them.
    """
    found = 0
    for block in _blocks(code):
        places: dict[tuple[str, int], set[int]] = {}
        for instruction in block:
            if instruction.kind != kind or instruction.bytes not in sizes:
                continue
            address = next((o for o in instruction.operands if "[R" in o), "")
            match = _ADDRESS.search(address[address.find("[R") :])
            if match and match[1]:
                offset = int(match[2] or "0", 16)
                places.setdefault((match[1], instruction.bytes), set()).add(offset)
        for (_, size), offsets in places.items():
            starts = [o for o in sorted(offsets) if o % WIDE == min(offsets) % WIDE]
            found += sum(all(o + k in offsets for k in range(0, WIDE, size)) for o in starts)
    return found


def loops(code: Sequence[Instruction]) -> list[Loop]:
    """Return the innermost loops with 16-byte accesses, in the order of their addresses.

    A loop is what lies between the target of a backward branch and the branch; code that the compiler
    put elsewhere is not counted.
    """
    ends: dict[int, int] = {}
    for instruction in code:
        target = _target(instruction)
        if target is not None and target < instruction.address:
            ends[target] = max(ends.get(target, 0), instruction.address)
    bodies = {
        (start, end): [i for i in code if start <= i.address <= end] for start, end in ends.items()
    }
    wide = {span: body for span, body in bodies.items() if _wide(body, "LDG") + _wide(body, "STG")}
    return [
        Loop(_wide(body, "LDG"), _wide(body, "STG"), len(body), in_flight(body))
        for (start, end), body in sorted(wide.items())
        if not any(start <= s and e <= end and (s, e) != (start, end) for s, e in wide)
    ]


def in_flight(body: Sequence[Instruction]) -> int:
    """Return the most 16-byte loads that are under way at once: those issued before the first
    instruction that reads the oldest one's registers. The body is gone through twice, as a loop does,
    and branches within it count as not taken.
    """
    under_way: list[set[int]] = []
    most = 0
    for instruction in [*body, *body]:
        read = instruction.reads()
        last = max((n for n, registers in enumerate(under_way) if registers & read), default=-1)
        del under_way[: last + 1]
        if instruction.kind == "LDG" and instruction.bytes >= WIDE:
            under_way.append(instruction.registers)
            most = max(most, len(under_way))
    return most


def _wide(body: Sequence[Instruction], kind: str) -> int:
    return sum(i.kind == kind and i.bytes >= WIDE for i in body)


def _target(instruction: Instruction) -> int | None:
    if instruction.kind != "BRA":
        return None
    found = (
        re.search(r"\b0x([0-9a-f]+)$", instruction.operands[-1]) if instruction.operands else None
    )
    return int(found[1], 16) if found else None


def _blocks(code: Sequence[Instruction]) -> Iterator[list[Instruction]]:
    """Cut the code at branches and at their targets."""
    targets = {_target(instruction) for instruction in code}
    block: list[Instruction] = []
    for instruction in code:
        if instruction.address in targets and block:
            yield block
            block = []
        block.append(instruction)
        if instruction.kind in ("BRA", "EXIT", "CALL", "RET", "BSYNC", "WARPSYNC"):
            yield block
            block = []
    if block:
        yield block
