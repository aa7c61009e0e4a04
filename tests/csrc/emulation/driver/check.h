// What the cases share: counts of comparisons, and buffers that show what is written outside of them.
#pragma once

#include <stdint.h>

#include <string>
#include <vector>

#include "common/launch.h"

namespace driver {

// Counts a comparison; at a failure says what and where, and goes on.
void require(bool condition, const char* format, ...) __attribute__((format(printf, 2, 3)));
void require_close(double value, double expected, double tolerance, const char* what, int64_t index);
void begin_case(const std::string& name);
int finish();  // prints the counts; the status of the process

// Memory of exactly `bytes` bytes, all 1 (NaN), `offset` bytes behind a multiple of 256. Where no sanitizer watches, the
// bytes around it are guarded.
class Buffer {
 public:
  explicit Buffer(size_t bytes, size_t offset = 0);
  ~Buffer();
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;
  Buffer(const Buffer&) = delete;

  void poison();
  bool intact() const;
  template <class T = void>
  T* data() const { return reinterpret_cast<T*>(data_); }
  size_t size() const { return size_; }
  std::vector<char> bytes() const { return {data_, data_ + size_}; }

 private:
  char *memory_, *data_;
  size_t size_;
};

// The same numbers on every machine.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 0x9E3779B97F4A7C15ull + 1) {}
  uint32_t next();
  int64_t below(int64_t count) { return static_cast<int64_t>(next()) % count; }
  double uniform() { return next() / 4294967296.0; }
  double spread() { return 2.0 * uniform() - 1.0; }

 private:
  uint64_t state_;
};

// Elements as numbers and back, written out plainly.
size_t size_of(tglo::Element type);
const char* name_of(tglo::Element type);
double read(tglo::Element type, const void* data, int64_t i);
void write(tglo::Element type, void* data, int64_t i, double value);
double rounding(tglo::Element type, double value);  // half a unit in the last place of `value`

}  // namespace driver
