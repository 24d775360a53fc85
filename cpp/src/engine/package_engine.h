#pragma once

#include <c10/core/Device.h>

#include <memory>

#include "archive/archive.h"
#include "engine/engine.h"

namespace ts_infer {

/// Loads an AOTInductor package. Its code checks nothing about its inputs: what the manifest
/// declares has to be checked before every call.
/// @throws ModelLoadError, as a clause; else what libtorch throws.
std::unique_ptr<Engine> load_package(const Archive& archive, c10::Device device, ModelInfo& info);

}  // namespace ts_infer
