// Shared by the bindings of the CUDA kernels; defined in loss_cuda.cpp.
#pragma once

#include "bindings/tensors.h"

namespace tglo {

// Raises for an error code of CUDA's, saying what was being done.
void check_cuda(int error, const char* what);

// Zeros that a launch leaves as zeros: the same ones for all launches of a stream, since those take turns. A CUDA graph
// gets its own, zeroed in the graph: it may be replayed on any stream.
Tensor arrival_counters(const Tensor& like, int64_t count, void* stream);

}  // namespace tglo
