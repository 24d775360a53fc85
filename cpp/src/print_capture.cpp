#include "print_capture.h"

#include <torch/csrc/jit/runtime/print_handler.h>

#include <mutex>
#include <utility>

namespace ts_infer {
namespace {

thread_local PrintCapture* innermost = nullptr;
torch::jit::PrintHandler hosts_own = nullptr;

}  // namespace

PrintCapture::PrintCapture(std::vector<std::string>& texts)
    : texts_(texts), outer_(std::exchange(innermost, this)) {
  static std::once_flag once;
  std::call_once(once, [] {
    hosts_own = torch::jit::getPrintHandler();
    torch::jit::setPrintHandler(&PrintCapture::take);
  });
}

PrintCapture::~PrintCapture() { innermost = outer_; }

void PrintCapture::take(const std::string& text) {
  if (innermost == nullptr) return hosts_own(text);
  const bool has_end = !text.empty() && text.back() == '\n';
  innermost->texts_.push_back(has_end ? text.substr(0, text.size() - 1) : text);
}

}  // namespace ts_infer
