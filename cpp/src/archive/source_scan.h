#pragma once

#include <cstddef>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace ts_infer {

/// An operator of torch's that reaches beyond the tensors it is given; a name that ends in "::" is
/// a namespace of them, and kSetstate stands for code of that name that computes.
struct RestrictedOperator {
  std::string name;   // "aten::save"
  std::string reach;  // "writes files"
};

/// The method by which an object takes its state back, in load.
inline constexpr const char* kSetstate = "__setstate__";

/// What no model needs to compute, and what could harm the process that runs it.
const std::vector<RestrictedOperator>& all_restricted_operators();

/// What follows the last "::" of a restricted operator's name; of a namespace its own name.
std::string_view last_name(std::string_view name);

/// What a file of serialised TorchScript shows without being compiled.
struct SourceScan {
  std::set<std::string> restricted;  // names in all_restricted_operators()
  std::size_t nesting = 0;           // of blocks, brackets and operators of an expression
};

/// Whether a name of TorchScript may have it.
bool is_in_word(char c);

/// Goes through the tokens, in a time that is linear in their number. It takes for a restricted
/// operator what has its last name behind a dot, or in a string behind a getattr():
/// used_operators() is exact, where torch's parser can read the source. Nesting is that of torch's
/// parser or more.
SourceScan scan_source(std::string_view source);

}  // namespace ts_infer
