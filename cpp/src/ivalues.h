#pragma once

#include <ATen/core/ivalue.h>
#include <ATen/core/jit_type_base.h>

#include <functional>
#include <string>
#include <vector>

#include "ts_infer/value.h"

namespace ts_infer {

/// @throws InputError where its containers nest deeper than conversions, which call themselves, can
/// go on any thread's stack; the message begins with ":".
void require_shallow(const Value& value);

/// `value` as the schema's type. @throws InputError that starts with `where`.
c10::IValue to_ivalue(const Value& value, const c10::TypePtr& type, const std::string& where);

/// @throws ExecutionError that starts with `where` for a type that Value does not have.
Value from_ivalue(const c10::IValue& value, const std::string& where);

/// Each of them. @throws as above
std::vector<Value> from_ivalues(const std::vector<c10::IValue>& values, const std::string& where);

/// `value` with `transform` applied to every tensor in it, and None where one is undefined;
/// containers are new ones.
/// @throws std::length_error as require_shallow() does.
c10::IValue map_tensors(const c10::IValue& value,
                        const std::function<at::Tensor(const at::Tensor&)>& transform);

/// Every leaf, depth-first, dict entries in insertion order.
/// @throws std::length_error as require_shallow() does.
void for_each_leaf(const c10::IValue& value, const std::function<void(const c10::IValue&)>& visit);

}  // namespace ts_infer
