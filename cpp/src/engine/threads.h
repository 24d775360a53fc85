#pragma once

#include <ATen/Parallel.h>

#include <cstdint>

#include "engine/kernels.h"

namespace ts_infer {

// What kernels that share torch's intra-op threads have in common.

#ifdef INTRA_OP_PARALLEL
constexpr bool kThreaded = true;
#else
constexpr bool kThreaded = false;  // at::parallel_for has one thread: compiled without OpenMP
#endif

/// Products that are worth waking a thread for.
constexpr std::int64_t kGrain = std::int64_t{1} << 19;

/// How many parts of at most `part` make up `whole`.
constexpr std::int64_t parts(std::int64_t whole, std::int64_t part) {
  return (whole + part - 1) / part;
}

/// Whether kernels.h is expected to be faster than torch for many rows, with the threads that calls
/// have now.
inline bool many_rows_pay() {
  return many_rows_are_fast() && (kThreaded || at::get_num_threads() == 1);
}

}  // namespace ts_infer
