// What tglo/ops/extension.py asks of an extension, of one whose CUDA kernels are emulated.
#include "bindings/tensors.h"

namespace {

int64_t extension_version() { return tglo::interface_version; }
int64_t cpu_instructions() { return 0; }
std::vector<int64_t> cuda_architectures() { return {TGLO_EMULATED_ARCH / 10}; }

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(tglo, CompositeExplicitAutograd, m) {
  m.impl("_extension_version", TORCH_BOX(&extension_version));
  m.impl("_cpu_instructions", TORCH_BOX(&cpu_instructions));
  m.impl("_cuda_architectures", TORCH_BOX(&cuda_architectures));
}
