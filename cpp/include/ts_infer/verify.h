#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "ts_infer/export.h"
#include "ts_infer/model.h"

namespace ts_infer {

/// One output of one golden call, beside what the module returned where it was exported.
struct OutputCheck {
  std::size_t call = 0;  // 1 is the first
  std::string output;    // its name in the signature, else "output_0", …
  bool ok = false;

  /// The largest |expected - actual|, infinity where NaN or infinity is on one side only; nullopt
  /// where there is nothing to subtract: a string, None, another dtype or shape.
  std::optional<double> max_abs_diff;
  double allowed = 0;      // there: atol + rtol * |expected|; 0 where the dtype must be equal
  std::string difference;  // "" when ok, else such as "at [0, 3]: expected 1.5, got 2.5"
};

/// One verify() run.
struct VerifyReport {
  ModelInfo model;
  std::uint64_t file_bytes = 0;
  std::size_t members = 0;  // files in the archive; the CRC-32 of each was right
  std::string sha256;       // of the file, 64 hexadecimal digits
  std::size_t calls = 0;
  std::vector<OutputCheck> outputs;  // call by call

  /// Whether every output of every call is within the tolerance.
  TS_INFER_API bool ok() const;
};

/// Checks a file and how it computes on the device at hand: every member's CRC-32, the SHA-256
/// where `sha256` (hexadecimal) is not empty, and then the calls of the golden sample that
/// ts_infer.export put into the file, one after another on a freshly loaded model, which is not
/// warmed up.
///
/// An element is right when |expected - actual| <= atol + rtol * |expected|, by the tolerance that
/// the file has for its dtype on such a device (a float: float64's); NaN equals NaN, an infinity
/// itself. Other values must be equal. Nothing of the file runs unless the SHA-256 fits.
/// @throws ModelLoadError when the file is damaged, is another one or has no golden sample;
///         ExecutionError when a call fails. An output that differs is no exception.
TS_INFER_API VerifyReport verify(const std::string& path, const LoadOptions& options = {},
                                 const std::string& sha256 = "");

/// The same from memory.
TS_INFER_API VerifyReport verify(const void* data, std::size_t size,
                                 const LoadOptions& options = {}, const std::string& sha256 = "");

}  // namespace ts_infer
