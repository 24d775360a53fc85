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
  std::optional<c10::Device> named;
  if (name != "auto") {
    try {
      named = c10::Device(name);
    } catch (const c10::Error&) {
      return std::nullopt;  // not the name of any device
    }
    if (named->is_cpu()) return c10::Device(c10::kCPU);  // no accelerator is woken up for it
  }
  const auto accelerator = at::accelerator::getAccelerator(/*checked=*/false);
  const c10::DeviceIndex count = accelerator ? at::accelerator::deviceCount() : 0;
  if (!named) return count > 0 ? c10::Device(*accelerator, 0) : c10::Device(c10::kCPU);
  if (count == 0 || named->type() != *accelerator) return std::nullopt;
  if (!named->has_index()) return c10::Device(named->type(), at::accelerator::getDeviceIndex());
  if (named->index() >= count) return std::nullopt;
  return named;
}

void synchronize(c10::Device device) {
  c10::impl::VirtualGuardImpl(device.type()).synchronizeDevice(device.index());
}

}  // namespace ts_infer
