#include "forks.h"

#include <pthread.h>

#include <atomic>

namespace ts_infer {
namespace {

std::atomic<unsigned> forks{0};

}  // namespace

unsigned fork_count() {
  static const int registered = pthread_atfork(nullptr, nullptr, [] { ++forks; });
  (void)registered;  // out of memory: forks go unnoticed
  return forks.load(std::memory_order_relaxed);
}

}  // namespace ts_infer
