#pragma once

#include <map>
#include <set>
#include <string>

namespace ts_infer {

/// The restricted operators that code may use. torch's parser reads it, as it does in a load;
/// nothing is compiled. An operator is told by its last name behind a dot or in a getattr(),
/// whatever stands before: an alias or a tensor's method reach it too. Left out is a name that is
/// certainly an attribute or a method that a class of the archive declares (`self.save`), or a part
/// of the name of its own code (`__torch__.save.Net`). A file that cannot be parsed is read as
/// text.
///
/// Nesting must have been bounded: the parser calls itself.
/// `code` has the source of every file by its name, "code/__torch__.py".
std::set<std::string> used_operators(const std::map<std::string, std::string>& code);

}  // namespace ts_infer
