#pragma once

#include <c10/core/Device.h>
#include <c10/util/StringUtil.h>

#include <optional>
#include <string>
#include <vector>

#include "messages.h"
#include "ts_infer/model.h"

namespace ts_infer {

/// The device that a name stands for, or nullopt where it is not here. "auto" is the accelerator
/// when there is one, else the host; a type without an index is its current device.
std::optional<c10::Device> find_device(const std::string& name);

/// find_device() that throws `E`, listing the devices that are here.
template <typename E>
c10::Device resolve_device(const std::string& where, const std::string& name) {
  if (const auto device = find_device(name)) return *device;
  throw E(c10::str(where, " device: expected ", join(available_devices(), " or "), ", got \"", name,
                   "\"; choose one of these, or install a torch that is built for it"));
}

/// Waits for every stream of the device.
void synchronize(c10::Device device);

}  // namespace ts_infer
