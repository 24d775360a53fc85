#include "ts_infer/timing.h"

#include <cstdio>

namespace ts_infer {

std::string Timing::log_line() const {
  char number[32];
  std::snprintf(number, sizeof number, "%.6g", total_ms);
  return model + " inference used time: " + number + " ms.";
}

}  // namespace ts_infer
