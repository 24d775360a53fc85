#include <ATen/core/GraphImplInterface.h>

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "fake_memory.h"
#include "fake_worker.h"

namespace ts_infer::testing {
namespace {

/// A pool lives as long as a graph that was captured into it.
class Pool {
 public:
  explicit Pool(c10::MempoolId_t id) : id_(id) {}
  ~Pool() { release_pool(id_); }
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  c10::MempoolId_t id() const { return id_; }

  static std::shared_ptr<Pool> find_or_create(c10::MempoolId_t id) {
    static std::mutex mutex;
    static auto* const pools = new std::map<c10::MempoolId_t, std::weak_ptr<Pool>>();
    static c10::CaptureId_t next = 1;
    const std::lock_guard<std::mutex> lock(mutex);
    if (id == c10::MempoolId_t{0, 0}) id = {next++, 0};
    std::weak_ptr<Pool>& known = (*pools)[id];
    if (auto pool = known.lock()) return pool;
    auto pool = std::make_shared<Pool>(id);
    known = pool;
    return pool;
  }

 private:
  c10::MempoolId_t id_;
};

/// What a stream got during the capture, which each replay enqueues again on the current stream.
class FakeGraph final : public at::GraphImplInterface {
 public:
  explicit FakeGraph(const at::GraphImplArgs& /*arguments*/) {}

  void capture_begin(c10::MempoolId_t pool, at::GraphCaptureMode /*mode*/) override {
    pool_ = Pool::find_or_create(pool);
    capture_.emplace(current_worker({kFake, current_device_index()}), pool_->id());
  }
  void capture_end() override {
    tasks_ = capture_->take_tasks();
    capture_.reset();
  }
  void instantiate() override {}
  void replay() override {
    // One piece of work for the host, however many operators there are.
    current_worker({kFake, current_device_index()}).enqueue_work([tasks = tasks_] {
      for (const auto& task : tasks) task();
    });
  }
  void reset() override { tasks_.clear(); }
  c10::MempoolId_t pool() const override { return pool_->id(); }
  void enable_debug_mode() override {}
  void debug_dump(const std::string& /*path*/) override {}

 private:
  std::shared_ptr<Pool> pool_;
  std::optional<Capture> capture_;
  std::vector<std::function<void()>> tasks_;
};

}  // namespace
}  // namespace ts_infer::testing

namespace at {
// The name that fake_device.cpp gives its backend.
REGISTER_GRAPH_IMPL(FAKE, ts_infer::testing::FakeGraph)
}  // namespace at
