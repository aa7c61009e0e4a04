// Fibers: stacks of their own that take turns on one thread of the system, and are known to the sanitizers.
#pragma once

#include <stddef.h>

#include <memory>
#include <vector>

namespace emulation {

class Fiber {
 public:
  // `body` never returns: it pauses for the last time and is started again at its end.
  Fiber(char* stack, size_t size, void (*body)());
  ~Fiber();
  Fiber(const Fiber&) = delete;

  void resume();  // by the thread, until the fiber pauses
  void pause();   // by the fiber, until it is resumed
  void enter();   // the first thing in `body`
  bool overflowed() const;

 private:
  char* stack_;
  size_t size_;
  void *own_ = nullptr, *caller_ = nullptr;  // stack pointers while the other side runs
  void *watched_ = nullptr, *watched_caller_ = nullptr;
};

// Fibers of one thread of the system, for reuse.
class FiberPool {
 public:
  explicit FiberPool(void (*body)()) : body_(body) {}
  ~FiberPool();
  Fiber* take();
  void give_back(Fiber* fiber);
  void end_launch();  // those given back since the last call may be taken again
  void forget();      // fibers of a launch that was given up

 private:
  void (*body_)();
  std::vector<std::unique_ptr<Fiber>> all_;
  std::vector<Fiber*> free_, used_;
  std::vector<char*> slabs_;
};

// Order between fibers that the thread sanitizer is to know of: nothing without it.
void release(void* object);
void acquire(void* object);

}  // namespace emulation
