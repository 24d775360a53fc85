#pragma once

#include <string>

#include "ts_infer/tensor.h"

namespace ts_infer::cli {

/// Reads a NumPy .npy file, versions 1 to 3, C or Fortran order. The tensor owns its data.
/// @throws InputError that says what the file is and how to save one that can be read.
Tensor read_npy(const std::string& path);

/// Writes a tensor of any dtype but bfloat16, which .npy does not have, in C order.
/// @throws Error
void write_npy(const std::string& path, const Tensor& tensor);

}  // namespace ts_infer::cli
