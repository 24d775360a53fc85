#pragma once

namespace ts_infer::cli {

/// From here on SIGINT and SIGTERM end the process with 130 and 143.
void install_signal_handlers();

/// While one lives, the first signal is only noted, so that a command can print what it has
/// measured; a second one ends the process at once.
class NoteSignals {
 public:
  NoteSignals();
  ~NoteSignals();
  NoteSignals(const NoteSignals&) = delete;
  NoteSignals& operator=(const NoteSignals&) = delete;
};

/// The signal that was noted, or 0.
int noted_signal();

}  // namespace ts_infer::cli
