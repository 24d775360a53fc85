#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>

#include "archives.h"
#include "device/pinned.h"
#include "device_testing.h"
#include "ts_infer/torch.h"

namespace ts_infer {
namespace {

using namespace std::chrono_literals;
using testing::current_stream;
using testing::Delay;
using ::testing::Each;
using testing::Hold;
using testing::host_copies;
using testing::host_waits;
using testing::into;
using testing::kLinear;
using testing::load;
using testing::on_device;
using testing::on_host;
using testing::on_pinned_host;
using testing::to_device;
using testing::values;

class DeviceCopiesTest : public testing::DeviceFixture {};

TEST_F(DeviceCopiesTest, HostInputsAndOutputsGoThroughPinnedMemory) {
  Model model = load("def forward(self, x):\n    return x + 1, [x * 2]\n");
  const auto before = host_copies();
  const auto outputs = model.forward({on_host({2, 4})});
  EXPECT_EQ(host_copies().pinned, before.pinned + 3);
  EXPECT_EQ(host_copies().pageable, before.pageable);
  for (const Tensor& output : outputs) {
    EXPECT_TRUE(to_torch(output).is_pinned());
    EXPECT_THAT(values(output), Each(2.0f));
  }
}

TEST_F(DeviceCopiesTest, InputsInsideOfContainersAreStagedToo) {
  Model model = load("def forward(self, x: List[Tensor]):\n    return x[0] + x[1]\n");
  const auto before = host_copies();
  const Delay delay(2ms);
  const c10::IValue inputs(c10::List<at::Tensor>({at::full({3}, 1.0), at::full({3}, 2.0)}));
  const c10::IValue output = call(model, "forward", {inputs});
  EXPECT_TRUE(output.toTensor().eq(3).all().item<bool>());
  EXPECT_EQ(host_copies().pinned, before.pinned + 3);
  EXPECT_EQ(host_copies().pageable, before.pageable);
}

TEST_F(DeviceCopiesTest, StagingIsHeldUntilTheCopyHasRun) {
  Model model = load("def forward(self, x, y):\n    return x + y\n");
  const Delay delay(20ms);
  EXPECT_THAT(values(model.forward({on_host({8}, 1), on_host({8}, 2)})[0]), Each(3.0f));
}

TEST_F(DeviceCopiesTest, PinnedInputsAreCopiedFromWhereTheyAre) {
  const at::Tensor input = at::full({4, 4}, 1.0).pin_memory();
  EXPECT_TRUE(pinned(input).is_same(input));
  EXPECT_TRUE(pinned(input.t()).storage().is_alias_of(input.storage()));
  Model model = load(kLinear);
  const Delay delay(2ms);
  EXPECT_THAT(values(model.forward({from_torch(input)})[0]), Each(3.0f));
}

TEST_F(DeviceCopiesTest, PinnedInputsWithGapsAreStagedWithoutThem) {
  const at::Tensor part = at::full({4, 4}, 1.0).pin_memory().narrow(1, 0, 2);
  const at::Tensor staged = pinned(part);
  EXPECT_TRUE(staged.is_pinned());
  EXPECT_TRUE(staged.is_non_overlapping_and_dense());
  EXPECT_TRUE(at::equal(staged, part));
}

TEST_F(DeviceCopiesTest, PinnedBuffersReceiveOutputs) {
  Model model = load(kLinear);
  const Delay delay(5ms);
  for (const Tensor& input : {on_host({2, 4}), on_device({2, 4})}) {
    const Tensor buffer = on_pinned_host({2, 4}, 0);
    const auto before = host_copies();
    const std::size_t waits = host_waits();
    model.forward({input}, into({buffer}));
    EXPECT_EQ(host_waits(), waits + 1);
    EXPECT_EQ(host_copies().pageable, before.pageable);
    EXPECT_THAT(values(buffer), Each(3.0f));
  }
}

TEST_F(DeviceCopiesTest, PageableBuffersReceiveOutputsDirectly) {
  Model model = load(kLinear);
  const Tensor buffer = on_host({2, 4}, 0);
  const auto before = host_copies();
  model.forward({on_host({2, 4})}, into({buffer}));
  EXPECT_EQ(host_copies().pinned, before.pinned + 1);      // the input
  EXPECT_EQ(host_copies().pageable, before.pageable + 1);  // the output
  EXPECT_THAT(values(buffer), Each(3.0f));
}

TEST_F(DeviceCopiesTest, OutputsAreTheCallersWhilePinnedMemoryIsUsedAgain) {
  Model model = load(kLinear);
  const auto first = model.forward({on_host({1, 4}, 1)});
  const auto second = model.forward({on_host({1, 4}, 2)});
  EXPECT_THAT(values(first[0]), Each(3.0f));
  EXPECT_THAT(values(second[0]), Each(5.0f));
}

TEST_F(DeviceCopiesTest, PageableMemoryServesWhenPinnedMemoryIsUsedUp) {
  Model model = load(kLinear);
  model.forward({on_host({1, 4})});  // the backend has been asked whether it has any
  const testing::NoPinnedMemory none;
  const auto before = host_copies();
  const Delay delay(2ms);
  const auto outputs = model.forward({on_host({1, 4})});
  EXPECT_EQ(host_copies().pageable, before.pageable + 2);
  EXPECT_FALSE(to_torch(outputs[0]).is_pinned());
  EXPECT_THAT(values(outputs[0]), Each(3.0f));
}

TEST_F(DeviceCopiesTest, HostModelsUseNoPinnedMemory) {
  LoadOptions options;
  options.device = "cpu";
  Model model = load(kLinear, options);
  const auto before = host_copies();
  const auto outputs = model.forward({on_host({1, 4})});
  EXPECT_FALSE(to_torch(outputs[0]).is_pinned());
  EXPECT_EQ(host_copies().pinned + host_copies().pageable, before.pinned + before.pageable);
}

TEST_F(DeviceCopiesTest, AFailedCallLetsNoCopyWriteToMemoryThatIsFree) {
  Model model = load(R"(
def forward(self, x):
    return x + 1, torch.empty([2], device="meta")
)");
  const Delay delay(10ms);
  EXPECT_THROW(model.forward({on_host({4})}), ExecutionError);
  EXPECT_THROW(model.forward({on_device({4})}, to_device("cpu")), ExecutionError);
  EXPECT_TRUE(testing::free_memory_is_untouched());
}

TEST_F(DeviceCopiesTest, DeviceBuffersMayBeDroppedWhileTheGivenStreamWritesThem) {
  Model model = load(kLinear);
  const Tensor input = on_device({1, 4});
  const c10::Stream other = testing::new_stream();
  Hold hold(other);
  model.forward({input}, [&] {
    RunOptions options = into({on_device({1, 4}, 0)});
    options.stream = testing::native_handle(other);
    return options;
  }());
  testing::synchronize(current_stream());
  hold.release();
  testing::synchronize(other);
  EXPECT_TRUE(testing::free_memory_is_untouched());
}

}  // namespace
}  // namespace ts_infer
