#pragma once

#include <set>
#include <string>

#include "ts_infer/model.h"

namespace ts_infer {

/// The optimising passes, by their names in ts_infer::passes(), that a load runs.
class PassSelection {
 public:
  /// As LoadOptions::optimize and disabled_passes say. @throws ModelLoadError for unknown names
  explicit PassSelection(const LoadOptions& options);
  static PassSelection none() { return PassSelection(); }

  bool runs(const std::string& pass) const { return selected_.count(pass) > 0; }
  bool empty() const { return selected_.empty(); }

 private:
  PassSelection() = default;

  std::set<std::string> selected_;
};

}  // namespace ts_infer
