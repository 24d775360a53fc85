#pragma once

#include <map>
#include <set>
#include <string>

namespace ts_infer {

/// Of the restricted operators that scan_source() found by their last names, those that the code
/// may use: not those whose every mention is certainly an attribute or a method that a class of the
/// archive declares (`self.save`), or a part of the name of its own code (`__torch__.save.Net`).
/// torch's parser reads the code; nothing is compiled. What is not certain stays.
/// `code` has the source of every file by its name, "code/__torch__.py".
std::set<std::string> without_own_names(const std::map<std::string, std::string>& code,
                                        const std::set<std::string>& found);

}  // namespace ts_infer
