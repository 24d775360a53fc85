#pragma once

#include <c10/core/Device.h>

#include <memory>
#include <string>
#include <vector>

#include "archive/archive.h"
#include "engine/engine.h"

namespace ts_infer {

/// Deserialises a TorchScript archive onto a device, puts it in eval mode, optimises it where asked
/// and where it pays, and creates its executors. `decisions` receives a sentence for each choice.
/// Throws ModelLoadError, and what libtorch throws.
std::unique_ptr<Engine> load_torchscript(const Archive& archive, c10::Device device,
                                         const std::string& executor, bool optimize,
                                         std::vector<std::string>& decisions);

}  // namespace ts_infer
