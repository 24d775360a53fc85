#pragma once

namespace ts_infer {

/// How often a process among this one's ancestors has forked since the library came, up to here: a
/// number that changes in the child. The child has none of the parent's other threads, which
/// parallel work and accelerators need.
unsigned fork_count();

/// From its first call on, the end of the process is noticed before what torch has made until then
/// is destroyed.
void watch_exit();

/// Whether the process ends: torch and this library may have lost what they need.
bool is_exiting();

/// What an error says then.
constexpr const char* kProcessEnds =
    " expected a process that runs, got one that ends and no longer has all that is needed; use no "
    "model in the destructor of a static object";

}  // namespace ts_infer
