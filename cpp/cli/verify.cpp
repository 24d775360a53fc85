#include "ts_infer/verify.h"

#include <algorithm>
#include <cmath>
#include <iostream>

#include "commands.h"

namespace ts_infer::cli {
namespace {

void print(const ModelArguments& arguments, const VerifyReport& report) {
  const ModelInfo& info = report.model;
  std::cout << model_text(arguments, info) << ", " << report.calls
            << (report.calls == 1 ? " golden call\n" : " golden calls\n") << "file        "
            << info.path << ", " << bytes_text(report.file_bytes) << ", " << report.members
            << " members, every CRC-32 is right\n"
            << "sha256      " << report.sha256 << "\n\n";
  constexpr auto kRight = Table::Align::kRight;
  Table table({{"call", kRight},
               {"output", Table::Align::kLeft},
               {"max abs diff", kRight},
               {"allowed", kRight},
               {"", Table::Align::kLeft}});
  for (const OutputCheck& check : report.outputs) {
    table.add({std::to_string(check.call), check.output,
               check.max_abs_diff ? number(*check.max_abs_diff) : "",
               check.max_abs_diff ? number(check.allowed) : "",
               check.ok ? "ok" : "DIFFERS " + check.difference});
  }
  std::cout << table.to_string();
}

/// JSON has no word for infinity.
Json number_json(double value) { return std::isfinite(value) ? Json(value) : Json(number(value)); }

Json outputs_json(const VerifyReport& report) {
  Json outputs = Json::array();
  for (const OutputCheck& check : report.outputs) {
    outputs.push_back(
        {{"call", check.call},
         {"output", check.output},
         {"ok", check.ok},
         {"max_abs_diff", check.max_abs_diff ? number_json(*check.max_abs_diff) : Json()},
         {"allowed", number_json(check.allowed)},
         {"difference", check.difference.empty() ? Json() : Json(check.difference)}});
  }
  return outputs;
}

}  // namespace

void verify(const VerifyArguments& arguments) {
  const ModelArguments& common = arguments.common;
  const VerifyReport report =
      ts_infer::verify(common.model, load_options(common), arguments.sha256);
  note_precision(common, report.model);
  if (prints_text(common.json)) print(common, report);
  write_json(common.json, "verify",
             {{"options", options_json(common)},
              {"model", model_json(report.model)},
              {"file_bytes", report.file_bytes},
              {"members", report.members},
              {"sha256", report.sha256},
              {"calls", report.calls},
              {"ok", report.ok()},
              {"outputs", outputs_json(report)}},
             common.intra_op_threads);
  if (report.ok()) return;
  const auto differs = [](const OutputCheck& check) { return !check.ok; };
  const auto& outputs = report.outputs;
  const auto first = std::find_if(outputs.begin(), outputs.end(), differs);
  if (first == outputs.end()) {
    throw OutputsDiffer{"[verify] " + common.model + ": expected outputs to compare, got none"};
  }
  throw OutputsDiffer{"[verify] " + common.model + ": " +
                      std::to_string(std::count_if(outputs.begin(), outputs.end(), differs)) +
                      " of " + std::to_string(outputs.size()) +
                      " outputs differ from the golden sample on " + report.model.device +
                      "; the first: call " + std::to_string(first->call) + ", " + first->output +
                      ' ' + first->difference};
}

}  // namespace ts_infer::cli
