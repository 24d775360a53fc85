#include "device_testing.h"

#include <ATen/ops/full.h>

#include "archives.h"
#include "ts_infer/torch.h"

namespace ts_infer::testing {

Model load(const std::string& source, LoadOptions options) {
  const std::string bytes = archive(source);
  return Model::load(bytes.data(), bytes.size(), options);
}

Tensor on_host(const std::vector<std::int64_t>& shape, double value) {
  return from_torch(at::full(shape, value));
}

Tensor on_pinned_host(const std::vector<std::int64_t>& shape, double value) {
  return from_torch(at::full(shape, value).pin_memory());
}

Tensor on_device(const std::vector<std::int64_t>& shape, double value, int index) {
  return from_torch(at::full(shape, value).to(fake_device(index)));
}

std::vector<float> values(const Tensor& tensor) {
  const Tensor host = tensor.to_host();
  return {host.data<float>(), host.data<float>() + host.numel()};
}

RunOptions on_stream(c10::Stream stream) {
  RunOptions options;
  options.stream = native_handle(stream);
  return options;
}

RunOptions to_device(const std::string& device) {
  RunOptions options;
  options.output_device = device;
  return options;
}

RunOptions into(std::vector<Tensor> buffers) {
  RunOptions options;
  options.outputs = std::move(buffers);
  return options;
}

}  // namespace ts_infer::testing
