// Log-sum-exp and picked logit of rows of logits, and the gradient of the logits: a block a row.
#include <cfloat>
#include <cmath>

#include "common/device.cuh"
#include "tokens/cuda.h"

namespace tglo {
namespace {

constexpr int threads = 256;
constexpr int64_t step = static_cast<int64_t>(threads) * vector_length;

// Logits of a row with the bias. The gradient may be written over them: they are read by plain loads.
struct RowView {
  const float *logits, *bias;
  int64_t vocabulary;

  __device__ RowView(const TokenRows& chunk, int64_t row)
      : logits(chunk.logits + row * chunk.vocabulary), bias(chunk.bias), vocabulary(chunk.vocabulary) {}

  // Logits [i, i + 8); beyond the vocabulary the lowest number, whose exponential is 0.
  template <bool aligned>
  __device__ Vector8 at(int64_t i) const {
    Vector8 x;
    if constexpr (aligned) {
      const float4 *from = reinterpret_cast<const float4*>(logits + i), low = from[0], high = from[1];
      x = {{low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w}};
    } else {
#pragma unroll
      for (int k = 0; k < vector_length; ++k) x.at[k] = i + k < vocabulary ? logits[i + k] : -FLT_MAX;
    }
    if (bias) {
      const Vector8 b = load<aligned, false>(bias, i, vocabulary);
#pragma unroll
      for (int k = 0; k < vector_length; ++k) x.at[k] += b.at[k];
    }
    return x;
  }

  __device__ float one(int64_t i) const { return bias ? logits[i] + bias[i] : logits[i]; }
};

// The largest value over the block, in every thread.
__device__ float block_largest(float value, float* scratch) {
#pragma unroll
  for (int offset = threads_per_warp / 2; offset > 0; offset /= 2)
    value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, offset));
  if (threadIdx.x % threads_per_warp == 0) scratch[threadIdx.x / threads_per_warp] = value;
  __syncthreads();
#pragma unroll
  for (int warp = 0; warp < threads / threads_per_warp; ++warp) value = fmaxf(value, scratch[warp]);
  return value;
}

// One row's results, in thread 0.
template <bool aligned>
__device__ TokenRow row_results(const RowView& row, int64_t token, double* scratch, float* most) {
  // Sums are kept relative to the largest logit so far. Starting from a finite number keeps -inf logits from NaN.
  float largest = -FLT_MAX, sum = 0.0f;
  for (int64_t i = static_cast<int64_t>(threadIdx.x) * vector_length; i < row.vocabulary; i += step) {
    const Vector8 x = row.at<aligned>(i);
    float next = largest;
#pragma unroll
    for (int k = 0; k < vector_length; ++k) next = fmaxf(next, x.at[k]);
    float part = 0.0f;
#pragma unroll
    for (int k = 0; k < vector_length; ++k) part += expf(x.at[k] - next);
    sum = sum * expf(largest - next) + part;
    largest = next;
  }
  const float overall = block_largest(largest, most);
  const double total = block_sum<threads>(static_cast<double>(sum * expf(largest - overall)), scratch);
  if (threadIdx.x != 0) return {};
  const double rest = log(total);
  const bool known = token >= 0 && token < row.vocabulary;
  const double picked = known ? static_cast<double>(row.one(token)) - static_cast<double>(overall) : nan("");
  return {static_cast<float>(picked - rest), static_cast<float>(static_cast<double>(overall) + rest)};
}

template <bool aligned>
__global__ void __launch_bounds__(threads, 2) token_rows(const __grid_constant__ TokenRows chunk) {
  __shared__ double scratch[threads / threads_per_warp];
  __shared__ float most[threads / threads_per_warp];
  const int64_t index = blockIdx.x, place = chunk.first + index;
  if (place < *chunk.count) {
    const int64_t position = chunk.order[place];
    const TokenRow result =
        row_results<aligned>(RowView(chunk, index), chunk.targets[position], scratch, most);
    if (threadIdx.x == 0) {
      chunk.log_prob[position] = result.log_prob;
      chunk.logsumexp[position] = result.logsumexp;
    }
  }
}

template <class T, bool aligned>
__global__ void __launch_bounds__(threads) token_rows_gradient(
    const __grid_constant__ TokenRows chunk, const float* logsumexp, const float* grad, T* gradient) {
  const int64_t index = blockIdx.x, place = chunk.first + index, vocabulary = chunk.vocabulary;
  const RowView row(chunk, index);
  T* out = gradient + index * vocabulary;
  const bool real = place < *chunk.count;
  const int64_t position = real ? chunk.order[place] : 0, token = real ? chunk.targets[position] : -1;
  const float shift = real ? logsumexp[position] : 0.0f, scale = real ? grad[position] : 0.0f;
  for (int64_t i = static_cast<int64_t>(threadIdx.x) * vector_length; i < vocabulary; i += step) {
    Vector8 g = {};
    if (real) {  // what lies in the other rows may be NaN
      const Vector8 x = row.at<aligned>(i);
#pragma unroll
      for (int k = 0; k < vector_length; ++k)
        g.at[k] = (i + k == token ? scale : 0.0f) - scale * expf(x.at[k] - shift);
    }
    store<aligned>(out, i, vocabulary, g);
  }
}

// True if rows can be read, and a gradient written, 16 bytes at a time.
bool rows_are_aligned(const TokenRows& chunk, const void* gradient) {
  return chunk.vocabulary % vector_length == 0 && is_aligned(chunk.logits) && is_aligned(chunk.bias) &&
         is_aligned(gradient);
}

// Launches a block for each of the chunk's rows, on its device.
template <class... Parameters, class... Arguments>
int launch_rows(void (*kernel)(Parameters...), const CudaTokens& tokens, const Arguments&... arguments) {
  if (tokens.chunk.rows == 0) return cudaSuccess;
  const DeviceGuard guard(tokens.device);
  if (guard.error != cudaSuccess) return guard.error;
  if (tokens.chunk.rows > INT32_MAX) return cudaErrorInvalidConfiguration;
  const dim3 grid(static_cast<unsigned>(tokens.chunk.rows));
  return launch(kernel, grid, threads, tokens.stream, tokens.chunk, arguments...);
}

}  // namespace

int launch_token_rows(const CudaTokens& tokens) {
  return launch_rows(rows_are_aligned(tokens.chunk, nullptr) ? token_rows<true> : token_rows<false>, tokens);
}

int launch_token_rows_gradient(
    const CudaTokens& tokens, const float* logsumexp, const float* grad, void* gradient, Element type) {
  return with_type(type, [&]<class T>() {
    const bool aligned = rows_are_aligned(tokens.chunk, gradient);
    return launch_rows(
        aligned ? token_rows_gradient<T, true> : token_rows_gradient<T, false>, tokens, logsumexp, grad,
        static_cast<T*>(gradient));
  });
}

}  // namespace tglo
