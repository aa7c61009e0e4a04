// Which of the instruction sets that the CPU kernels are built for is used; defined in binding.cpp.
#pragma once

namespace tglo {

// AVX2 with FMA and F16C, unless the environment has TGLO_CPU_INSTRUCTIONS=baseline.
bool use_avx2();

}  // namespace tglo
