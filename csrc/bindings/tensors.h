// Shared by the bindings: checks and views of tensors on torch's stable ABI. Included by bindings/*.cpp only.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <vector>

#include "loss/rows.h"

namespace tglo {

using torch::headeronly::DeviceType;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline Element element_of(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::BFloat16: return Element::bfloat16;
    case ScalarType::Half: return Element::float16;
    case ScalarType::Float: return Element::float32;
    default: break;
  }
  STD_TORCH_CHECK(false, "tglo: predictions must be bfloat16, float16 or float32");
}

inline int64_t size_of(Element type) { return type == Element::float32 ? 4 : 2; }

inline bool same_device(const Tensor& first, const Tensor& second) {
  return first.is_cpu() == second.is_cpu() && first.get_device_index() == second.get_device_index();
}

// True when every row is one stretch of memory without gaps or overlap, and rows follow each other.
inline bool rows_are_dense(const Tensor& tensor) {
  const int64_t dims = tensor.dim();
  int64_t expected = 1;
  std::vector<bool> used(static_cast<size_t>(dims), false);
  for (int64_t found = 0; found < dims; ++found) {
    int64_t next = -1;
    for (int64_t d = found + 1 < dims ? 1 : 0; d < dims; ++d)  // the first dimension comes last
      if (!used[d] && (tensor.size(d) == 1 || tensor.stride(d) == expected)) next = d;
    if (next < 0) return false;
    used[next] = true;
    expected *= tensor.size(next);
  }
  return true;
}

// The rows of tensors that share one dense layout.
struct Rows {
  Element type;
  int64_t rows, elements;

  explicit Rows(const Tensor& policy) : type(element_of(policy)), rows(policy.size(0)) {
    elements = rows ? policy.numel() / rows : 0;
    STD_TORCH_CHECK(
        rows == 0 || policy.is_contiguous() || rows_are_dense(policy),
        "tglo: the rows of a prediction must be dense in memory");
  }

  void check(const Tensor& policy, const Tensor& other) const {
    STD_TORCH_CHECK(
        other.dim() == policy.dim() && other.scalar_type() == policy.scalar_type() &&
            same_device(other, policy),
        "tglo: predictions must agree in dimensions, dtype and device");
    for (int64_t d = 0; d < policy.dim(); ++d)
      STD_TORCH_CHECK(other.size(d) == policy.size(d), "tglo: predictions must have one shape");
    for (int64_t d = 0; d < policy.dim(); ++d) {
      STD_TORCH_CHECK(
          rows == 0 || policy.size(d) == 1 || other.stride(d) == policy.stride(d),
          "tglo: predictions must share one memory layout");
    }
  }
};

inline const char* bytes(const Tensor& tensor) {
  return static_cast<const char*>(tensor.const_data_ptr());
}

// An uninitialised vector, or one number, on the device of `like`; straight from the allocator, since the way through
// the dispatcher takes longer than the arithmetic of a small batch.
inline Tensor new_strided(
    const Tensor& like, int64_t dims, const int64_t* sizes, const int64_t* strides, int32_t type) {
  int32_t device = 0;
  AtenTensorHandle made = nullptr;
  STD_TORCH_CHECK(
      aoti_torch_get_device_type(like.get(), &device) == AOTI_TORCH_SUCCESS &&
          aoti_torch_empty_strided(dims, sizes, strides, type, device, like.get_device_index(), &made) ==
              AOTI_TORCH_SUCCESS,
      "tglo: could not allocate a tensor of the results");
  return Tensor(made);
}

inline Tensor new_tensor(const Tensor& like, int64_t dims, int64_t length, ScalarType type) {
  const int32_t code = type == ScalarType::Float    ? aoti_torch_dtype_float32()
                       : type == ScalarType::Double ? aoti_torch_dtype_float64()
                                                    : aoti_torch_dtype_int32();
  const int64_t stride = 1;
  return new_strided(like, dims, &length, &stride, code);
}

// Like a prediction, whose rows are dense, in shape, strides and dtype.
inline Tensor new_prediction(const Tensor& like) {
  int64_t *sizes = nullptr, *strides = nullptr;
  int32_t type = 0;
  STD_TORCH_CHECK(
      aoti_torch_get_sizes(like.get(), &sizes) == AOTI_TORCH_SUCCESS &&
          aoti_torch_get_strides(like.get(), &strides) == AOTI_TORCH_SUCCESS &&
          aoti_torch_get_dtype(like.get(), &type) == AOTI_TORCH_SUCCESS,
      "tglo: could not read the shape of a prediction");
  return new_strided(like, like.dim(), sizes, strides, type);
}

inline Tensor new_vector(const Tensor& like, int64_t length, ScalarType type) {
  return new_tensor(like, 1, length, type);
}

inline double* doubles(const Tensor& tensor) {
  return static_cast<double*>(tensor.mutable_data_ptr());
}

// A float32 or float64 vector of known length, or one number for all where that may be.
inline Numbers numbers_of(
    const std::optional<Tensor>& given, const Tensor& like, int64_t length, bool may_be_scalar,
    const char* name) {
  if (!given) return {nullptr, 0, true};
  const bool scalar = may_be_scalar && given->dim() == 0;
  const bool wide = given->scalar_type() == ScalarType::Double;
  STD_TORCH_CHECK(
      (wide || given->scalar_type() == ScalarType::Float) && same_device(*given, like) &&
          (scalar || (given->dim() == 1 && given->size(0) == length)),
      "tglo: ", name, " must be float32 or float64 on the predictions' device with ", length,
      " elements");
  return {given->const_data_ptr(), scalar ? 0 : given->stride(0), wide};
}

inline Mask mask_of(const std::optional<Tensor>& given, const Rows& rows, const Tensor& like, int64_t inner) {
  if (!given || rows.rows == 0) return {nullptr, 0, 1, 1};
  STD_TORCH_CHECK(
      given->scalar_type() == ScalarType::Float && same_device(*given, like) && given->dim() == 2 &&
          given->is_contiguous() && (given->size(0) == 1 || given->size(0) == rows.rows) && inner >= 1 &&
          given->size(1) >= 1 && rows.elements % (given->size(1) * inner) == 0,
      "tglo: mask must be contiguous float32 of shape (rows or 1, period), its period dividing a row");
  const int64_t period = given->size(1);
  return {static_cast<const float*>(given->const_data_ptr()), given->size(0) == 1 ? 0 : period, inner, period};
}

}  // namespace tglo
