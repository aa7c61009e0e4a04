// The weights of a row's elements, for a thread that goes through the row in equal steps.
#pragma once

#include "common/device.cuh"
#include "loss/rows.h"

namespace tglo {

// Element i has weight (i / inner) % period. Both indices are carried along, so that only the start divides, and have 32
// bits: most_masked_elements holds. Steps and the start are multiples of a vector.
class MaskWalk {
 public:
  __device__ MaskWalk() {}
  __device__ MaskWalk(const Mask& mask, int64_t row, int64_t i, int64_t step)
      : row_(mask.data + row * mask.row_stride),
        inner_(static_cast<uint32_t>(mask.inner)),
        period_(static_cast<uint32_t>(mask.period)) {
    const uint32_t start = static_cast<uint32_t>(i), by = static_cast<uint32_t>(step);
    place_ = start / inner_ % period_;
    inside_ = start % inner_;
    place_step_ = by / inner_ % period_;
    inside_step_ = by % inner_;
    one_ = inner_ % vector_length == 0;
    wide_ = inner_ == 1 && period_ % vector_length == 0 && is_aligned(row_);
  }

  // Of elements [i, i + 8), where the walk is; 0 beyond `end`. Aligned rows end with a whole vector.
  template <bool aligned>
  __device__ Vector8 weights(int64_t i, int64_t end) const {
    Vector8 value;
    if (aligned && one_) {
      const float weight = __ldg(row_ + place_);
#pragma unroll
      for (int k = 0; k < vector_length; ++k) value.at[k] = weight;
    } else if (aligned && wide_) {
      value = load<true, false>(row_, place_, end);
    } else {
      uint32_t place = place_, inside = inside_;
#pragma unroll
      for (int k = 0; k < vector_length; ++k) {
        value.at[k] = i + k < end ? __ldg(row_ + place) : 0.0f;
        if (++inside == inner_) {
          inside = 0;
          if (++place == period_) place = 0;
        }
      }
    }
    return value;
  }

  __device__ void go_on() {
    place_ += place_step_;
    inside_ += inside_step_;
    if (inside_ >= inner_) {
      inside_ -= inner_;
      ++place_;
    }
    if (place_ >= period_) place_ -= period_;
  }

 private:
  const float* row_;
  uint32_t inner_, period_, place_, inside_, place_step_, inside_step_;
  bool one_, wide_;  // one weight for a whole vector; eight neighbours that can be read 16 bytes at a time
};

}  // namespace tglo
