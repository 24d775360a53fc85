#include "ts_infer/version.h"

#include <ATen/Version.h>
#include <torch/version.h>

namespace ts_infer {

std::string version() { return TS_INFER_VERSION; }

std::string built_with_torch() { return TORCH_VERSION; }

std::string loaded_torch() {
  // libtorch tells its version at run time only inside its build report.
  const std::string report = at::show_config();
  const std::string key = "TORCH_VERSION=";
  const std::size_t begin = report.find(key);
  if (begin == std::string::npos) return "unknown";
  const std::size_t end = report.find_first_of(", \n", begin);
  return report.substr(begin + key.size(), end - begin - key.size());
}

}  // namespace ts_infer
