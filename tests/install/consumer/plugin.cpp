// A plug-in: a library that a host opens, uses and closes, and that knows ts_infer, which the host
// does not.
#include <ts_infer/ts_infer.h>

#include <optional>

namespace {

std::optional<ts_infer::Model> model;  // goes with the plug-in

}  // namespace

extern "C" __attribute__((visibility("default"))) double first_output(const char* path) {
  try {
    model = ts_infer::Model::load(path);
    ts_infer::RunOptions options;
    options.deadline_ms = 60000;  // starts a thread that waits for more calls
    const auto x = ts_infer::Tensor::from_vector<float>({1, 2, 3}, {1, 3});
    return double{model->forward({x}, options).at(0).data<float>()[0]};
  } catch (const ts_infer::Error&) {
    return -1;
  }
}
