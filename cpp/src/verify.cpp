#include "ts_infer/verify.h"

#include <algorithm>
#include <cctype>
#include <memory>

#include "archive/archive.h"
#include "archive/golden.h"
#include "ivalues.h"
#include "model_access.h"
#include "output_checks.h"

namespace ts_infer {
namespace {

c10::IValue call_forward(Model& model, const GoldenCall& call, const std::string& where) {
  try {
    const std::vector<Value> args = from_ivalues(call.inputs, where);
    const auto& arguments = ModelAccess::schema(model, "forward").arguments();
    std::vector<c10::IValue> stack;
    for (std::size_t i = 0; i < args.size() && i + 1 < arguments.size(); ++i) {
      stack.push_back(to_ivalue(args[i], arguments[i + 1].type(), arguments[i + 1].name()));
    }
    return ModelAccess::call(model, "forward", std::move(stack), {});
  } catch (const InputError& error) {
    throw ModelLoadError(where + "its golden sample does not fit it: " + error.what() +
                         "; export the model again");
  }
}

VerifyReport verify(const std::shared_ptr<const Archive>& archive, const LoadOptions& options,
                    std::string expected_sha256) {
  const std::string where = "[verify] " + archive->subject() + ": ";
  archive->require_intact();
  archive->require_operators(options.allow_operators);
  VerifyReport report;
  report.file_bytes = archive->info().file_bytes;
  report.members = archive->info().members;
  report.sha256 = archive->sha256();
  for (char& digit : expected_sha256) digit = static_cast<char>(std::tolower(digit));
  if (!expected_sha256.empty() && expected_sha256 != report.sha256) {
    throw ModelLoadError(where + "it is another file: expected SHA-256 " + expected_sha256 +
                         ", got " + report.sha256 + "; fetch the file again");
  }
  const std::optional<Golden>& golden = archive->golden();
  if (!golden) {
    throw ModelLoadError(where +
                         "expected a golden sample in the file, got none; export the model "
                         "with ts_infer.export, which writes one or says why not (every "
                         "CRC-32 is right; SHA-256 " +
                         report.sha256 + ')');
  }
  const std::vector<GoldenCall> calls = [&] {
    try {
      return golden_calls(*archive);
    } catch (const ModelLoadError& error) {
      throw ModelLoadError(where + error.what());
    }
  }();

  LoadOptions cold = options;
  cold.warmup = "off";
  Model model = ModelAccess::load(archive, cold);
  report.model = model.info();
  const Tolerances& tolerances =
      report.model.device == "cpu" ? golden->on_cpu : golden->on_accelerator;
  for (const GoldenCall& call : calls) {
    ++report.calls;
    const c10::IValue result = call_forward(model, call, where);
    for (OutputCheck& check :
         check_outputs(call, report.calls, result, model.signature(), tolerances)) {
      report.outputs.push_back(std::move(check));
    }
  }
  return report;
}

}  // namespace

bool VerifyReport::ok() const {
  return !outputs.empty() && std::all_of(outputs.begin(), outputs.end(),
                                         [](const OutputCheck& check) { return check.ok; });
}

VerifyReport verify(const std::string& path, const LoadOptions& options,
                    const std::string& sha256) {
  return with_memory([&] { return verify(Archive::open(path, options.limits), options, sha256); });
}

VerifyReport verify(const void* data, std::size_t size, const LoadOptions& options,
                    const std::string& sha256) {
  return with_memory([&] {
    const std::string_view bytes(static_cast<const char*>(data), size);
    return verify(Archive::over(bytes, options.limits), options, sha256);
  });
}

}  // namespace ts_infer
