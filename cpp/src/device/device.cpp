#include "device/device.h"

#include <ATen/DeviceAccelerator.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <c10/util/Exception.h>

namespace ts_infer {

std::vector<std::string> available_devices() {
  std::vector<std::string> names = {"cpu"};
  if (const auto type = at::accelerator::getAccelerator(/*checked=*/false)) {
    for (c10::DeviceIndex i = 0; i < at::accelerator::deviceCount(); ++i) {
      names.push_back(c10::Device(*type, i).str());
    }
  }
  return names;
}

std::optional<c10::Device> find_device(const std::string& name) {
  const auto accelerator = at::accelerator::getAccelerator(/*checked=*/false);
  const c10::DeviceIndex count = accelerator ? at::accelerator::deviceCount() : 0;
  if (name == "auto") {
    return count > 0 ? c10::Device(*accelerator, 0) : c10::Device(c10::kCPU);
  }
  try {
    const c10::Device device(name);
    if (device.is_cpu()) return c10::Device(c10::kCPU);
    if (!accelerator || device.type() != *accelerator || count == 0) return std::nullopt;
    if (!device.has_index()) {
      return c10::Device(device.type(), at::accelerator::getDeviceIndex());
    }
    if (device.index() >= count) return std::nullopt;
    return device;
  } catch (const c10::Error&) {
    return std::nullopt;  // not the name of any device
  }
}

void synchronize(c10::Device device) {
  c10::impl::VirtualGuardImpl(device.type()).synchronizeDevice(device.index());
}

}  // namespace ts_infer
