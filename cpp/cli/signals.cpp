#include "signals.h"

#include <signal.h>
#include <unistd.h>

#include <atomic>

namespace ts_infer::cli {
namespace {

std::atomic<bool> noting{false};
std::atomic<int> noted{0};
static_assert(std::atomic<int>::is_always_lock_free, "a signal handler may not lock");

void on_signal(int signal) {
  if (noting && noted.exchange(signal) == 0) return;
  _exit(128 + signal);
}

}  // namespace

void install_signal_handlers() {
  struct sigaction action = {};
  action.sa_handler = on_signal;
  action.sa_flags = SA_RESTART;
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
}

NoteSignals::NoteSignals() { noting = true; }

NoteSignals::~NoteSignals() { noting = false; }

int noted_signal() { return noted; }

}  // namespace ts_infer::cli
