// Manifests, and what is made of one: the checks of a call.

#include <string>

#include "archive/manifest.h"
#include "input_check.h"
#include "ts_infer/error.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    const ts_infer::Manifest manifest =
        ts_infer::parse_manifest(std::string(reinterpret_cast<const char*>(data), size));
    const ts_infer::InputCheck check(manifest.signature, "[call] fuzz:");
    check.check(std::vector<c10::IValue>(manifest.signature.inputs.size(), at::Tensor()));
  } catch (const ts_infer::ModelLoadError&) {
  } catch (const ts_infer::InputError&) {
    // The errors of the table.
  }
  return 0;
}
