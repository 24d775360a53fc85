#pragma once

#include <string>
#include <vector>

namespace ts_infer {

/// What kernels.h is compiled for, the fastest last; each has what those before it have.
enum class InstructionSet { kPortable, kAvx2, kAvx512, kAvx512Bfloat16 };

/// Those that this processor has.
std::vector<InstructionSet> instruction_sets();

/// The one that kernels run with: the last of instruction_sets(), or what the environment variable
/// TS_INFER_CPU named when this was first called: "portable", "avx2" or "avx512".
/// @throws ModelLoadError if the variable names another one, or one that this processor lacks
InstructionSet instruction_set();

/// As TS_INFER_CPU has it.
std::string to_string(InstructionSet set);

/// Whether products of many rows are faster with it than a library's.
inline bool many_rows_are_fast() { return instruction_set() != InstructionSet::kPortable; }

/// Whether there are products of bfloat16.
inline bool has_bfloat16_products() { return instruction_set() == InstructionSet::kAvx512Bfloat16; }

}  // namespace ts_infer
