// The questions of the bindings to CUDA itself: no torch types, no CUDA types. Functions return CUDA's error code.
#pragma once

#include <stdint.h>

namespace tglo {

int zero_counters(uint32_t* counters, int64_t count, void* stream);
int is_capturing(void* stream, bool* capturing);
const char* error_text(int error);

}  // namespace tglo
