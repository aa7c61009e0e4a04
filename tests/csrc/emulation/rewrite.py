"""CUDA sources as C++: launches, shared memory, inline PTX and kernels' facts; all else stays as it is."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

LAUNCH = re.compile(r"([A-Za-z_][\w:]*(?:<[^<>;{}]*>)?)\s*<<<(.*?)>>>\s*\(", re.DOTALL)
KERNEL = re.compile(
    r"(?:template\s*<(?P<parameters>[^<>{}]*)>\s*)?__global__\s+void\s+"
    r"(?:__launch_bounds__\((?P<bounds>[^()]*)\)\s*)?(?P<name>\w+)\s*\("
)
DYNAMIC = re.compile(r"extern\s+__shared__\s+(?P<type>[\w:]+)\s+(?P<name>\w+)\[\];")
STATIC = re.compile(
    r"(?<!extern )__shared__\s+(?P<type>[\w:<>, ]+?)\s+(?P<name>\w+)(?P<size>(?:\[[^\]]*\])*);"
)
ASSEMBLY = re.compile(r"asm(?:\s+volatile)?\s*\(\s*((?:\"[^\"]*\"\s*)+)(.*?)\)\s*;", re.DOTALL)
OPERAND = re.compile(r"\"[^\"]*\"\s*\(([^()]*)\)")
ORDER = r"(?P<order>relaxed|acquire|release|acq_rel)"
# PTX, and what stands for it; {0}, {1}, ... are the operands. Other PTX is refused.
INSTRUCTIONS = [
    (
        rf"atom\.{ORDER}\.gpu\.global\.add\.u32 %0, \[%1\], %2;",
        "{0} = ::emulation::atomic_add({1}, {2}, {order});",
    ),
    (
        rf"red\.{ORDER}\.gpu\.global\.add\.u32 \[%0\], %1;",
        "(void)::emulation::atomic_add({0}, {1}, {order});",
    ),
    (
        rf"ld\.{ORDER}\.gpu\.global\.u32 %0, \[%1\];",
        "{0} = ::emulation::atomic_load({1}, {order});",
    ),
    (
        rf"st\.{ORDER}\.gpu\.global\.u32 \[%0\], %1;",
        "::emulation::atomic_store({0}, {1}, {order});",
    ),
    (
        r"ld\.global[\w.:]*\.v4\.u32 \{%0, %1, %2, %3\}, \[%4\];",
        "{{ const uint4 tglo_words = *::emulation::aligned(reinterpret_cast<const uint4*>({4})); "
        "{0} = tglo_words.x; {1} = tglo_words.y; {2} = tglo_words.z; {3} = tglo_words.w; }}",
    ),
    (
        r"st\.global[\w.:]*\.v4\.u32 \[%0\], \{%1, %2, %3, %4\};",
        "__stcg(reinterpret_cast<uint4*>({0}), uint4{{{1}, {2}, {3}, {4}}});",
    ),
    (r"griddepcontrol\.(?:wait|launch_dependents);", ";"),
]
COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)


def rewrite(text: str, name: str) -> str:
    """The text of one source file, with as many lines; ValueError for what the emulation does not know."""
    text = LAUNCH.sub(r"::emulation::launcher(\1, \2)(", text)
    text = ASSEMBLY.sub(keeping_lines(lambda match: instruction(match, name)), text)
    text = with_facts(text)
    text = DYNAMIC.sub(keeping_lines(dynamic_memory), text)
    text = STATIC.sub(keeping_lines(static_memory), text)
    rest = COMMENT.sub("", text)
    for word in ("<<<", "__shared__", "asm"):
        if found := re.search(rf"(?<!\w){re.escape(word)}(?!\w)", rest):
            line = rest[found.start() : found.start() + 100].splitlines()[0]
            raise ValueError(f"{name}: the emulation does not understand: {line}")
    return text


def keeping_lines(replace: Callable[[re.Match[str]], str]) -> Callable[[re.Match[str]], str]:
    """`replace` with the line ends of what it replaces, so that messages name the lines of the source."""

    def replaced(match: re.Match[str]) -> str:
        new = replace(match)
        return new + "\n" * (match.group().count("\n") - new.count("\n"))

    return replaced


def instruction(match: re.Match[str], name: str) -> str:
    code = " ".join(re.findall(r"\"([^\"]*)\"", match.group(1))).strip()
    operands = OPERAND.findall(match.group(2))
    for pattern, replacement in INSTRUCTIONS:
        if found := re.fullmatch(pattern, code):
            order = found.groupdict().get("order")
            return replacement.format(*operands, order=f"std::memory_order_{order}")
    raise ValueError(f"{name}: the emulation does not know the instruction: {code}")


def dynamic_memory(match: re.Match[str]) -> str:
    kind, name = match["type"], match["name"]
    memory = f"::emulation::dynamic_shared_memory(alignof({kind}))"
    return f"{kind}* const {name} = static_cast<{kind}*>({memory});"


def static_memory(match: re.Match[str]) -> str:
    kind = f"::emulation::Same<{match['type']}{match['size']}>"
    return f"{kind}& {match['name']} = ::emulation::shared<{kind}>(TGLO_SITE);"


def with_facts(text: str) -> str:
    """Kernels that make their address, shared memory and launch bounds known."""
    parts, done = [], 0
    for match in KERNEL.finditer(text):
        opening = text.index("{", closing_of(text, match.end() - 1, "()"))
        if ";" in text[match.end() : opening]:
            continue  # a declaration
        body = text[opening : closing_of(text, opening, "{}")]
        sizes = [f"sizeof({found['type']}{found['size']})" for found in STATIC.finditer(body)]
        names = re.findall(r"(\w+)\s*(?:,|$)", match["parameters"] or "")
        kernel = match["name"] + (f"<{', '.join(names)}>" if names else "")
        facts = f"&{kernel}, ({' + '.join(sizes) or '0'})"
        if match["bounds"]:
            facts += "".join(f", ({bound})" for bound in match["bounds"].split(","))
        parts += [
            text[done : opening + 1],
            f" ::emulation::keep(&::emulation::Facts<{facts}>::known);",
        ]
        done = opening + 1
    return "".join(parts) + text[done:]


def closing_of(text: str, start: int, pair: str) -> int:
    """The place of the bracket that closes the one at `start`."""
    depth = 0
    for place in range(start, len(text)):
        depth += {pair[0]: 1, pair[1]: -1}.get(text[place], 0)
        if depth == 0:
            return place
    raise ValueError(f"no closing {pair[1]} for {text[start : start + 60]!r}")


def rewrite_tree(csrc: Path, folder: Path, change: Callable[[str, str], str] | None = None) -> None:
    """All of csrc/ in `folder`, rewritten; `change(name, text)` may plant something into the sources first."""
    for source in sorted(csrc.rglob("*")):
        if source.suffix not in {".cu", ".cuh", ".h", ".cpp", ".c"}:
            continue
        name = source.relative_to(csrc).as_posix()
        text = source.read_text()
        if change is not None:
            text = change(name, text)
        if source.suffix in {".cu", ".cuh"}:
            text = rewrite(text, name)
        target = folder / name
        if not target.exists() or target.read_text() != text:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
