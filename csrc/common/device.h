// The questions of the bindings to CUDA itself: no torch types, no CUDA types. Functions return CUDA's error code.
#pragma once

#include <stdint.h>

namespace tglo {

// Of one stream: what any launch needs at the most.
constexpr int64_t stream_counters = 1024;

// Zeros of the stream's own in `device`'s memory, `stream_counters` of them, which every launch leaves as zeros: launches
// of a stream take turns, so one set does for all of them. The memory is CUDA's and not torch's, because it outlives the
// call: in the pool of a CUDA graph torch would take that for a leak, and a replay would write over it. It is 256 KiB a
// device for the first 64 streams, asked for once and kept until the process ends. Null, without an error, where
// the caller has to bring zeros of its own: for later streams, where memory has run out, and while a graph is captured.
// A graph may be replayed on any stream, beside others captured on the same one; its zeros have to be its own.
int counters_of(int32_t device, void* stream, uint32_t** counters);

int zero_counters(uint32_t* counters, int64_t count, void* stream);
const char* error_text(int error);

}  // namespace tglo
