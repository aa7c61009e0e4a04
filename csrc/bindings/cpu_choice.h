// The choice among the instruction sets that the CPU kernels are built for; defined in loss.cpp.
#pragma once

namespace tglo {

// AVX2 with FMA and F16C, unless the environment has TGLO_CPU_INSTRUCTIONS=baseline.
bool use_avx2();

}  // namespace tglo
