// embed MODEL [INPUT.npy]...: runs a model, on random inputs where none are given.
#include <ts_infer/ts_infer.h>

#include <fstream>
#include <iostream>
#include <sstream>

ts_infer::Tensor read_npy(const char* path, ts_infer::DType dtype) {
  std::ifstream file(path, std::ios::binary);
  std::string header;
  if (!std::getline(file, header)) throw ts_infer::InputError(std::string("cannot read ") + path);
  std::istringstream sizes(header.substr(header.find("'shape': (") + 10));
  std::vector<std::int64_t> shape;
  for (std::int64_t size = 0; sizes >> size; sizes.ignore()) shape.push_back(size);
  ts_infer::Tensor tensor = ts_infer::Tensor::empty(dtype, shape);
  file.read(static_cast<char*>(tensor.data_ptr()), static_cast<std::streamsize>(tensor.nbytes()));
  return tensor;
}

int main(int argc, char** argv) try {
  ts_infer::LoadOptions options;
  options.on_timing = [](const ts_infer::Timing& t) { std::cerr << t.log_line() << '\n'; };
  ts_infer::Model model = ts_infer::Model::load(argc > 1 ? argv[1] : "model.pt", options);

  std::vector<ts_infer::Tensor> inputs;
  const std::vector<ts_infer::TensorSpec>& specs = model.signature().inputs;
  for (int i = 2; i < argc; ++i)
    inputs.push_back(read_npy(argv[i], specs.at(i - 2).dtype.value_or(ts_infer::DType::kFloat32)));
  if (argc == 2)
    for (const auto& value : ts_infer::random_inputs(model)) inputs.push_back(value.as_tensor());

  std::cout.precision(9);  // enough to tell any two floats apart
  for (const ts_infer::Tensor& out : model.forward(inputs))
    for (std::int64_t i = 0; i < out.numel(); ++i)
      std::cout << out.data<float>()[i] << (i + 1 < out.numel() ? ' ' : '\n');
} catch (const std::exception& error) {
  std::cerr << error.what() << '\n';
  return 1;
}
