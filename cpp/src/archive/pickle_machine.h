#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ts_infer/error.h"

namespace ts_infer {

/// What every reader of a pickle has: the bytes that are left, a stack with marks, and a memo. What
/// an opcode does to them is the reader's own.
template <typename Value>
class PickleMachine {
 protected:
  /// `subject` starts the messages of its ModelLoadErrors, `not_one` ends the one that says that no
  /// opcode may be there: "data.pkl", "no pickle".
  PickleMachine(std::string_view pickle, std::string subject, std::string not_one)
      : rest_(pickle), subject_(std::move(subject)), not_one_(std::move(not_one)) {}

  [[noreturn]] void ends_early() const { throw ModelLoadError(subject_ + " ends too early"); }
  [[noreturn]] void no_pickle() const { throw ModelLoadError(subject_ + " is " + not_one_); }

  std::string_view take(std::size_t size) {
    if (size > rest_.size()) ends_early();
    const std::string_view taken = rest_.substr(0, size);
    rest_.remove_prefix(size);
    return taken;
  }

  /// Little-endian.
  template <typename T>
  T number() {
    T value = 0;
    std::memcpy(&value, take(sizeof(T)).data(), sizeof(T));
    return value;
  }

  /// LONG1's.
  std::int64_t long_integer() {
    const std::string_view digits = take(number<std::uint8_t>());
    if (digits.size() > 8) {
      throw ModelLoadError(subject_ + " has an integer of more than 64 bits");
    }
    // Two's complement, little-endian: the last byte has the sign.
    const bool negative = !digits.empty() && static_cast<signed char>(digits.back()) < 0;
    std::uint64_t value = negative ? ~std::uint64_t{0} : 0;
    for (std::size_t i = digits.size(); i-- > 0;) {
      value = value << 8 | static_cast<unsigned char>(digits[i]);
    }
    return static_cast<std::int64_t>(value);
  }

  std::string line() {
    const std::size_t end = rest_.find('\n');
    if (end == std::string_view::npos) ends_early();
    std::string text(take(end));
    take(1);
    return text;
  }

  void push(Value value) { stack_.push_back(std::move(value)); }

  Value& top() {
    if (stack_.size() <= (marks_.empty() ? 0 : marks_.back())) no_pickle();
    return stack_.back();
  }

  Value pop() {
    Value value = std::move(top());
    stack_.pop_back();
    return value;
  }

  std::vector<Value> pop(std::size_t count) {
    std::vector<Value> values(count);
    for (std::size_t i = count; i-- > 0;) values[i] = pop();
    return values;
  }

  void mark() { marks_.push_back(stack_.size()); }

  /// Takes the mark away; returns how many values lie above it.
  std::size_t above_mark() {
    if (marks_.empty()) no_pickle();
    const std::size_t count = stack_.size() - marks_.back();
    marks_.pop_back();
    return count;
  }

  /// Writers count up from 0. libtorch makes its memo as large as the largest index.
  void memorise(std::uint32_t index) {
    if (index > memo_.size()) {
      throw ModelLoadError(subject_ + " memorises as number " + std::to_string(index) +
                           " what should be number " + std::to_string(memo_.size()));
    }
    if (index == memo_.size()) memo_.emplace_back();
    memo_[index] = top();
  }

  void push_memo(std::uint32_t index) {
    if (index >= memo_.size()) no_pickle();
    push(memo_[index]);
  }

 private:
  std::string_view rest_;
  std::string subject_;
  std::string not_one_;
  std::vector<Value> stack_;
  std::vector<std::size_t> marks_;
  std::vector<Value> memo_;
};

}  // namespace ts_infer
