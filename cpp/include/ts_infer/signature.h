#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "ts_infer/export.h"
#include "ts_infer/tensor.h"

namespace ts_infer {

/// One dimension of a declared shape: a fixed size, a named range, or unknown.
struct Dim {
  std::string name;                 // of a dynamic dimension; equal names mean one value
  std::optional<std::int64_t> min;  // smallest size; both nullopt: unknown, not checked
  std::optional<std::int64_t> max;  // largest size; nullopt: no upper bound
  std::int64_t factor = 1;          // sizes are factor * value + offset, such as 32 * h
  std::int64_t offset = 0;

  bool is_static() const { return name.empty() && min && max && *min == *max; }

  /// The size for a value of the name; the largest integer where it would be beyond.
  TS_INFER_API std::int64_t size_of(std::int64_t value) const;
  /// The value for a size; nullopt where no value gives it.
  TS_INFER_API std::optional<std::int64_t> value_of(std::int64_t size) const;
  /// "128" of a fixed size, "h=1..8", "32*h=32..256", "?"
  TS_INFER_API std::string to_string() const;
};

/// One argument or result, or a leaf of an argument.
struct TensorSpec {
  std::string name;
  std::string type;                       // in TorchScript: "Tensor", "List[Tensor]", "int", …
  std::optional<DType> dtype;             // of a Tensor; nullopt: unknown, not checked
  std::optional<std::vector<Dim>> shape;  // of a Tensor; nullopt: rank unknown, not checked
  bool has_default = false;               // it may be left out

  /// Of an argument that is a list, tuple or dict: what it is made of, depth-first. A leaf's name
  /// is its path: keys and fields behind a dot, "sensors.imu", indices in brackets, "clips[0]", and
  /// keys that a path could not hold as in JSON, "table[3]", "table[\"a.b\"]". Empty: unknown, not
  /// checked.
  std::vector<TensorSpec> leaves;
  bool any_length = false;  // its lists may have more and fewer elements than there are leaves
  bool any_keys = false;    // its dicts may have more and fewer keys

  /// "vector_data: float32[polylines=2..256, 19, 128]"; without its leaves.
  TS_INFER_API std::string to_string() const;
};

/// What forward() takes and returns. Outputs are flattened depth-first, dict entries in insertion
/// order. Without a manifest in the archive, dtypes and shapes are unknown.
struct Signature {
  std::vector<TensorSpec> inputs;
  std::vector<TensorSpec> outputs;

  /// One line an entry, and one a leaf.
  TS_INFER_API std::string to_string() const;
};

}  // namespace ts_infer
