#include "fibers.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#if defined(TGLO_EMULATION_TSAN)
#include <sanitizer/tsan_interface.h>
#elif defined(TGLO_EMULATION_ASAN)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace emulation {
namespace {

#if defined(TGLO_EMULATION_TSAN) || defined(TGLO_EMULATION_ASAN)
constexpr size_t stack_bytes = 128 << 10;
#else
constexpr size_t stack_bytes = 64 << 10;
#endif
constexpr size_t slab_fibers = 64;
constexpr uint64_t canary = 0x5afe57ac5afe57acull;

}  // namespace
}  // namespace emulation

#if defined(__x86_64__)
// Ten nanoseconds where swapcontext, which asks the system for the signal mask, takes a microsecond.
asm(R"(
.text
.globl tglo_emulation_switch
.hidden tglo_emulation_switch
.type tglo_emulation_switch, @function
tglo_emulation_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size tglo_emulation_switch, .-tglo_emulation_switch
)");
extern "C" __attribute__((visibility("hidden"))) void tglo_emulation_switch(void** save, void* to);

namespace {
void* first_frame(char* stack, size_t size, void (*body)()) {
  void** top = reinterpret_cast<void**>(stack + size);
  *--top = nullptr;  // keeps the stack at a multiple of 16 where the body begins
  *--top = reinterpret_cast<void*>(body);
  for (int saved = 0; saved < 6; ++saved) *--top = nullptr;
  return top;
}
void switch_stacks(void** save, void* to) { tglo_emulation_switch(save, to); }
}  // namespace
#else
#include <ucontext.h>
namespace {
void* first_frame(char* stack, size_t size, void (*body)()) {
  ucontext_t* context = new ucontext_t;
  getcontext(context);
  context->uc_stack.ss_sp = stack;
  context->uc_stack.ss_size = size;
  makecontext(context, body, 0);
  return context;
}
void switch_stacks(void** save, void* to) {
  if (!*save) *save = new ucontext_t;
  swapcontext(static_cast<ucontext_t*>(*save), static_cast<ucontext_t*>(to));
}
}  // namespace
#endif

namespace emulation {

Fiber::Fiber(char* stack, size_t size, void (*body)()) : stack_(stack), size_(size) {
  *reinterpret_cast<uint64_t*>(stack) = canary;
  own_ = first_frame(stack, size, body);
#if defined(TGLO_EMULATION_TSAN)
  watched_ = __tsan_create_fiber(0);
#endif
}

Fiber::~Fiber() {
#if defined(TGLO_EMULATION_TSAN)
  __tsan_destroy_fiber(watched_);
#endif
}

bool Fiber::overflowed() const { return *reinterpret_cast<const uint64_t*>(stack_) != canary; }

void Fiber::resume() {
#if defined(TGLO_EMULATION_TSAN)
  watched_caller_ = __tsan_get_current_fiber();
  __tsan_switch_to_fiber(watched_, __tsan_switch_to_fiber_no_sync);
  switch_stacks(&caller_, own_);
#elif defined(TGLO_EMULATION_ASAN)
  void* fake = nullptr;
  __sanitizer_start_switch_fiber(&fake, stack_, size_);
  switch_stacks(&caller_, own_);
  __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#else
  switch_stacks(&caller_, own_);
#endif
}

#if defined(TGLO_EMULATION_ASAN)
namespace {
thread_local const void* caller_stack = nullptr;
thread_local size_t caller_size = 0;
}  // namespace
#endif

void Fiber::enter() {
#if defined(TGLO_EMULATION_ASAN)
  __sanitizer_finish_switch_fiber(nullptr, &caller_stack, &caller_size);
#endif
}

void Fiber::pause() {
#if defined(TGLO_EMULATION_TSAN)
  __tsan_switch_to_fiber(watched_caller_, __tsan_switch_to_fiber_no_sync);
  switch_stacks(&own_, caller_);
#elif defined(TGLO_EMULATION_ASAN)
  void* fake = nullptr;
  __sanitizer_start_switch_fiber(&fake, caller_stack, caller_size);
  switch_stacks(&own_, caller_);
  __sanitizer_finish_switch_fiber(fake, &caller_stack, &caller_size);
#else
  switch_stacks(&own_, caller_);
#endif
}

Fiber* FiberPool::take() {
#if defined(TGLO_EMULATION_TSAN)
  // One fiber for two blocks of a launch would order what they do. The sanitizer takes about 8,000 of them, of all threads.
  if (free_.empty() && all_.size() >= 1024) free_.swap(used_);
#else
  if (free_.empty()) free_.swap(used_);
#endif
  if (free_.empty()) {
    void* slab = mmap(nullptr, slab_fibers * stack_bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (slab == MAP_FAILED) {
      fprintf(stderr, "emulation: no memory for the stacks of %zu CUDA threads\n", all_.size());
      abort();
    }
    slabs_.push_back(static_cast<char*>(slab));
    for (size_t k = 0; k < slab_fibers; ++k) {
      // Tops that differ in their place modulo 4096 do not push each other out of the caches.
      all_.push_back(std::make_unique<Fiber>(slabs_.back() + k * stack_bytes, stack_bytes - k * 448 % 4096, body_));
      free_.push_back(all_.back().get());
    }
  }
  Fiber* fiber = free_.back();
  free_.pop_back();
  return fiber;
}

void FiberPool::give_back(Fiber* fiber) { used_.push_back(fiber); }

void FiberPool::end_launch() {
  free_.insert(free_.end(), used_.begin(), used_.end());
  used_.clear();
}

void FiberPool::forget() {
  free_.clear();
  used_.clear();
  for (std::unique_ptr<Fiber>& fiber : all_) fiber.release();  // their frames are left as they are
  all_.clear();
  slabs_.clear();
}

FiberPool::~FiberPool() {
  all_.clear();
  for (char* slab : slabs_) munmap(slab, slab_fibers * stack_bytes);
}

void release(void* object) {
#if defined(TGLO_EMULATION_TSAN)
  __tsan_release(object);
#else
  (void)object;
#endif
}

void acquire(void* object) {
#if defined(TGLO_EMULATION_TSAN)
  __tsan_acquire(object);
#else
  (void)object;
#endif
}

}  // namespace emulation
