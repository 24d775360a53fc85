#pragma once

#include <torch/csrc/jit/frontend/tree.h>

#include <string>
#include <utility>
#include <vector>

namespace ts_infer {

/// A class or function of an archive's code, behind the qualifier of its file
/// ("__torch__.torch.nn").
using Definition = std::pair<std::string, torch::jit::TreeRef>;

/// Whether the code that libtorch runs while it loads an archive, the __setstate__ of its classes
/// and what that calls, puts the state into attributes and does nothing else: it may look at parts
/// of it, compare, call functions of the archive that do no more, and operators that are neither
/// torch's own nor its primitives (those that pack quantised weights, or come from a library that
/// the host loaded). There is no loop and no recursion, so its time is that of its text.
bool only_assigns_in_load(const std::vector<Definition>& definitions);

}  // namespace ts_infer
