#pragma once

#include <ATen/core/ivalue.h>

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "archive/archive.h"
#include "input_nodes.h"
#include "ts_infer/model.h"

namespace ts_infer {

/// Makes a call and returns its result, so that the next call finds the outputs of the one before
/// still held, as a caller would hold them.
using WarmUpCall = std::function<c10::IValue(const std::vector<Value>& args)>;

/// The calls that make a model ready: at which sizes, on what, how often.
class WarmUp {
 public:
  /// Finds sizes and inputs; runs nothing. @throws ModelLoadError for an option, as a clause.
  WarmUp(const LoadOptions& options, const Archive& archive, const std::string& model,
         const Signature& signature, const std::vector<InputNode>& arguments);

  /// Why there is nothing to run; empty where there is.
  const std::string& reason() const { return reason_; }

  /// Calls `visit` with each of the sizes, largest first, and inputs of them.
  void for_each_size(
      const std::function<void(const InputShapes&, const std::vector<Value>&)>& visit) const;

  /// One step for each size. `log` gets a line a size, and what the budget left out.
  /// @throws ExecutionError that names the size.
  std::vector<LoadStep> run(const WarmUpCall& call,
                            const std::function<void(LogLevel, const std::string&)>& log) const;

 private:
  void leave_out_large(std::uint64_t most_bytes);
  std::vector<Value> inputs(const InputShapes& shapes) const;
  c10::IValue rehearsed(const WarmUpCall& call, const std::vector<Value>& args,
                        std::size_t size) const;
  bool is_settled(std::size_t size, const std::vector<double>& calls_ms) const;

  std::string level_;
  double budget_s_;
  std::string model_;
  Signature signature_;
  std::vector<InputNode> arguments_;
  std::map<std::string, Value> example_;  // by leaf, of the golden sample
  std::vector<InputShapes> sizes_;        // largest first
  std::string too_large_;                 // what is left out, and why; empty where all is run
  std::string reason_;
};

/// "x 256x64, y 1x3"
std::string shapes_text(const InputShapes& shapes);

}  // namespace ts_infer
