#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "inputs.h"
#include "ts_infer/model.h"

namespace ts_infer::cli {

/// Of the process; 128 and the signal's number where one stopped it.
enum ExitCode {
  kOk = 0,
  kOther = 1,
  kUsage = 2,
  kModelLoad = 3,
  kInput = 4,
  kExecution = 5,
  kOutputsDiffer = 7
};

/// What run, bench and verify share.
struct ModelArguments {
  std::string model;
  std::string device = "auto";
  std::string executor = "prepared";
  std::string precision = "fp32";
  int intra_op_threads = 0;
  bool no_optimize = false;
  std::vector<std::string> disabled_passes;
  std::string warmup = "fast";
  double warmup_budget_s = 10;
  std::uint64_t warmup_bytes = std::uint64_t{1} << 30;
  bool verify = false;
  bool no_reuse_memory = false;
  bool no_map_weights = false;
  bool graphs = false;
  std::vector<std::string> limits;  // NAME=N
  std::vector<std::string> allow_operators;
  std::vector<std::string> libraries;
  std::string json;  // "": none, "-": stdout
};

struct RunArguments {
  ModelArguments common;
  InputArguments inputs;
  std::string output_dir;
  std::int64_t iterations = 1;
  bool quiet = false;
};

struct BenchArguments {
  ModelArguments common;
  InputArguments inputs;
  int concurrency = 1;
  double rate_qps = 0;
  std::int64_t skip = 10;
  double duration_s = 5;
  bool log_calls = false;
  bool sweep = false;
};

struct ColdStartArguments {
  ModelArguments common;
  std::vector<std::string> shapes;  // NAME=1x3x224x224, of constant sizes
  std::uint64_t seed = 0;
  std::int64_t calls = 25;
  std::string child;  // "constant" or "changing": of the process that makes one run
};

struct VerifyArguments {
  ModelArguments common;
  std::string sha256;  // "": not compared
};

struct InspectArguments {
  std::string model;
  std::vector<std::string> limits;
  bool code = false;
  std::string json;
};

struct EnvArguments {
  std::string json;
};

/// What verify throws where outputs differ from the golden sample.
struct OutputsDiffer {
  std::string message;
};

/// Each prints its results on stdout and throws what goes wrong.
void run(const RunArguments& arguments);
void bench(const BenchArguments& arguments);
void sweep(const BenchArguments& arguments);  // bench --sweep
void coldstart(const ColdStartArguments& arguments);
void verify(const VerifyArguments& arguments);
void inspect(const InspectArguments& arguments);
void env(const EnvArguments& arguments);

/// Of "members=200000" and so on. @throws std::invalid_argument
ArchiveLimits archive_limits(const std::vector<std::string>& texts);

/// Options as run, bench and verify load with; warnings go to stderr.
LoadOptions load_options(const ModelArguments& arguments);

/// "cell on cpu, executor prepared"; with the precision that serves where one was asked for.
std::string model_text(const ModelArguments& arguments, const ModelInfo& info);

/// Says on stderr what came of a precision that was asked for.
void note_precision(const ModelArguments& arguments, const ModelInfo& info);

/// Loads, and shows on a terminal what is being done.
Model load_model(const ModelArguments& arguments, LoadOptions options);

/// A model argument that is not the default: as flags, and as an assignment to a field of
/// LoadOptions.
struct Setting {
  std::vector<std::string> flags;
  std::string assignment;
};
std::vector<Setting> settings(const ModelArguments& arguments);

/// The settings of a JSON document.
Json options_json(const ModelArguments& arguments);

}  // namespace ts_infer::cli
