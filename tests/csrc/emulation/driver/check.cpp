#include "check.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <atomic>
#include <utility>

namespace driver {
namespace {

#if defined(__SANITIZE_ADDRESS__)
constexpr size_t guard = 0;
#else
constexpr size_t guard = 256;
#endif
constexpr int most_messages = 30;

std::atomic<long> comparisons{0}, failures{0};
long cases = 0;
std::string current = "start";

}  // namespace

void require(bool condition, const char* format, ...) {
  ++comparisons;
  if (condition || ++failures > most_messages) return;
  char text[400];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof(text), format, arguments);
  va_end(arguments);
  printf("FAILED %s: %s\n", current.c_str(), text);
  fflush(stdout);
  if (getenv("TGLO_EMULATION_STOP")) _exit(1);
}

void require_close(double value, double expected, double tolerance, const char* what, int64_t index) {
  const bool close = isnan(expected) ? isnan(value) : fabs(value - expected) <= tolerance;
  require(close, "%s[%lld] is %.17g, expected %.17g within %.3g", what, static_cast<long long>(index), value, expected,
          tolerance);
}

void begin_case(const std::string& name) {
  current = name;
  ++cases;
}

int finish() {
  printf("%ld cases, %ld comparisons, %ld failures\n", cases, comparisons.load(), failures.load());
  return failures ? 1 : 0;
}

Buffer::Buffer(size_t bytes, size_t offset) : size_(bytes) {
  void* memory = nullptr;
  if (posix_memalign(&memory, 256, offset + bytes + 2 * guard + 1)) abort();
#if defined(__SANITIZE_ADDRESS__)
  free(memory);  // exactly as long as the buffer, so that one byte more is seen
  if (posix_memalign(&memory, 256, offset + bytes ? offset + bytes : 1)) abort();
#endif
  memory_ = static_cast<char*>(memory);
  data_ = memory_ + guard + offset;
  poison();
}

Buffer::~Buffer() { free(memory_); }

Buffer::Buffer(Buffer&& other) noexcept : memory_(other.memory_), data_(other.data_), size_(other.size_) {
  other.memory_ = nullptr;
}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  std::swap(memory_, other.memory_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

void Buffer::poison() { memset(memory_, 0xff, static_cast<size_t>(data_ - memory_) + size_ + guard); }

bool Buffer::intact() const {
  for (const char* byte = memory_; byte < data_; ++byte)
    if (*byte != static_cast<char>(0xff)) return false;
  for (size_t k = 0; k < guard; ++k)
    if (data_[size_ + k] != static_cast<char>(0xff)) return false;
  return true;
}

uint32_t Random::next() {
  state_ = state_ * 6364136223846793005ull + 1442695040888963407ull;
  const uint32_t word = static_cast<uint32_t>(((state_ >> 18) ^ state_) >> 27);
  const uint32_t turn = static_cast<uint32_t>(state_ >> 59);
  return (word >> turn) | (word << ((32 - turn) & 31));
}

size_t size_of(tglo::Element type) { return type == tglo::Element::float32 ? 4 : 2; }

const char* name_of(tglo::Element type) {
  return type == tglo::Element::float32 ? "fp32" : type == tglo::Element::float16 ? "fp16" : "bf16";
}

double read(tglo::Element type, const void* data, int64_t i) {
  if (type == tglo::Element::float32) return static_cast<const float*>(data)[i];
  const uint16_t bits = static_cast<const uint16_t*>(data)[i];
  const int exponents = type == tglo::Element::float16 ? 5 : 8, fraction_bits = 15 - exponents;
  const int exponent = (bits >> fraction_bits) & ((1 << exponents) - 1), bias = (1 << (exponents - 1)) - 1;
  const double fraction = ldexp(bits & ((1 << fraction_bits) - 1), -fraction_bits), sign = bits >> 15 ? -1.0 : 1.0;
  if (exponent == (1 << exponents) - 1) return fraction != 0.0 ? NAN : sign * INFINITY;
  return sign * (exponent ? ldexp(1.0 + fraction, exponent - bias) : ldexp(fraction, 1 - bias));
}

// Of a value that has to be near a number of the type, not exactly rounded.
void write(tglo::Element type, void* data, int64_t i, double value) {
  if (type == tglo::Element::float32) {
    static_cast<float*>(data)[i] = static_cast<float>(value);
    return;
  }
  const int exponents = type == tglo::Element::float16 ? 5 : 8, fraction_bits = 15 - exponents;
  const int bias = (1 << (exponents - 1)) - 1;
  unsigned bits = signbit(value) ? 1u << 15 : 0u;
  if (isnan(value)) {
    bits |= 0x7fffu;
  } else if (value != 0.0) {
    int exponent = 0;
    const double fraction = frexp(fabs(value), &exponent);  // in [1/2, 1)
    if (exponent + bias - 1 > 0)
      bits |= (static_cast<unsigned>(exponent + bias - 1) << fraction_bits) +
              static_cast<unsigned>(ldexp(2.0 * fraction - 1.0, fraction_bits));
  }
  static_cast<uint16_t*>(data)[i] = static_cast<uint16_t>(bits);
}

double rounding(tglo::Element type, double value) {
  const int fraction_bits = type == tglo::Element::float32 ? 24 : type == tglo::Element::float16 ? 11 : 8;
  const double smallest = type == tglo::Element::float16 ? 0x1p-25 : 0x1p-134;
  return fmax(ldexp(fabs(value), -fraction_bits), smallest);
}

}  // namespace driver
