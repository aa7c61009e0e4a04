// Shared by the files that define CUDA's functions.
#pragma once

#include <functional>

#include "emulation.h"

namespace emulation {

// Keeps the error for cudaGetLastError. After a kernel's failure every call returns that.
cudaError_t result(cudaError_t error);

// Does it now, or where the stream is being captured adds it to the graph.
cudaError_t queue(cudaStream_t stream, std::function<cudaError_t()> work);

}  // namespace emulation
