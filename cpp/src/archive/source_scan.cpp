#include "archive/source_scan.h"

#include <algorithm>
#include <cctype>
#include <utility>

namespace ts_infer {
namespace {

bool is_letter(char c) { return std::isalpha(static_cast<unsigned char>(c)) != 0 || c == '_'; }

bool is_blank(char c) { return std::isspace(static_cast<unsigned char>(c)) != 0 && c != '\n'; }

/// Words that an expression nests by, in torch's parser or behind it.
bool is_operator(std::string_view word) {
  static constexpr std::string_view kWords[] = {"if", "else", "not", "and",   "or",
                                                "is", "in",   "for", "lambda"};
  return std::find(std::begin(kWords), std::end(kWords), word) != std::end(kWords);
}

/// Goes through the tokens as torch's lexer finds them.
class SourceScanner {
 public:
  explicit SourceScanner(std::string_view source) : source_(source) {}

  SourceScan run() {
    start_line();
    while (at_ < source_.size()) step();
    return std::move(scan_);
  }

 private:
  void step() {
    const char c = source_[at_];
    if (c == '\n') {
      ++at_;
      if (levels_.size() == 1) start_line();
    } else if (c == '#') {
      // What stands in a comment about types is code.
      const std::string_view types = "# type:";
      at_ = source_.substr(at_).starts_with(types)
                ? at_ + types.size()
                : std::min(source_.find('\n', at_), source_.size());
    } else if (c == '"' || c == '\'') {
      string(c);
    } else if (is_letter(c)) {
      word();
    } else if (c == '\\' && source_.substr(at_ + 1).starts_with('\n')) {
      at_ += 2;  // the line goes on
    } else {
      symbol(c);
      ++at_;
    }
  }

  /// A statement's first column tells its block.
  void start_line() {
    levels_.assign(1, {});
    chained_ = 0;
    std::size_t column = at_;
    while (column < source_.size() && is_blank(source_[column])) ++column;
    if (column >= source_.size() || source_[column] == '\n' || source_[column] == '#') return;
    const std::size_t indent = column - at_;
    while (!blocks_.empty() && blocks_.back() >= indent) blocks_.pop_back();
    blocks_.push_back(indent);
    deepen();
  }

  void string(char quote) {
    const bool is_long = source_.substr(at_).starts_with(std::string(3, quote));
    const std::string end(is_long ? 3 : 1, quote);
    const std::size_t begin = at_ + end.size();
    std::size_t last = begin;
    while (last < source_.size() && !source_.substr(last).starts_with(end)) {
      last += source_[last] == '\\' ? 2 : 1;
    }
    last = std::min(last, source_.size());
    const std::string_view text = source_.substr(begin, last - begin);
    at_ = std::min(last + end.size(), source_.size());
    after_dot_ = false;
    // An escaped name could be any, and so could one of several parts.
    const bool is_part = std::exchange(after_string_, true);
    if (is_getattr_ && (is_part || text.find('\\') != text.npos)) {
      for (const RestrictedOperator& op : all_restricted_operators())
        scan_.restricted.insert(op.name);
    } else if (is_getattr_) {
      name(text);
    }
  }

  void word() {
    const std::size_t begin = at_;
    while (at_ < source_.size() && is_in_word(source_[at_])) ++at_;
    const std::string_view text = source_.substr(begin, at_ - begin);
    if (after_dot_) name(text);
    after_dot_ = after_string_ = false;
    if (text == "getattr") is_getattr_ = true;
    if (text == "elif") ++elifs_;
    if (is_operator(text)) nest();
  }

  void symbol(char c) {
    if (std::isspace(static_cast<unsigned char>(c)) != 0) return;
    after_dot_ = c == '.';
    after_string_ = false;
    if (c == '(' || c == '[' || c == '{') {
      nest();
      levels_.push_back(0);
    } else if (c == ')' || c == ']' || c == '}') {
      if (levels_.size() == 1) return;
      chained_ -= levels_.back();
      levels_.pop_back();
    } else if (c == ',') {
      chained_ -= std::exchange(levels_.back(), 0);
    } else if (std::isdigit(static_cast<unsigned char>(c)) == 0 && c != ':' && c != '=') {
      nest();
    }
  }

  void nest() {
    ++levels_.back();
    ++chained_;
    deepen();
  }

  void deepen() { scan_.nesting = std::max(scan_.nesting, blocks_.size() + elifs_ + chained_); }

  void name(std::string_view text) {
    for (const RestrictedOperator& op : all_restricted_operators()) {
      if (last_name(op.name) == text) scan_.restricted.insert(op.name);
    }
  }

  std::string_view source_;
  std::size_t at_ = 0;
  bool after_dot_ = false;
  bool after_string_ = false;
  bool is_getattr_ = false;  // there was one: any string may be a name
  std::size_t elifs_ = 0;
  std::vector<std::size_t> levels_;  // of each bracket: operators since the last comma
  std::size_t chained_ = 0;          // in all of them
  std::vector<std::size_t> blocks_;  // columns
  SourceScan scan_;
};

}  // namespace

std::string_view last_name(std::string_view name) {
  if (name.ends_with("::")) return name.substr(0, name.size() - 2);
  return name.substr(name.rfind(':') + 1);
}

bool is_in_word(char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_'; }

const std::vector<RestrictedOperator>& all_restricted_operators() {
  static const std::vector<RestrictedOperator> kRestricted = {
      {"aten::from_file", "maps files, and creates and overwrites them"},
      {"aten::save", "writes files"},
      {"c10d::", "talks to other processes"},
      {"_c10d_functional::", "talks to other processes"},
      {"_c10d_functional_autograd::", "talks to other processes"},
      {"_dtensor::", "talks to other processes"},
      {"symm_mem::", "reads and writes other processes' memory"},
      {"inductor::", "reads and writes memory outside its tensors"},
      {kSetstate, "computes while the file is loaded"},
  };
  return kRestricted;
}

SourceScan scan_source(std::string_view source) { return SourceScanner(source).run(); }

}  // namespace ts_infer
