// Shared by the bindings of the CPU kernels: the choice among their instruction sets, and the work of torch's threads.
#pragma once

#include <torch/csrc/stable/ops.h>

namespace tglo {

// AVX2 with FMA and F16C, unless the environment has TGLO_CPU_INSTRUCTIONS=baseline. Defined in loss.cpp.
bool use_avx2();

// The kernels of that name for the chosen instruction set.
#ifdef TGLO_HAS_AVX2
#define TGLO_CHOSEN(name) (use_avx2() ? avx2::name : baseline::name)
#else
#define TGLO_CHOSEN(name) baseline::name
#endif

// Elements of one part of a row: whole blocks of noise, small enough to share a row between threads, large enough to
// hide the call.
constexpr int64_t part_elements = 16384;

inline int64_t parts_of(int64_t elements) { return (elements + part_elements - 1) / part_elements; }

// Calls body(row, part's index over all rows, first element in the row, elements) for every part, on torch's threads,
// each of which gets at least `per_thread` elements.
template <class Body>
void for_each_part(int64_t rows, int64_t elements, int64_t per_thread, const Body& body) {
  if (rows == 0 || elements == 0) return;
  const int64_t parts = parts_of(elements);
  const int64_t shortest = elements < part_elements ? elements : part_elements;
  const int64_t grain = (per_thread + shortest - 1) / shortest;
  torch::stable::parallel_for(0, rows * parts, grain, [&](int64_t begin, int64_t end) {
    for (int64_t index = begin; index < end; ++index) {
      const int64_t row = index / parts, first = index % parts * part_elements;
      const int64_t rest = elements - first;
      body(row, index, first, rest < part_elements ? rest : part_elements);
    }
  });
}

}  // namespace tglo
