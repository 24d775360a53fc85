#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "input_nodes.h"
#include "ts_infer/model.h"

namespace ts_infer {

/// What inputs are drawn for: a model that is loaded, or one that is being loaded.
struct InputSource {
  const std::string& model;
  const Signature& signature;
  const std::vector<InputNode>& arguments;
  const std::vector<InputShapes>& warmup_shapes;  // of the archive
};

/// As the public random_inputs(); `shapes` and `given` may name leaves too.
std::vector<Value> random_inputs(const InputSource& source, const InputShapes& shapes,
                                 std::uint64_t seed, const std::map<std::string, Value>& given);

/// Of all tensors that random_inputs() draws where none is given; the largest number where it does
/// not fit. @throws InputError where sizes are not known.
std::uint64_t input_bytes(const InputSource& source, const InputShapes& shapes);

}  // namespace ts_infer
