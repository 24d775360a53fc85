#pragma once

#include <ATen/core/ivalue.h>

#include <cstddef>
#include <map>
#include <vector>

#include "archive/golden.h"
#include "archive/manifest.h"
#include "ts_infer/signature.h"
#include "ts_infer/verify.h"

namespace ts_infer {

using Tolerances = std::map<DType, Tolerance>;

/// Holds what forward returned for a call of the golden sample against it, output by output.
/// `number` is the call's, from 1 on.
std::vector<OutputCheck> check_outputs(const GoldenCall& call, std::size_t number,
                                       const c10::IValue& result, const Signature& signature,
                                       const Tolerances& tolerances);

}  // namespace ts_infer
