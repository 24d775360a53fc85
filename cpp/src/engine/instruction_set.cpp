#include "engine/instruction_set.h"

#include <algorithm>
#include <cstdlib>
#include <optional>

#include "messages.h"
#include "ts_infer/error.h"

namespace ts_infer {
namespace {

InstructionSet choose() {
  const std::vector<InstructionSet> all = instruction_sets();
  const char* asked = std::getenv("TS_INFER_CPU");
  if (!asked || !*asked) return all.back();
  std::optional<InstructionSet> chosen;
  std::vector<std::string> names;
  for (const InstructionSet set : all) {
    if (to_string(set) == asked) chosen = set;  // the last: "avx512" has bfloat16 where there is it
    if (names.empty() || names.back() != to_string(set)) names.push_back(to_string(set));
  }
  if (chosen) return *chosen;
  throw ModelLoadError("TS_INFER_CPU: expected " + join(names, " or ") +
                       ", which this processor has, got \"" + asked + "\"; unset it");
}

}  // namespace

std::vector<InstructionSet> instruction_sets() {
  std::vector<InstructionSet> sets = {InstructionSet::kPortable};
#if defined(__x86_64__) && defined(__gnu_linux__) && !defined(__clang__)
  if (__builtin_cpu_supports("x86-64-v3")) sets.push_back(InstructionSet::kAvx2);
  if (__builtin_cpu_supports("x86-64-v4")) {
    sets.push_back(InstructionSet::kAvx512);
    if (__builtin_cpu_supports("avx512bf16")) sets.push_back(InstructionSet::kAvx512Bfloat16);
  }
#endif
  return sets;
}

InstructionSet instruction_set() {
  static const InstructionSet kChosen = choose();
  return kChosen;
}

std::string to_string(InstructionSet set) {
  switch (set) {
    case InstructionSet::kPortable:
      return "portable";
    case InstructionSet::kAvx2:
      return "avx2";
    case InstructionSet::kAvx512:
    case InstructionSet::kAvx512Bfloat16:
      return "avx512";
  }
  return "";
}

}  // namespace ts_infer
