#pragma once

namespace ts_infer {

/// How often a process among this one's ancestors has forked since the library came, up to here: a
/// number that changes in the child. The child has none of the parent's other threads, which
/// parallel work and accelerators need.
unsigned fork_count();

}  // namespace ts_infer
