// Shared by the CUDA kernels of the loss: sums over a range of a row, block-wide sums of them, the gradient.
#pragma once

#include "common/arrival.h"
#include "common/device.cuh"
#include "loss/cuda.h"

namespace tglo {

// Weights of elements [i, i + 8) of a row; 0 beyond `end`.
__device__ inline Vector8 load_mask(const Mask& mask, int64_t row, int64_t i, int64_t end) {
  const float* weights = mask.data + row * mask.row_stride;
  int64_t place = i / mask.inner % mask.period, inside = i % mask.inner;
  Vector8 value;
#pragma unroll
  for (int k = 0; k < vector_length; ++k) {
    value.at[k] = i + k < end ? __ldg(weights + place) : 0.0f;
    if (++inside == mask.inner) {
      inside = 0;
      if (++place == mask.period) place = 0;
    }
  }
  return value;
}

// True if rows can be read and written 16 bytes at a time.
inline bool rows_are_aligned(const CudaLoss& loss) {
  return loss.call.elements % vector_length == 0 && is_aligned(loss.policy) && is_aligned(loss.target) &&
         is_aligned(loss.reference) && is_aligned(loss.gradient);
}

// One row of the predictions, and the part of it that this block works on.
template <class T>
struct RowPart {
  const T *p, *y, *q;
  int64_t row, first, end;

  __device__ RowPart(const CudaLoss& loss, int64_t row_index, int64_t from, int64_t to) : row(row_index) {
    const int64_t start = row * loss.call.elements;
    p = static_cast<const T*>(loss.policy) + start;
    y = static_cast<const T*>(loss.target) + start;
    q = static_cast<const T*>(loss.reference) + start;
    first = from;
    end = to < loss.call.elements ? to : loss.call.elements;
  }
};

struct ThreadSums {
  float policy_error = 0.0f, error_difference = 0.0f, weight = 0.0f;
};

// Adds eight elements' terms; `hold(m (p - y))` may keep what the gradient needs.
template <bool with_reference, bool masked, class Hold>
__device__ inline void add_terms(
    ThreadSums& sums, const Vector8& p, const Vector8& y, const Vector8& q, const Vector8& m, const Hold& hold) {
  Vector8 from_target;
#pragma unroll
  for (int k = 0; k < vector_length; ++k) {
    const float d = p.at[k] - y.at[k];
    float error = d * d, difference = 0.0f;
    if (with_reference) difference = (p.at[k] - q.at[k]) * (d + (q.at[k] - y.at[k]));
    from_target.at[k] = d;
    if (masked) {  // what lies under a 0 counts for nothing, be it NaN
      const bool counted = m.at[k] != 0.0f;
      error = counted ? m.at[k] * error : 0.0f;
      difference = counted ? m.at[k] * difference : 0.0f;
      from_target.at[k] = counted ? m.at[k] * d : 0.0f;
      sums.weight += m.at[k];
    }
    sums.policy_error += error;
    if (with_reference) sums.error_difference += difference;
  }
  hold(from_target);
}

// This thread's sums over the part, float32 over one vector and float64 from there on. `hold(v, d)` gets
// m (p - y) of the part's vector v.
template <bool aligned, bool with_reference, bool masked, class T, class Hold>
__device__ inline PartialSums thread_sums(const CudaLoss& loss, const RowPart<T>& part, const Hold& hold) {
  constexpr int unroll = sizeof(T) == 2 ? 4 : 2;
  const int64_t step = static_cast<int64_t>(blockDim.x) * vector_length;
  PartialSums wide = {0.0, 0.0, 0.0};
  const auto widen = [&](const ThreadSums& sums) {
    wide.policy_error += sums.policy_error;
    if (with_reference) wide.error_difference += sums.error_difference;
    if (masked) wide.weight += sums.weight;
  };
  const auto vector_of = [&](int64_t i) { return (i - part.first) / vector_length; };
  int64_t i = part.first + static_cast<int64_t>(threadIdx.x) * vector_length;
  if constexpr (!masked && aligned) {
    for (; i + (unroll - 1) * step < part.end; i += unroll * step) {
      Vector8 p[unroll], y[unroll], q[unroll];
#pragma unroll
      for (int k = 0; k < unroll; ++k) {  // all loads first: they are in flight together
        p[k] = load<true, false>(part.p, i + k * step, part.end);
        y[k] = load<true, false>(part.y, i + k * step, part.end);
        if (with_reference) q[k] = load<true, true>(part.q, i + k * step, part.end);
      }
#pragma unroll
      for (int k = 0; k < unroll; ++k) {
        ThreadSums sums;
        add_terms<with_reference, false>(
            sums, p[k], y[k], q[k], p[k], [&](const Vector8& d) { hold(vector_of(i + k * step), d); });
        widen(sums);
      }
    }
  }
  for (; i < part.end; i += step) {
    const Vector8 p = load<aligned, false>(part.p, i, part.end), y = load<aligned, false>(part.y, i, part.end);
    Vector8 q = p, m = p;
    if (with_reference) q = load<aligned, true>(part.q, i, part.end);
    if (masked) m = load_mask(loss.mask, part.row, i, part.end);
    ThreadSums sums;
    add_terms<with_reference, masked>(sums, p, y, q, m, [&](const Vector8& d) { hold(vector_of(i), d); });
    widen(sums);
  }
  return wide;
}

// The block's sums in thread 0; without a mask the weight is left to finish_row, which knows the count.
template <int threads, bool with_reference, bool masked>
__device__ inline PartialSums block_sums(const PartialSums& mine, double* scratch) {
  PartialSums total = {block_sum<threads>(mine.policy_error, scratch), 0.0, 0.0};
  if (with_reference) total.error_difference = block_sum<threads>(mine.error_difference, scratch);
  if (masked) total.weight = block_sum<threads>(mine.weight, scratch);
  return total;
}

// The sums of `count` blocks in every lane of a warp: policy_error at `from`, the others one and two `stride`s behind it.
template <bool with_reference, bool masked>
__device__ inline PartialSums gather_sums(const double* from, int64_t count, int64_t stride) {
  PartialSums sum = {0.0, 0.0, 0.0};
  for (int64_t k = threadIdx.x % threads_per_warp; k < count; k += threads_per_warp) {
    // Other blocks of this launch wrote them: read past the first-level cache.
    sum.policy_error += __ldcg(from + k);
    if (with_reference) sum.error_difference += __ldcg(from + stride + k);
    if (masked) sum.weight += __ldcg(from + 2 * stride + k);
  }
  sum.policy_error = warp_sum(sum.policy_error);
  if (with_reference) sum.error_difference = warp_sum(sum.error_difference);
  if (masked) sum.weight = warp_sum(sum.weight);
  return sum;
}

// out = scale m (p - y) over a part of a row.
template <bool aligned, bool masked, class T>
__device__ inline void write_gradient(const CudaLoss& loss, const RowPart<T>& part, float scale) {
  T* out = static_cast<T*>(loss.gradient) + part.row * loss.call.elements;
  const int64_t step = static_cast<int64_t>(blockDim.x) * vector_length;
#pragma unroll 2
  for (int64_t i = part.first + static_cast<int64_t>(threadIdx.x) * vector_length; i < part.end; i += step) {
    const Vector8 p = load<aligned, false>(part.p, i, part.end), y = load<aligned, false>(part.y, i, part.end);
    Vector8 m = p, g;
    if (masked) m = load_mask(loss.mask, part.row, i, part.end);
#pragma unroll
    for (int k = 0; k < vector_length; ++k) {
      g.at[k] = scale * (p.at[k] - y.at[k]);
      if (masked) g.at[k] = m.at[k] != 0.0f ? m.at[k] * g.at[k] : 0.0f;
    }
    store<aligned>(out, i, part.end, g);
  }
}

// The batch's loss from one number a sample, by one block, in a fixed order.
template <int threads>
__device__ inline void reduce_losses(const LossCall& call, const double* losses, double* scratch) {
  double total = 0.0;
  for (int64_t sample = threadIdx.x; sample < call.batch; sample += threads) total += __ldcg(losses + sample);
  total = block_sum<threads>(total, scratch);
  if (threadIdx.x == 0) *call.loss = static_cast<float>(total * call.share());
}

// Calls launch.template operator()<T, with_reference, masked>() for the call's element type and inputs.
template <class Launch>
int dispatch(const CudaLoss& loss, const Launch& launch) {
  return with_type(loss.type, [&]<class T>() {
    if (loss.reference)
      return loss.mask.data ? launch.template operator()<T, true, true>() : launch.template operator()<T, true, false>();
    return loss.mask.data ? launch.template operator()<T, false, true>() : launch.template operator()<T, false, false>();
  });
}

}  // namespace tglo
