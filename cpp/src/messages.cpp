#include "messages.h"

#include <c10/util/Exception.h>
#include <c10/util/StringUtil.h>

#include "dtype.h"

namespace ts_infer {

std::string clean_message(const std::exception& error) {
  std::string text;
  if (const auto* torch_error = dynamic_cast<const c10::Error*>(&error)) {
    text = torch_error->what_without_backtrace();
  } else {
    text = error.what();
  }
  // Errors that the interpreter wrapped carry the trace inside their text.
  for (const char* trace : {"\nException raised from ", "\nframe #0: "}) {
    const std::size_t begin = text.find(trace);
    if (begin != std::string::npos) text.erase(begin);
  }
  while (!text.empty() && (text.back() == '\n' || text.back() == ' ')) text.pop_back();
  return text.empty() ? "no message" : text;
}

std::string shape_string(c10::ArrayRef<std::int64_t> shape) {
  return c10::str('[', c10::Join(", ", shape), ']');
}

std::string dtype_string(c10::ScalarType type) {
  const auto dtype = from_scalar_type(type);
  return dtype ? to_string(*dtype) : c10::toString(type);
}

std::string join(const std::vector<std::string>& parts, const char* separator) {
  return c10::Join(separator, parts);
}

}  // namespace ts_infer
