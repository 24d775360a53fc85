// exits MODEL: leaves with 3 by exit(), while static objects still use models.
#include <ts_infer/ts_infer.h>

#include <cstdlib>
#include <functional>
#include <iostream>
#include <memory>

namespace {

void report(const std::function<void()>& use) {
  try {
    use();
    std::cout << "done" << std::endl;
  } catch (const ts_infer::Error& error) {
    std::cout << error.what() << std::endl;
  }
}

std::vector<ts_infer::Tensor> call(ts_infer::Model& model, double deadline_ms = 0) {
  ts_infer::RunOptions options;
  options.deadline_ms = deadline_ms;
  return model.forward({ts_infer::Tensor::from_vector<float>({1, 2, 3}, {1, 3})}, options);
}

/// Destroyed after what torch made later than it.
struct Last {
  std::string path;
  std::unique_ptr<ts_infer::Model> model;
  std::vector<ts_infer::Tensor> outputs;

  ~Last() {
    if (!model) return;
    report([this] { call(*model); });
    report([this] { call(*model, 60000); });
    report([this] { model->clone(); });
    report([this] { ts_infer::Model::load(path); });
    std::cout << model->stats().count << ' ' << outputs.at(0).numel() << std::endl;
  }
} last;

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  last.path = argv[1];
  last.model = std::make_unique<ts_infer::Model>(ts_infer::Model::load(argv[1]));
  last.outputs = call(*last.model, 60000);
  static ts_infer::Model in_a_function = last.model->clone();
  thread_local ts_infer::Model of_this_thread = last.model->clone();
  report([] { call(in_a_function); });
  report([] { call(of_this_thread); });
  std::exit(3);
}
