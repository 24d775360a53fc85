#include "ts_infer/model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/autocast_mode.h>

#include <atomic>
#include <thread>

#include "archives.h"
#include "ts_infer/benchmark.h"
#include "ts_infer/torch.h"

namespace ts_infer {
namespace {

using testing::archive;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::load_bytes;
using testing::message_of;

constexpr const char* kLinear = R"(
def forward(self, x):
    return torch.relu(torch.matmul(x, self.weight)) + 1
)";

constexpr const char* kAddManifest = R"({
  "schema": 1, "name": "linear", "method": "script", "versions": {"torch": "2.13.0"},
  "inputs": [{"name": "x", "type": "Tensor", "dtype": "float32",
              "shape": [{"name": "batch", "min": 2, "max": 8}, 4]}],
  "outputs": [{"name": "y", "dtype": "float32", "shape": [{"name": "batch", "min": 2, "max": 8}, 4]}],
  "methods": ["forward"], "warmup_shapes": [{"x": [8, 4]}]})";

Tensor ones(const std::vector<std::int64_t>& shape) {
  std::int64_t count = 1;
  for (const std::int64_t size : shape) count *= size;
  return Tensor::from_vector(std::vector<float>(static_cast<std::size_t>(count), 1.0f), shape);
}

std::vector<float> values(const Tensor& tensor) {
  const Tensor host = tensor.to_host();
  return {host.data<float>(), host.data<float>() + host.numel()};
}

TEST(ModelTest, ForwardReturnsWhatTheModuleComputes) {
  Model model = load_bytes(archive(kLinear));
  const auto outputs = model.forward({ones({1, 4})});
  ASSERT_EQ(outputs.size(), 1u);
  EXPECT_THAT(outputs[0].shape(), ElementsAre(1, 4));
  EXPECT_THAT(values(outputs[0]), ElementsAre(3, 3, 3, 3));
}

TEST(ModelTest, LoadsFromAFileToo) {
  const std::string path = testing::write_file("linear.pt", archive(kLinear));
  Model model = Model::load(path);
  EXPECT_EQ(model.info().name, "linear");
  EXPECT_EQ(model.info().path, path);
  EXPECT_THAT(values(model.forward({ones({1, 4})})[0]), ElementsAre(3, 3, 3, 3));
}

TEST(ModelTest, InputsHaveMemoryForEveryElement) {
  Model model = load_bytes(archive(kLinear));
  at::Tensor emptied = at::ones({2, 4});
  emptied.storage().unsafeGetStorageImpl()->set_nbytes(3 * sizeof(float));
  EXPECT_THAT(message_of<InputError>([&] { model.forward({from_torch(emptied)}); }),
              HasSubstr("expected memory for every element of shape [2, 4] with strides [4, 1], "
                        "got 3 elements"));
  const at::Tensor far = at::ones({2, 4});
  const std::vector<std::int64_t> strides = {std::int64_t{1} << 62, 4};
  far.unsafeGetTensorImpl()->set_sizes_and_strides(far.sizes().vec(), at::IntArrayRef(strides));
  EXPECT_THROW(model.forward({from_torch(far)}), InputError);
  EXPECT_THROW(model.call({Value(from_torch(far))}), InputError);
  EXPECT_THROW(call(model, "forward", {far}), InputError);
}

TEST(ModelTest, ListsAreLookedIntoToo) {
  Model model = load_bytes(archive("def forward(self, x: List[Tensor]):\n    return x[0] + 1\n"));
  at::Tensor emptied = at::ones({2, 4});
  emptied.storage().unsafeGetStorageImpl()->set_nbytes(0);
  EXPECT_THROW(model.call({Value(Value::List{{Value(from_torch(emptied))}})}), InputError);
}

TEST(ModelTest, InputsThatStandForTheirNegativesAreReadAsWhatTheyAre) {
  Model model = load_bytes(archive(kLinear));
  const at::Tensor values = at::arange(4, at::kFloat).reshape({1, 4});
  const at::Tensor negated = at::_neg_view(-values);
  EXPECT_TRUE(at::allclose(to_torch(model.forward({from_torch(negated)})[0]),
                           to_torch(model.forward({from_torch(values)})[0])));
}

TEST(ModelTest, OutputsHoldTheirValues) {
  Model model = load_bytes(archive("def forward(self, x):\n    return torch.conj(x), x\n"));
  const at::Tensor x = at::complex(at::ones({2}), at::ones({2}));
  const auto outputs = model.forward({from_torch(x)});
  EXPECT_FALSE(to_torch(outputs[0]).is_conj());
  EXPECT_TRUE(at::equal(to_torch(outputs[0]), x.conj()));
}

TEST(ModelTest, ValuesNestOnlySoDeep) {
  Model model = load_bytes(archive("def forward(self, x: Any):\n    return isinstance(x, int)\n"));
  const auto nested = [](int levels) {
    Value value(std::int64_t{1});
    for (int i = 0; i < levels; ++i) value = Value(Value::List{{std::move(value)}});
    return value;
  };
  EXPECT_FALSE(model.call({nested(1000)}).as_bool());
  EXPECT_THAT(message_of<InputError>([&] { model.call({nested(1001)}); }),
              HasSubstr("input \"x\": expected containers that nest at most 1000 deep"));
}

TEST(ModelTest, ResultsThatNestTooDeepAreAnExecutionError) {
  Model model = load_bytes(archive(R"(
def forward(self, n: int):
    outer: List[Any] = [n]
    for i in range(n):
        inner: List[Any] = [outer]
        outer = inner
    return outer
)"));
  EXPECT_TRUE(model.call({Value(std::int64_t{10})}).is_list());
  EXPECT_THAT(message_of<ExecutionError>([&] { model.call({Value(std::int64_t{2000})}); }),
              HasSubstr("nest at most 1000 deep"));
}

TEST(ModelTest, EveryExecutorComputesTheSame) {
  for (const char* executor :
       {"prepared", "legacy", "simple", "profiling", "profiling-no-fusion"}) {
    LoadOptions options;
    options.executor = executor;
    Model model = load_bytes(archive(kLinear), options);
    EXPECT_EQ(model.info().executor, executor);
    for (int call = 0; call < 4; ++call) {
      EXPECT_THAT(values(model.forward({ones({1, 4})})[0]), ElementsAre(3, 3, 3, 3)) << executor;
    }
  }
}

TEST(ModelTest, OutputsAreOrdinaryTensors) {
  Model model = load_bytes(archive(kLinear));
  at::Tensor output = to_torch(model.forward({ones({1, 4})})[0]);
  EXPECT_FALSE(output.is_inference());
  output += 1;  // an inference tensor refuses this
  EXPECT_EQ(output[0][0].item<float>(), 4.0f);
}

TEST(ModelTest, OutputsAreOrdinaryInsideTheHostsInferenceMode) {
  const c10::InferenceMode guard;
  Model model = load_bytes(archive(kLinear));
  EXPECT_FALSE(to_torch(model.forward({ones({1, 4})})[0]).is_inference());
}

TEST(ModelTest, OutputsNeverAliasWeightsStateOrInputs) {
  Model model = load_bytes(archive(R"(
def forward(self, x):
    return self.weight, self.state, x, x[0]
)"));
  const Tensor input = ones({2, 4});
  for (Tensor output : model.forward({input})) to_torch(output).fill_(7);
  EXPECT_THAT(values(input), ::testing::Each(1.0f));
  const auto again = model.forward({input});
  EXPECT_THAT(values(again[0]), ::testing::Each(0.5f));
  EXPECT_THAT(values(again[1]), ::testing::Each(0.0f));
}

TEST(ModelTest, OutputsOutliveTheModel) {
  std::vector<Tensor> outputs;
  {
    Model model = load_bytes(archive(kLinear));
    outputs = model.forward({ones({1, 4})});
  }
  EXPECT_THAT(values(outputs[0]), ElementsAre(3, 3, 3, 3));
}

TEST(ModelTest, OutputsOfOneStorageShareItLikeTorch) {
  Model model = load_bytes(archive(R"(
def forward(self, x):
    y = x + 1
    return y, y[0]
)"));
  const auto outputs = model.forward({ones({2, 4})});
  to_torch(outputs[0]).fill_(5);
  EXPECT_THAT(values(outputs[1]), ::testing::Each(5.0f));
}

TEST(ModelTest, NestedOutputsAreFlattenedDepthFirst) {
  Model model = load_bytes(archive(R"(
def forward(self, x):
    return {"b": [x + 1, x + 2], "a": [x + 3]}, (x + 4, x + 5)
)"));
  std::vector<float> firsts;
  for (const Tensor& output : model.forward({ones({1})})) firsts.push_back(values(output)[0]);
  EXPECT_THAT(firsts, ElementsAre(2, 3, 4, 5, 6));
}

TEST(ModelTest, ForwardNamesCallWhenAnOutputIsNoTensor) {
  Model model = load_bytes(archive("def forward(self, x):\n    return x, 3\n"));
  EXPECT_THAT(message_of<InputError>([&] { model.forward({ones({1})}); }), HasSubstr("call()"));
  EXPECT_EQ(model.call({ones({1})}).at(1).as_int(), 3);
}

/// As torch's fast path of attention does for weights that nobody needs.
at::Tensor make_nothing(const at::Tensor&) { return {}; }

TORCH_LIBRARY(ts_infer_model_test, library) {
  library.def("nothing(Tensor x) -> Tensor", make_nothing);
}

TEST(ModelTest, AnUndefinedOutputIsNone) {
  for (const char* result : {"y, x", "[y, x]", "{\"a\": y, \"b\": x}", "(y, (x, y))", "y"}) {
    SCOPED_TRACE(result);
    const std::string source = std::string(R"(
def forward(self, x):
    y = ts_infer_model_test.nothing(x)
    return )") + result + '\n';
    Model model = load_bytes(archive(source));
    const Value got = model.call({ones({2})});
    const Value& first = got.is_dict() ? got.at("a") : got.is_none() ? got : got.at(0);
    EXPECT_TRUE(first.is_none());
    EXPECT_THAT(message_of<InputError>([&] { model.forward({ones({2})}); }), HasSubstr("call()"));
    if (got.is_none()) continue;
    std::vector<float> buffer(2);
    RunOptions options;
    options.outputs = {Tensor::from_blob(buffer.data(), DType::kFloat32, {2})};
    model.forward({ones({2})}, options);
    EXPECT_THAT(buffer, ElementsAre(1, 1));
  }
}

TEST(ModelTest, CallTakesEveryTypeNested) {
  Model model = load_bytes(archive(R"(
def forward(self, flag: bool, count: int, scale: float, label: str, sizes: List[int],
            tables: Dict[str, List[Tensor]], pair: Tuple[int, Tensor], maybe: Optional[Tensor],
            device: Device, z: complex):
    total = tables["a"][0] * scale + pair[1] + count + sizes[1]
    if maybe is not None:
        total = total + maybe
    return {"total": total}, flag, label + "!", [float(count)], device, z
)"));
  const Value::Dict tables = {{"a", Value::List{ones({2})}}};
  const Value result =
      model.call({true, 2, 0.5, "name", Value::List{10, 20}, tables,
                  Value::Tuple{{1, ones({2})}, {}}, nullptr, "cpu", std::complex<double>(1, 2)});
  EXPECT_THAT(values(result.at(0).at("total").as_tensor()), ElementsAre(23.5, 23.5));
  EXPECT_TRUE(result.at(1).as_bool());
  EXPECT_EQ(result.at(2).as_string(), "name!");
  EXPECT_EQ(result.at(3).at(0).as_double(), 2.0);
  EXPECT_EQ(result.at(4).as_string(), "cpu");
  EXPECT_EQ(result.at(5).as_complex(), std::complex<double>(1, 2));
}

TEST(ModelTest, CallTakesArgumentsByNameAndDefaults) {
  Model model =
      load_bytes(archive("def forward(self, x, scale: float = 2.0):\n    return x * scale\n"));
  EXPECT_THAT(values(model.call({}, {{"x", ones({1})}}).as_tensor()), ElementsAre(2));
  EXPECT_THAT(values(model.call({ones({1})}, {{"scale", 3}}).as_tensor()), ElementsAre(3));
}

TEST(ModelTest, CallSaysWhichElementHasTheWrongType) {
  Model model = load_bytes(archive("def forward(self, x: List[Tensor]):\n    return x[0]\n"));
  EXPECT_THAT(message_of<InputError>([&] {
                model.call({Value::List{ones({1}), 3}});
              }),
              HasSubstr("input \"x[1]\": expected Tensor, got int"));
}

constexpr const char* kNestedManifest = R"({"schema": 1, "name": "nested", "inputs": [
  {"name": "sensors", "type": "Dict[str, Tensor]", "leaves": [
    {"name": "sensors.imu", "dtype": "float32", "shape": [{"name": "b", "min": 1, "max": 4}, 3]},
    {"name": "sensors.gps", "dtype": "float32", "shape": [3]}]},
  {"name": "x", "dtype": "float32", "shape": [{"name": "b", "min": 1, "max": 4}, 1]}]})";

TEST(ModelTest, CallHoldsTheLeavesOfContainersAgainstTheManifest) {
  Model model =
      load_bytes(archive("def forward(self, sensors: Dict[str, Tensor], x):\n"
                         "    return (sensors[\"imu\"] + sensors[\"gps\"]) * x\n",
                         kNestedManifest));
  const auto refusal = [&](const Value::Dict& sensors, const Tensor& x) {
    return message_of<InputError>([&] { model.call({sensors, x}); });
  };
  EXPECT_THAT(refusal({{"imu", ones({8, 3})}, {"gps", ones({3})}}, ones({8, 1})),
              HasSubstr("input \"sensors.imu\": dimension 0: expected 1 or more and at most 4"));
  EXPECT_THAT(refusal({{"imu", ones({2, 3})}}, ones({2, 1})),
              HasSubstr("input \"sensors.gps\": expected a value, got a dict without this key"));
  EXPECT_THAT(refusal({{"imu", ones({2, 3})}, {"gps", 3}}, ones({2, 1})),
              HasSubstr("input \"sensors.gps\": expected Tensor, got int"));
  EXPECT_THAT(refusal({{"imu", ones({2, 3})}, {"gps", ones({3})}}, ones({3, 1})),
              HasSubstr("input \"x\": dimension 0: expected 2, as \"b\" is elsewhere"));
  const Value::Dict fine = {{"gps", ones({3})}, {"imu", ones({1, 3})}};
  EXPECT_THAT(values(model.call({fine, ones({1, 1})}).as_tensor()), ElementsAre(2, 2, 2));
}

TEST(ModelTest, RandomInputsPutContainersTogether) {
  Model model =
      load_bytes(archive("def forward(self, sensors: Dict[str, Tensor], x):\n"
                         "    return (sensors[\"imu\"] + sensors[\"gps\"]) * x\n",
                         kNestedManifest));
  const std::vector<Value> drawn =
      random_inputs(model, {{"sensors.imu", {2, 3}}}, /*seed=*/0, {{"sensors.gps", ones({3})}});
  EXPECT_THAT(drawn.at(0).at("imu").as_tensor().shape(), ElementsAre(2, 3));
  EXPECT_THAT(values(drawn.at(0).at("gps").as_tensor()), ElementsAre(1, 1, 1));
  EXPECT_THAT(drawn.at(1).as_tensor().shape(), ElementsAre(2, 1));
  EXPECT_EQ(model.call(drawn).as_tensor().shape(), (std::vector<std::int64_t>{2, 3}));
}

TEST(ModelTest, CallRefusesUnknownMissingAndDoubleArguments) {
  Model model = load_bytes(archive(kLinear));
  EXPECT_THAT(message_of<InputError>([&] {
                model.call({}, {{"y", ones({1, 4})}});
              }),
              HasSubstr("unknown one, \"y\"\ninputs:\n  x: Tensor"));
  EXPECT_THAT(message_of<InputError>([&] { model.call({}); }),
              HasSubstr("input \"x\": expected a value, got none"));
  EXPECT_THAT(message_of<InputError>([&] {
                model.call({ones({1, 4})}, {{"y", ones({1})}});
              }),
              HasSubstr("unknown one, \"y\""));
  EXPECT_THAT(message_of<InputError>([&] {
                model.call({ones({1, 4})}, {{"x", ones({1})}});
              }),
              HasSubstr("one by position and one by name"));
  EXPECT_THAT(message_of<InputError>([&] {
                model.forward({ones({1}), ones({1})});
              }),
              HasSubstr("1 inputs at most, got 2"));
}

TEST(ModelTest, ManifestGivesTheSignature) {
  Model model = load_bytes(archive(kLinear, kAddManifest));
  EXPECT_EQ(model.info().name, "linear");
  EXPECT_EQ(model.signature().inputs[0].to_string(), "x: float32[batch=2..8, 4]");
  EXPECT_EQ(model.signature().outputs[0].name, "y");
}

TEST(ModelTest, ManifestIsCheckedAgainstInputs) {
  Model model = load_bytes(archive(kLinear, kAddManifest));
  const auto error_of = [&](const Tensor& input) {
    return message_of<InputError>([&] { model.forward({input}); });
  };
  EXPECT_THAT(error_of(Tensor::from_vector(std::vector<double>(8), {2, 4})),
              HasSubstr("input \"x\": dtype: expected float32, got float64"));
  EXPECT_THAT(error_of(ones({4})), HasSubstr("rank: expected 2, got 1 in shape [4]"));
  EXPECT_THAT(error_of(ones({2, 3})), HasSubstr("dimension 1: expected 4, got 3"));
  EXPECT_THAT(error_of(ones({9, 4})), HasSubstr("2 or more and at most 8 (batch), got 9"));
  EXPECT_THAT(error_of(ones({9, 4})), HasSubstr("x: float32[batch=2..8, 4]"));
  EXPECT_THAT(error_of(Tensor()), HasSubstr("undefined"));
  EXPECT_EQ(model.forward({ones({2, 4})}).size(), 1u);
}

TEST(ModelTest, EqualDimNamesMeanEqualSizes) {
  constexpr const char* kTwoInputs = R"({"schema": 1, "name": "add",
    "inputs": [{"name": "a", "dtype": "float32", "shape": [{"name": "n", "min": 1, "max": null}]},
               {"name": "b", "dtype": "float32", "shape": [{"name": "n", "min": 1, "max": null}]}],
    "outputs": []})";
  Model model =
      load_bytes(archive("def forward(self, a, b):\n    return a.sum() + b.sum()\n", kTwoInputs));
  EXPECT_THAT(message_of<InputError>([&] {
                model.forward({ones({2}), ones({3})});
              }),
              HasSubstr("input \"b\": dimension 0: expected 2, as \"n\" is elsewhere"));
  EXPECT_THAT(values(model.forward({ones({3}), ones({3})})[0]), ElementsAre(6));
}

TEST(ModelTest, ExceptionInsideTheModelIsAnExecutionErrorWithoutStackTrace) {
  Model model = load_bytes(archive(kLinear));
  const std::string message = message_of<ExecutionError>([&] { model.forward({ones({3, 5})}); });
  EXPECT_THAT(message, HasSubstr("[call] model: "));
  EXPECT_THAT(message, HasSubstr("mat1 and mat2 shapes cannot be multiplied"));
  EXPECT_THAT(message, ::testing::Not(HasSubstr("frame #")));
  EXPECT_THAT(message, ::testing::Not(HasSubstr("Exception raised from")));
  EXPECT_THAT(values(model.forward({ones({1, 4})})[0]), ElementsAre(3, 3, 3, 3));
}

TEST(ModelTest, RaiseInsideTheModelIsAnExecutionError) {
  Model model = load_bytes(archive(R"(
def forward(self, x):
    assert bool(x.sum() < 100), "too much"
    return x
)"));
  EXPECT_THAT(message_of<ExecutionError>([&] { model.forward({ones({200})}); }),
              HasSubstr("too much"));
  EXPECT_EQ(model.forward({ones({2})}).size(), 1u);
}

TEST(ModelTest, CallerBuffersReceiveTheOutputs) {
  Model model = load_bytes(archive(kLinear));
  std::vector<float> memory(4);
  RunOptions options;
  options.outputs = {Tensor::from_blob(memory.data(), DType::kFloat32, {1, 4})};
  const auto outputs = model.forward({ones({1, 4})}, options);
  EXPECT_THAT(memory, ElementsAre(3, 3, 3, 3));
  EXPECT_EQ(outputs[0].data_ptr(), memory.data());
  options.outputs = {Tensor::empty(DType::kFloat32, {2, 4})};
  EXPECT_THAT(message_of<InputError>([&] {
                model.forward({ones({1, 4})}, options);
              }),
              HasSubstr("outputs[0]: expected a buffer of float32[1, 4], got float32[2, 4]"));
}

TEST(ModelTest, CallerBuffersHaveRoomOfTheirOwn) {
  Model model = load_bytes(archive("def forward(self, x):\n    return x + 1, x + 2\n"));
  std::vector<float> memory(8, 1.0f);
  const auto buffer = [&](std::size_t offset, const std::vector<std::int64_t>& strides = {}) {
    return Tensor::from_blob(memory.data() + offset, DType::kFloat32, {4}, strides);
  };
  RunOptions options;
  options.outputs = {buffer(0), buffer(3)};
  EXPECT_THAT(message_of<InputError>([&] { model.forward({ones({4})}, options); }),
              HasSubstr("outputs[1]: expected memory of its own, got memory of outputs[0]"));
  options.outputs = {buffer(0, {0}), buffer(4)};
  EXPECT_THAT(message_of<InputError>([&] { model.forward({ones({4})}, options); }),
              HasSubstr("outputs[0]: expected a buffer with room for each element"));
  EXPECT_THAT(memory, ::testing::Each(1.0f));
  // What goes in may receive what comes out.
  options.outputs = {buffer(0), buffer(4)};
  model.forward({buffer(0)}, options);
  EXPECT_THAT(memory, ElementsAre(2, 2, 2, 2, 3, 3, 3, 3));
}

TEST(ModelTest, MethodsRunByName) {
  Model model = load_bytes(archive(R"(
def forward(self, x):
    return x + self.state
def double(self, x, times: int):
    return x * (2 * times)
)"));
  EXPECT_THAT(model.method_names(), ::testing::UnorderedElementsAre("forward", "double"));
  EXPECT_THAT(values(model.run_method("double", {ones({1}), 3}).as_tensor()), ElementsAre(6));
  EXPECT_THAT(message_of<InputError>([&] { model.run_method("triple"); }),
              HasSubstr("got \"triple\""));
}

TEST(ModelTest, StatsCountForwardAndCall) {
  Model model = load_bytes(archive(kLinear));
  for (int i = 0; i < 70; ++i) model.forward({ones({1, 4})});
  model.call({ones({1, 4})});
  const LatencyStats stats = model.stats();
  EXPECT_EQ(stats.count, 71u);
  EXPECT_EQ(stats.first_calls_ms.size(), 64u);
  EXPECT_GT(stats.p50_ms, 0);
  EXPECT_LE(stats.p50_ms, stats.p90_ms);
  EXPECT_LE(stats.p99_ms, stats.max_ms);
  EXPECT_LE(stats.compute_ms, stats.mean_ms);
  EXPECT_EQ(stats.h2d_ms, 0);
  model.reset_stats();
  EXPECT_EQ(model.stats().count, 0u);
}

TEST(ModelTest, OnTimingHearsOfEveryCall) {
  std::vector<Timing> heard;
  LoadOptions options;
  options.name = "gate";
  options.on_timing = [&](const Timing& timing) { heard.push_back(timing); };
  Model model = load_bytes(archive(kLinear), options);
  model.forward({ones({1, 4})});
  model.forward({ones({1, 4})});
  ASSERT_EQ(heard.size(), 2u);
  EXPECT_EQ(heard[1].call, 2u);
  EXPECT_GE(heard[0].total_ms, heard[0].compute_ms);
  EXPECT_THAT(heard[0].log_line(),
              ::testing::MatchesRegex("gate inference used time: [0-9.e-]+ ms\\."));
}

TEST(ModelTest, AnExceptionInOnTimingIsLoggedAndDropped) {
  std::vector<std::string> messages;
  LoadOptions options;
  options.on_timing = [](const Timing&) { throw std::runtime_error("bad callback"); };
  options.on_log = [&](LogLevel, const std::string& message) { messages.push_back(message); };
  Model model = load_bytes(archive(kLinear), options);
  EXPECT_EQ(model.forward({ones({1, 4})}).size(), 1u);
  EXPECT_THAT(messages.back(), HasSubstr("on_timing threw"));
}

TEST(ModelTest, WarningsOfLibtorchGoToOnLog) {
  std::vector<std::string> messages;
  LoadOptions options;
  options.on_log = [&](LogLevel level, const std::string& message) {
    if (level == LogLevel::kWarning) messages.push_back(message);
  };
  Model model = load_bytes(archive(R"(
def forward(self, x):
    torch.warn("look out", 2)
    return x
)"),
                           options);
  ::testing::internal::CaptureStderr();
  model.forward({ones({1})});
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "");
  ASSERT_EQ(messages.size(), 1u);
  EXPECT_THAT(messages[0], HasSubstr("look out"));
}

TEST(ModelTest, IntraOpThreadsArePutBack) {
  const int before = at::get_num_threads();
  LoadOptions options;
  options.intra_op_threads = before + 1;
  Model model = load_bytes(archive(kLinear), options);
  model.forward({ones({1, 4})});
  EXPECT_EQ(at::get_num_threads(), before);
}

TEST(ModelTest, AutocastOfTheHostIsLeftOutside) {
  Model model = load_bytes(archive(kLinear));
  at::autocast::set_autocast_enabled(at::kCPU, true);
  const auto outputs = model.forward({ones({1, 4})});
  EXPECT_TRUE(at::autocast::is_autocast_enabled(at::kCPU));
  at::autocast::set_autocast_enabled(at::kCPU, false);
  EXPECT_EQ(outputs[0].dtype(), DType::kFloat32);
}

TEST(ModelTest, TrainModeArchiveRunsInEvalModeAndSaysSo) {
  auto module = testing::make_module(R"(
def forward(self, x):
    return torch.dropout(x, 0.5, self.training)
)");
  module.train();
  const std::string bytes = testing::save(module);
  for (const bool optimize : {true, false}) {
    std::vector<std::string> warnings;
    LoadOptions options;
    options.optimize = optimize;
    options.on_log = [&](LogLevel level, const std::string& message) {
      if (level == LogLevel::kWarning) warnings.emplace_back(message);
    };
    Model model = load_bytes(bytes, options);
    EXPECT_THAT(warnings, ::testing::ElementsAre(HasSubstr("train mode")));
    EXPECT_THAT(values(model.forward({ones({64})})[0]), ::testing::Each(1.0f));
    EXPECT_THAT(model.info().decisions, ::testing::Contains(HasSubstr("train mode")));
  }
}

TEST(ModelTest, TrainModeThatNoCodeAsksForIsNotSpokenOf) {
  auto module = testing::make_module(R"(
def forward(self, x):
    return x + 1
)");
  module.train();
  Model model = load_bytes(testing::save(module));
  EXPECT_THAT(model.info().decisions, ::testing::Not(::testing::Contains(HasSubstr("train mode"))));
}

TEST(ModelTest, ForwardIsSafeFromManyThreads) {
  Model model = load_bytes(archive(kLinear));
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 50; ++i) {
        const Tensor input =
            Tensor::from_vector(std::vector<float>(4, static_cast<float>(t)), {1, 4});
        if (values(model.forward({input})[0])[0] != 2.0f * static_cast<float>(t) + 1) ++wrong;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
  EXPECT_EQ(model.stats().count, 200u);
}

TEST(ModelTest, UnknownDeviceOrExecutorIsAModelLoadErrorThatListsWhatIsThere) {
  LoadOptions options;
  options.device = "cuda:7";
  EXPECT_THAT(message_of<ModelLoadError>([&] { load_bytes(archive(kLinear), options); }),
              HasSubstr("device: expected cpu, got \"cuda:7\""));
  options.device = "toaster";
  EXPECT_THAT(message_of<ModelLoadError>([&] { load_bytes(archive(kLinear), options); }),
              HasSubstr("got \"toaster\""));
  options.device = "cpu";
  options.executor = "fast";
  EXPECT_THAT(message_of<ModelLoadError>([&] { load_bytes(archive(kLinear), options); }),
              HasSubstr("executor: expected prepared or legacy or simple"));
}

TEST(ModelTest, ThreadsBeyondReasonAreALoadError) {
  for (const int threads : {-1, 4097, 2'000'000'000}) {
    LoadOptions options;
    options.intra_op_threads = threads;
    EXPECT_THAT(message_of<ModelLoadError>([&] { load_bytes(archive(kLinear), options); }),
                HasSubstr("intra_op_threads: expected 0 to 4096, got " + std::to_string(threads)));
  }
}

/// Has `groups` groups.
void check_convolution(std::int64_t groups, const char* decision) {
  torch::jit::Module module("Conv");
  module.register_attribute("training", c10::BoolType::get(), false);
  module.register_attribute("groups", c10::IntType::get(), groups);
  const at::Tensor weight = at::arange(72 / groups, at::kFloat).reshape({4, 2 / groups, 3, 3}) / 72;
  module.register_parameter("weight", weight, false);
  module.define(R"(
def forward(self, x):
    return torch.relu(torch.conv2d(x, self.weight, None, [1, 1], [1, 1], [1, 1], self.groups))
)");
  module.eval();
  const std::string bytes = testing::save(module);
  LoadOptions plain;
  plain.optimize = false;
  Model reference = load_bytes(bytes, plain);
  Model optimised = load_bytes(bytes);
  EXPECT_TRUE(optimised.info().optimized);
  EXPECT_FALSE(reference.info().optimized);
  EXPECT_THAT(optimised.info().decisions, ::testing::Contains(HasSubstr(decision)));
  const Tensor input = ones({1, 2, 8, 8});
  const at::Tensor expected = to_torch(reference.forward({input})[0]);
  EXPECT_TRUE(at::allclose(to_torch(optimised.forward({input})[0]), expected, 1e-5, 1e-6));
}

TEST(ModelTest, OptimisedConvolutionComputesTheSame) {
  check_convolution(1, "own kernels, weights packed, for 1 convolution");
}

TEST(ModelTest, ConvolutionWithSmallGroupsStaysTorchs) { check_convolution(2, "frozen"); }

}  // namespace
}  // namespace ts_infer
