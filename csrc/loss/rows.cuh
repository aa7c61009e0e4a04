// Shared by the CUDA kernels of the loss: sums over a range of a row, block-wide sums of them, the gradient.
#pragma once

#include "common/arrival.h"
#include "common/device.cuh"
#include "loss/cuda.h"
#include "loss/mask.cuh"

namespace tglo {

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
    float d = p.at[k] - y.at[k], difference = 0.0f, weight = 1.0f;
    if (with_reference) difference = (p.at[k] - q.at[k]) * (d + (q.at[k] - y.at[k]));
    if (masked) {  // what lies under a 0 counts for nothing, be it NaN
      weight = m.at[k];
      d = weight != 0.0f ? d : 0.0f;
      difference = weight != 0.0f ? difference : 0.0f;
      sums.weight += weight;
    }
    from_target.at[k] = masked ? weight * d : d;
    sums.policy_error += from_target.at[k] * d;
    if (with_reference) sums.error_difference += masked ? weight * difference : difference;
  }
  hold(from_target);
}

// Vectors that a thread takes at once: their loads are in flight together.
template <class T, bool aligned, bool masked>
constexpr int vectors_at_once = !aligned ? 1 : masked || sizeof(T) == 4 ? 2 : 4;

// Adds the sums over the vectors at i, i + step, ... of a part, `count` of them; float32 over one vector and float64
// from there on, so that the result does not depend on how many are taken at once.
template <int count, bool aligned, bool with_reference, bool masked, class T, class Hold>
__device__ inline void add_vectors(
    PartialSums& wide, const RowPart<T>& part, const MaskWalk& walk, int64_t i, int64_t step, const Hold& hold) {
  Loaded<aligned, T> p[count], y[count], q[count];
  Vector8 m[count];
#pragma unroll
  for (int k = 0; k < count; ++k) {
    p[k] = load_later<aligned, false>(part.p, i + k * step, part.end);
    y[k] = load_later<aligned, false>(part.y, i + k * step, part.end);
    if (with_reference) q[k] = load_later<aligned, true>(part.q, i + k * step, part.end);
  }
  if (masked) {
    MaskWalk ahead = walk;
#pragma unroll
    for (int k = 0; k < count; ++k) {
      m[k] = ahead.weights<aligned>(i + k * step, part.end);
      ahead.go_on();
    }
  }
#pragma unroll
  for (int k = 0; k < count; ++k) {
    ThreadSums sums;
    add_terms<with_reference, masked>(
        sums, p[k].numbers(), y[k].numbers(), with_reference ? q[k].numbers() : Vector8{}, m[k],
        [&](const Vector8& d) { hold((i + k * step - part.first) / vector_length, d); });
    wide.policy_error += sums.policy_error;
    if (with_reference) wide.error_difference += sums.error_difference;
    if (masked) wide.weight += sums.weight;
  }
}

// This thread's sums over the part. `hold(v, d)` gets m (p - y) of the part's vector v.
template <bool aligned, bool with_reference, bool masked, class T, class Hold>
__device__ inline PartialSums thread_sums(const CudaLoss& loss, const RowPart<T>& part, const Hold& hold) {
  constexpr int most = vectors_at_once<T, aligned, masked>;
  const int64_t step = static_cast<int64_t>(blockDim.x) * vector_length;
  PartialSums wide = {0.0, 0.0, 0.0};
  int64_t i = part.first + static_cast<int64_t>(threadIdx.x) * vector_length;
  MaskWalk walk;
  if (masked) walk = MaskWalk(loss.mask, part.row, i, step);
  const auto add = [&]<int count>() {
    add_vectors<count, aligned, with_reference, masked>(wide, part, walk, i, step, hold);
    if (masked)
      for (int k = 0; k < count; ++k) walk.go_on();
    i += count * step;
  };
  while (i + (most - 1) * step < part.end) add.template operator()<most>();
  if constexpr (most > 2)
    if (i + step < part.end) add.template operator()<2>();
  if constexpr (most > 1)
    if (i < part.end) add.template operator()<1>();
  return wide;
}

// The block's sums in thread 0, added warp by warp; without a mask the weight is left to finish_row, which knows the
// count. `scratch` holds the sums of each warp: all quantities meet at one pair of barriers.
template <int threads, bool with_reference, bool masked>
__device__ inline PartialSums block_sums(const PartialSums& mine, PartialSums* scratch) {
  PartialSums warp = {warp_sum(mine.policy_error), 0.0, 0.0};
  if (with_reference) warp.error_difference = warp_sum(mine.error_difference);
  if (masked) warp.weight = warp_sum(mine.weight);
  __syncthreads();  // the scratch may still be read from the last call
  if (threadIdx.x % threads_per_warp == 0) scratch[threadIdx.x / threads_per_warp] = warp;
  __syncthreads();
  PartialSums total = {0.0, 0.0, 0.0};
  if (threadIdx.x == 0)
    for (int k = 0; k < threads / threads_per_warp; ++k) {
      total.policy_error += scratch[k].policy_error;
      if (with_reference) total.error_difference += scratch[k].error_difference;
      if (masked) total.weight += scratch[k].weight;
    }
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

// out = scale m (p - y) over a part of a row. `scale_of()` is asked for once p and y are on their way.
template <bool aligned, bool masked, class T, class ScaleOf>
__device__ inline void write_gradient(const CudaLoss& loss, const RowPart<T>& part, const ScaleOf& scale_of) {
  constexpr int most = vectors_at_once<T, aligned, masked>;
  T* out = static_cast<T*>(loss.gradient) + part.row * loss.call.elements;
  const int64_t step = static_cast<int64_t>(blockDim.x) * vector_length;
  int64_t i = part.first + static_cast<int64_t>(threadIdx.x) * vector_length;
  MaskWalk walk;
  if (masked) walk = MaskWalk(loss.mask, part.row, i, step);
  const int64_t last = part.end - vector_length;
  for (; i < part.end; i += most * step) {
    Loaded<aligned, T> p[most], y[most];
    Vector8 m[most];
#pragma unroll
    for (int k = 0; k < most; ++k) {  // behind the end the last vector once more: a branch would wait for its loads
      const int64_t at = k == 0 || i + k * step < last ? i + k * step : last;
      p[k] = load_later<aligned, false>(part.p, at, part.end);
      y[k] = load_later<aligned, false>(part.y, at, part.end);
    }
    if (masked) {
#pragma unroll
      for (int k = 0; k < most; ++k) {
        m[k] = walk.weights<aligned>(i + k * step, part.end);
        walk.go_on();
      }
    }
    const float scale = scale_of();
#pragma unroll
    for (int k = 0; k < most; ++k) {
      const Vector8 from = p[k].numbers(), to = y[k].numbers();
      Vector8 g;
#pragma unroll
      for (int n = 0; n < vector_length; ++n) {
        g.at[n] = scale * (from.at[n] - to.at[n]);
        if (masked) g.at[n] = m[k].at[n] != 0.0f ? m[k].at[n] * g.at[n] : 0.0f;
      }
      if (k == 0 || i + k * step < part.end) store<aligned>(out, i + k * step, part.end, g);
    }
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
