#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "ts_infer/model.h"

namespace ts_infer::cli {

using Json = nlohmann::ordered_json;  // members stay in the order in which they are written

/// Columns that line up: text to the left, numbers to the right.
class Table {
 public:
  enum class Align { kLeft, kRight };

  explicit Table(std::vector<std::pair<std::string, Align>> columns);
  void add(std::vector<std::string> row);
  std::string to_string() const;

 private:
  std::vector<Align> aligns_;
  std::vector<std::vector<std::string>> rows_;  // the first is the titles
};

/// One line on stderr that is written over and goes away; nothing where that is no terminal.
class LiveLine {
 public:
  explicit LiveLine(bool is_wanted = true);
  ~LiveLine();
  LiveLine(const LiveLine&) = delete;
  LiveLine& operator=(const LiveLine&) = delete;

  void show(const std::string& text);

 private:
  bool is_on_;
};

/// With that many decimals.
std::string fixed(double value, int decimals = 3);

/// "22.1718", "0.0042": six significant digits at most.
std::string number(double value);

/// "3x224x224"; "scalar" for no dimensions.
std::string shape_text(const std::vector<std::int64_t>& shape);

/// "[0.25, 1, …, 3]": at most six elements.
std::string values_text(const Tensor& tensor);

/// "12.3 MB"
std::string bytes_text(std::uint64_t bytes);

std::string join(const std::vector<std::string>& parts, const std::string& separator);

/// A leaf of what a model returned.
struct Output {
  std::string name;
  Value value;
};

/// Depth-first, dict entries in their order.
std::vector<Value> leaves_of(const Value& value);

/// The leaves of `result`, with the signature's names where it has them all, else
/// output_0, output_1, …
std::vector<Output> named_outputs(const Value& result, const Signature& signature);

/// A leaf on one line, and what it is: "float32", "int", …
std::string value_text(const Value& value);
std::string type_text(const Value& value);

Json signature_json(const Signature& signature);
Json model_json(const ModelInfo& info);
Json model_json(const Model& model);
/// A leaf: type, and dtype, shape and (up to 64 of them) values of a tensor.
Json value_json(const Value& value);

/// Whether results are printed for people: not when the JSON goes to stdout.
bool prints_text(const std::string& json_path);

/// Writes `document` to the file or for "-" to stdout; "" does nothing. It is led by "schema",
/// "command" and what its figures depend on: date, machine, versions, threads inside a call, of
/// which 0 stands for torch's own number. @throws Error
void write_json(const std::string& path, const std::string& command, const Json& document,
                int intra_op_threads = 0);

}  // namespace ts_infer::cli
