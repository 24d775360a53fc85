#include <filesystem>
#include <iostream>
#include <set>

#include "commands.h"
#include "npy.h"
#include "signals.h"

namespace ts_infer::cli {
namespace {

/// A name from the archive, which may be anything, as a file's name inside the folder.
std::string file_name(const std::string& name, std::set<std::string>& taken) {
  std::string base;
  for (const char c : name) {
    const bool is_plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                          (c >= '0' && c <= '9') || c == '_' || c == '-' || c == '.';
    base += is_plain && !(base.empty() && c == '.') ? c : '_';
  }
  std::string unique = base;
  for (int i = 2; !taken.insert(unique).second; ++i) unique = base + '_' + std::to_string(i);
  return unique + ".npy";
}

Json timing_json(const Timing& timing) {
  return {{"call", timing.call},
          {"h2d_ms", timing.h2d_ms},
          {"compute_ms", timing.compute_ms},
          {"d2h_ms", timing.d2h_ms},
          {"total_ms", timing.total_ms}};
}

std::vector<std::string> save(const std::vector<Output>& outputs, const std::string& folder) {
  std::vector<std::string> files(outputs.size());
  if (folder.empty()) return files;
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (!std::filesystem::is_directory(folder)) {
    throw Error("[output] " + folder + ": the folder cannot be made: " + error.message() +
                "; choose another --output-dir");
  }
  std::set<std::string> taken;
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    if (!outputs[i].value.is_tensor()) continue;
    files[i] = (std::filesystem::path(folder) / file_name(outputs[i].name, taken)).string();
    write_npy(files[i], outputs[i].value.as_tensor());
  }
  return files;
}

}  // namespace

void run(const RunArguments& arguments) {
  std::vector<Timing> timings;
  LoadOptions options = load_options(arguments.common);
  options.on_timing = [&](const Timing& timing) {
    timings.push_back(timing);
    if (!arguments.quiet) std::cerr << timing.log_line() + '\n';
  };
  Model model = load_model(arguments.common, std::move(options));
  note_precision(arguments.common, model.info());
  const Inputs inputs = gather_inputs(model, arguments.inputs);

  Value result;
  std::int64_t done = 0;
  {
    const NoteSignals note;
    while (done < arguments.iterations && noted_signal() == 0) {
      result = model.call(inputs.args, inputs.kwargs);
      ++done;
    }
  }
  const std::vector<Output> outputs = named_outputs(result, model.signature());
  const std::vector<std::string> files = save(outputs, arguments.output_dir);

  Table table({{"output", Table::Align::kLeft},
               {"type", Table::Align::kLeft},
               {"shape", Table::Align::kLeft},
               {"values", Table::Align::kLeft}});
  Json outputs_json = Json::array();
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    const auto& [name, value] = outputs[i];
    table.add({name, type_text(value),
               value.is_tensor() ? shape_text(value.as_tensor().shape()) : "", value_text(value)});
    Json json = {{"name", name}};
    json.update(value_json(value));
    if (!files[i].empty()) json["file"] = files[i];
    outputs_json.push_back(std::move(json));
  }
  if (prints_text(arguments.common.json)) {
    std::cout << model_text(arguments.common, model.info()) << ", " << done
              << (done == 1 ? " call" : " calls; the last one's outputs") << "\n\n"
              << table.to_string();
    if (!arguments.output_dir.empty()) std::cout << "\nwritten to " << arguments.output_dir << '\n';
  }
  Json calls = Json::array();
  for (const Timing& timing : timings) calls.push_back(timing_json(timing));
  Json json = {{"options", options_json(arguments.common)},
               {"model", model_json(model)},
               {"inputs", inputs.description},
               {"interrupted", noted_signal() != 0},
               {"calls", calls},
               {"outputs", outputs_json}};
  json["options"].update({{"seed", arguments.inputs.seed}, {"iterations", arguments.iterations}});
  write_json(arguments.common.json, "run", json, arguments.common.intra_op_threads);
}

}  // namespace ts_infer::cli
