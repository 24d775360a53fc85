#pragma once

#include <ATen/core/function_schema.h>
#include <ATen/core/ivalue.h>

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "ts_infer/export.h"
#include "ts_infer/signature.h"
#include "ts_infer/value.h"

namespace ts_infer {

/// An argument of forward or a part of one: a leaf, or a container of such parts.
struct InputNode {
  enum class Kind { kLeaf, kList, kTuple, kDict };

  std::string name;  // its path: "sensors", "sensors.imu", "clips[0]"
  Kind kind = Kind::kLeaf;
  TensorSpec leaf;                // of a leaf: what is declared of it
  std::size_t index = 0;          // of a leaf: its place among all leaves of forward
  std::vector<InputNode> items;   // of a container
  std::vector<c10::IValue> keys;  // of a dict: the items'
  bool is_optional = false;       // an item that a dict need not have
  bool is_open = false;           // a list of any length, a dict with any keys
  bool is_uniform = false;        // items that are not declared are as those that are
};

/// The arguments that a signature declares leaf by leaf, as trees of forward's types. An argument
/// without declared leaves is a leaf itself.
/// @throws ModelLoadError, as a clause, where its paths do not fit the types.
std::vector<InputNode> input_nodes(const Signature& signature, const c10::FunctionSchema& schema);

/// Calls `visit` with each leaf, depth-first.
void for_each_leaf(const InputNode& node, const std::function<void(const InputNode&)>& visit);

/// What a walk through a value meets. `name` is the path in the value.
struct InputVisitor {
  /// A leaf. One that is not declared itself, but is as `node` is, has another name.
  std::function<void(const InputNode& node, const std::string& name, const c10::IValue& leaf)> leaf;
  /// Something is missing or too much: "expected …, got …".
  std::function<void(const std::string& name, const std::string& what)> fault;
};

/// Goes depth-first through an argument beside what is declared of it.
void visit_input(const InputNode& node, const c10::IValue& value, const InputVisitor& visitor);

/// An argument put together from its leaves. Where `make` has none for a leaf, its dict is made
/// without it.
std::optional<Value> build_input(const InputNode& node,
                                 const std::function<std::optional<Value>(const InputNode&)>& make);

/// What a dict's key adds to a path: ".imu", "[3]", or "[\"a.b\"]" for what would be ambiguous.
TS_INFER_API std::string path_step(const c10::IValue& key);

}  // namespace ts_infer
