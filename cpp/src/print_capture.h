#pragma once

#include <string>
#include <vector>

namespace ts_infer {

/// Takes what the code of models prints on this thread while this lives; the innermost one has it.
/// What is printed on other threads, or without one of these, goes where the host has it go: to
/// stdout, unless it set a handler of its own before the first of these.
class PrintCapture {
 public:
  /// Of each print its text goes to `texts`, without the line's end.
  explicit PrintCapture(std::vector<std::string>& texts);
  ~PrintCapture();
  PrintCapture(const PrintCapture&) = delete;
  PrintCapture& operator=(const PrintCapture&) = delete;

 private:
  static void take(const std::string& text);

  std::vector<std::string>& texts_;
  PrintCapture* outer_;
};

}  // namespace ts_infer
