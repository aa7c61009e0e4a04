"""The Triton kernel of the noising without a GPU: interpreted against the reference, bit by bit, and
compiled for three GPUs.

Both happen in processes of their own: TRITON_INTERPRET is read when triton is imported.
"""

from __future__ import annotations

import importlib.util
import json

import pytest

from tests.kernels.test_loss_triton import run_python, triton_version

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed"
)

INTERPRET = """
import torch
import triton
import triton.language as tl
from tests.foundations.test_philox import KNOWN
from tglo import philox
from tglo.kernels import noise as kernels
from tglo.reference import noised

@triton.jit
def words_of(counter, words, key):
    c = [tl.load(counter + i + 4 * tl.arange(0, 1)).to(tl.uint32) for i in range(4)]
    k = [tl.load(key + i).to(tl.uint32) for i in range(2)]
    found = kernels._philox(c[0], c[1], c[2], c[3], k[0], k[1])
    for i in range(4):
        tl.store(words + i + 4 * tl.arange(0, 1), found[i].to(tl.int64))

for counter, key, expected in KNOWN:
    words = torch.zeros(4, dtype=torch.int64)
    words_of[(1,)](torch.tensor(counter), words, torch.tensor(key))
    assert words.tolist() == expected, (words, expected)

kernels.BLOCKS = 64
ids = torch.tensor([0, 2**32 + 5, 2**63 - 1])
draws = torch.tensor([2**32 - 1, 0, 1])
scale, noise_scale = torch.rand(2, 3)
for seed in (0, 1, 2**32 - 2):
    for count in (1, 3, 4, 255, 256, 257, 1001):
        for dtype in (torch.float32, torch.float16):  # the interpreter cuts bfloat16 off
            latents = torch.randn(3, count).to(dtype)
            noise = philox.normal(seed, ids, draws, (count,), philox.POSTERIOR)
            found = kernels.diffuse(
                latents, scale, noise_scale, ids, draws, seed, philox.POSTERIOR)
            assert torch.equal(found, noised(latents, noise, scale, noise_scale)), (count, dtype)

kernels.BLOCKS = 4096
one, latents = torch.ones(1), torch.zeros(1, 2**18)  # 131,072 radii and as many angles
found = kernels.diffuse(latents, 0 * one, one, ids[1:2], draws[1:2], 7, 0)
assert torch.equal(found, philox.normal(7, ids[1:2], 0, (2**18,)))

for shape in ((0, 5), (3, 0)):
    vectors = [vector[: shape[0]] for vector in (scale, noise_scale, ids, draws)]
    assert kernels.diffuse(torch.empty(shape), *vectors, 0, 0).shape == shape
print("PASSED")
"""

COMPILE = """
import json, os, re, subprocess, tempfile
import triton.backends.nvidia
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from tglo.kernels import noise as kernels

tools = os.path.join(os.path.dirname(triton.backends.nvidia.__file__), "bin")

def usage(element, capability):
    types = dict(latents="*" + element, scale="*fp32", noise_scale="*fp32", sample_ids="*i64",
                 draws="*i64", seed="u32", purpose="u32", out="*" + element, elements="i32",
                 parts="i32", BLOCKS="constexpr")
    assert list(types) == [parameter.name for parameter in kernels._diffuse.params]
    aligned = [i for i, name in enumerate(types) if types[name][0] == "*" or name == "elements"]
    source = ASTSource(kernels._diffuse, types, constexprs=dict(BLOCKS=kernels.BLOCKS),
                       attrs={(i,): [["tt.divisibility", 16]] for i in aligned})
    options = dict(num_warps=kernels.WARPS, enable_fp_fusion=False)
    binary = compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary.asm["cubin"])
        file.flush()
        def tool(name, flag):
            command = [os.path.join(tools, name), flag, file.name]
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout
        resources = tool("cuobjdump", "--dump-resource-usage")
        code = tool("nvdisasm", "-c")
    ptx = binary.asm["ptx"]
    return {
        "element": element, "sm": capability,
        "registers": int(re.search(r"REG:(\\d+)", resources).group(1)),
        "stack": int(re.search(r"STACK:(\\d+)", resources).group(1)),
        "local": len(re.findall(r"\\b(?:LDL|STL)\\b", code)),
        "wide": len(re.findall(r"(?:LDG|STG)\\.E\\S*\\.128", code)),
        "fused_in_ptx": len(re.findall(r"\\bfma\\.", ptx)),
        "flushed_in_ptx": len(re.findall(r"\\.ftz", ptx)),
        "inexact_in_ptx": len(re.findall(r"\\.approx|(?:div|rcp)\\.full", ptx)),
        "fused": len(re.findall(r"\\bFFMA", code)),
        "roots": len(re.findall(r"MUFU\\.RSQ", code)),
    }

for capability in (80, 90, 100):
    for element in ("bf16", "fp16", "fp32"):
        print(json.dumps(usage(element, capability)))
"""


@pytest.mark.skipif(
    triton_version() < (3, 7), reason="this triton's interpreter does not work with numpy 2.4"
)
def test_interpreted_bits() -> None:
    done = run_python(INTERPRET, TRITON_INTERPRET="1")
    assert done.returncode == 0 and "PASSED" in done.stdout, done.stderr


def test_compiles_for_three_architectures_without_spills_and_fused_operations() -> None:
    done = run_python(COMPILE, TRITON_INTERPRET="0")
    assert done.returncode == 0, done.stderr
    usage = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(usage) == 3 * 3
    for kernel in usage:
        assert kernel["stack"] == 0 and kernel["local"] == 0 and kernel["wide"] >= 2, kernel
        for what in ("fused_in_ptx", "flushed_in_ptx", "inexact_in_ptx"):
            assert kernel[what] == 0, kernel
        # The assembler makes an IEEE root of an estimate and two fused steps, three for subnormals.
        assert 0 < kernel["fused"] <= 3 * kernel["roots"], kernel
