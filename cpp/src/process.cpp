#include "process.h"

#include <pthread.h>

#include <atomic>
#include <cstdlib>

namespace ts_infer {
namespace {

std::atomic<unsigned> forks{0};
std::atomic<bool> exiting{false};

}  // namespace

unsigned fork_count() {
  static const int registered = pthread_atfork(nullptr, nullptr, [] { ++forks; });
  (void)registered;  // out of memory: forks go unnoticed
  return forks.load(std::memory_order_relaxed);
}

void watch_exit() {
  static const int registered = std::atexit([] { exiting = true; });
  (void)registered;  // out of memory: it goes unnoticed
}

bool is_exiting() { return exiting.load(std::memory_order_relaxed); }

}  // namespace ts_infer
