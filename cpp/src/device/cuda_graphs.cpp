// A library of its own, libts_infer_cuda_graphs.so: libts_infer.so does not need CUDA.

#include <ATen/core/GraphImplInterface.h>
#include <ATen/cuda/CUDAGraph.h>
#include <c10/util/Exception.h>

namespace ts_infer {
namespace {

/// torch's CUDAGraph behind torch's device-independent interface.
class CudaGraph final : public at::GraphImplInterface {
 public:
  explicit CudaGraph(const at::GraphImplArgs& arguments) : graph_(arguments.keep_graph) {}

  void capture_begin(at::MempoolId_t pool, at::GraphCaptureMode mode) override {
    graph_.capture_begin(pool, mode_of(mode));
  }
  void capture_end() override { graph_.capture_end(); }
  void instantiate() override { graph_.instantiate(); }
  void replay() override { graph_.replay(); }
  void reset() override { graph_.reset(); }
  at::MempoolId_t pool() const override { return graph_.pool(); }
  void enable_debug_mode() override { graph_.enable_debug_mode(); }
  void debug_dump(const std::string& path) override { graph_.debug_dump(path); }

 private:
  static cudaStreamCaptureMode mode_of(at::GraphCaptureMode mode) {
    switch (mode) {
      case at::GraphCaptureMode::ThreadLocal:
        return cudaStreamCaptureModeThreadLocal;
      case at::GraphCaptureMode::Relaxed:
        return cudaStreamCaptureModeRelaxed;
      default:
        return cudaStreamCaptureModeGlobal;
    }
  }

  mutable at::cuda::CUDAGraph graph_;  // its pool() is not const
};

}  // namespace
}  // namespace ts_infer

namespace at {
REGISTER_GRAPH_IMPL(CUDA, ts_infer::CudaGraph)
}
