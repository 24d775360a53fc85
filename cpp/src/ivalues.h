#pragma once

#include <ATen/core/ivalue.h>
#include <ATen/core/jit_type_base.h>

#include <functional>
#include <string>
#include <vector>

#include "ts_infer/value.h"

namespace ts_infer {

/// @throws InputError where its containers nest deeper than conversions, which call themselves, can
/// go on any thread's stack. `path` is what the value is called.
void require_shallow(const Value& value, const std::string& path);

/// The input that is called `path`, as the schema's type. @throws InputError that names the element
/// that is wrong: "input \"sensors.imu\": expected …".
c10::IValue to_ivalue(const Value& value, const c10::TypePtr& type, const std::string& path);

/// What a tensor within `value`, which is called `path`, is called.
std::string path_of(const at::Tensor& tensor, const c10::IValue& value, const std::string& path);

/// @throws ExecutionError that starts with `where` for a tensor that Tensor does not take.
Tensor output_tensor(const at::Tensor& tensor, const std::string& where);

/// @throws ExecutionError that starts with `where` for a type that Value does not have.
Value from_ivalue(const c10::IValue& value, const std::string& where);

/// Each of them. @throws as above
std::vector<Value> from_ivalues(const std::vector<c10::IValue>& values, const std::string& where);

/// `value` with `transform` applied to every tensor in it, and None where one is undefined;
/// containers are new ones.
/// @throws std::length_error as require_shallow() does.
c10::IValue map_tensors(const c10::IValue& value,
                        const std::function<at::Tensor(const at::Tensor&)>& transform);

/// Lets go of `value` one container after the other: torch's destructors call each other, and end
/// the process where containers nest deep.
void take_apart(c10::IValue value);

/// Every leaf, depth-first, dict entries in insertion order.
/// @throws std::length_error as require_shallow() does.
void for_each_leaf(const c10::IValue& value, const std::function<void(const c10::IValue&)>& visit);

}  // namespace ts_infer
