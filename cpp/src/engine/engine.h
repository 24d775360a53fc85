#pragma once

#include <ATen/core/function_schema.h>
#include <ATen/core/ivalue.h>

#include <memory>
#include <string>
#include <vector>

namespace ts_infer {

/// What computes: methods of one model on one device. run() is safe from many threads, unless
/// stateful(): then the caller lets calls take turns.
class Engine {
 public:
  virtual ~Engine() = default;

  /// Names of the methods; the position is how run() and schema() call them.
  virtual const std::vector<std::string>& methods() const = 0;

  /// Argument 0 is `self`.
  virtual const c10::FunctionSchema& schema(std::size_t method) const = 0;

  /// Replaces the arguments on the stack (without self, complete, of the schema's types) by the
  /// result. Throws what libtorch throws.
  virtual void run(std::size_t method, std::vector<c10::IValue>& stack) = 0;

  /// Execution plans that torch's executor of a method has compiled so far; 0 where none runs it.
  virtual std::size_t compiled_plans(std::size_t method) const = 0;

  /// Why calls must take turns; empty where they need not.
  virtual const std::string& state() const = 0;

  /// The same weights, another state.
  virtual std::unique_ptr<Engine> clone() const = 0;
};

}  // namespace ts_infer
