#pragma once

#include <map>
#include <string>
#include <vector>

#include "output.h"
#include "ts_infer/model.h"

namespace ts_infer::cli {

/// --input and --shape as they were written, and --seed.
struct InputArguments {
  std::vector<std::string> inputs;  // NAME=FILE.npy; NAME=VALUE for a number or a string; NAME is
                                    // an input or a leaf, "sensors.imu"
  std::vector<std::string> shapes;  // NAME=1x3x224x224
  std::uint64_t seed = 0;
};

/// What is wrong with the text of an --input or a --shape; "" when nothing is.
std::string check_input(const std::string& text);
std::string check_shape(const std::string& text);

/// Shapes by input name, of texts that passed check_shape().
InputShapes parse_shapes(const std::vector<std::string>& texts);

struct Inputs {
  std::vector<Value> args;
  std::map<std::string, Value> kwargs;  // those behind one that is left out
  Json description;
};

/// Reads what is given and draws the rest at random, which it says on stderr.
/// @throws InputError
Inputs gather_inputs(const Model& model, const InputArguments& arguments);

/// The same where all are passed by position. @throws InputError
Inputs gather_positional_inputs(const Model& model, const InputArguments& arguments);

}  // namespace ts_infer::cli
