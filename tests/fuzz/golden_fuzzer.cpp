// Golden samples: the pickle in a file of torch.save's.

#include <string>

#include "archive/golden.h"
#include "archives.h"
#include "ts_infer/error.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string pickle(reinterpret_cast<const char*>(data), size);
  try {
    ts_infer::read_golden(ts_infer::testing::torch_saved(pickle, {{"0", {1, 2, 3, 4, 5, 6}}}));
  } catch (const ts_infer::ModelLoadError&) {
    // One of the table's errors.
  }
  return 0;
}
