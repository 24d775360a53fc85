#include "engine/passes.h"

#include <algorithm>
#include <vector>

#include "messages.h"
#include "ts_infer/error.h"

namespace ts_infer {

std::vector<std::string> passes() {
  return {"freeze", "fold", "convolution", "recurrent", "linear", "attention"};
}

PassSelection::PassSelection(const LoadOptions& options) {
  const std::vector<std::string> known = passes();
  for (const std::string& name : options.disabled_passes) {
    if (std::find(known.begin(), known.end(), name) == known.end()) {
      throw ModelLoadError("disabled_passes: expected " + join(known, " or ") + ", got \"" + name +
                           '"');
    }
  }
  if (!options.optimize) return;
  selected_.insert(known.begin(), known.end());
  for (const std::string& name : options.disabled_passes) selected_.erase(name);
}

}  // namespace ts_infer
