#pragma once

#include <c10/core/Device.h>

#include <memory>
#include <string>

#include "archive/archive.h"
#include "engine/engine.h"

namespace ts_infer {

/// Deserialises a TorchScript archive onto a device, puts it in eval mode, optimises it where asked
/// and where it pays, and makes ready what runs it. Says in `info` what was done and why. Throws
/// ModelLoadError, and what libtorch throws.
std::unique_ptr<Engine> load_torchscript(const Archive& archive, c10::Device device,
                                         const LoadOptions& options, ModelInfo& info);

}  // namespace ts_infer
