#include "intra_op_threads.h"

#include <ATen/Parallel.h>

#include <future>
#include <thread>
#include <vector>

#include "ts_infer/model.h"

#ifdef INTRA_OP_PARALLEL  // torch's own OpenMP is linked
#include <omp.h>

extern "C" int MKL_Set_Num_Threads_Local(int) __attribute__((weak));  // where torch has MKL
#endif

namespace ts_infer {

bool can_start_threads(int count) {
  std::promise<void> all_started;
  const std::shared_future<void> release = all_started.get_future().share();
  std::vector<std::thread> threads;
  bool can = true;
  try {
    while (static_cast<int>(threads.size()) < count) {
      threads.emplace_back([release] { release.wait(); });
    }
  } catch (const std::exception&) {  // of threads or of memory
    can = false;
  }
  all_started.set_value();
  for (std::thread& thread : threads) thread.join();
  return can;
}

int default_intra_op_threads() { return at::get_num_threads(); }

IntraOpThreads::IntraOpThreads(int count) : before_(count > 0 ? at::get_num_threads() : 0) {
  if (before_ == 0) return;
#ifdef INTRA_OP_PARALLEL
  omp_set_num_threads(count);
  if (MKL_Set_Num_Threads_Local) mkl_before_ = MKL_Set_Num_Threads_Local(count);
#else
  at::set_num_threads(count);
#endif
}

IntraOpThreads::~IntraOpThreads() {
  if (before_ == 0) return;
#ifdef INTRA_OP_PARALLEL
  omp_set_num_threads(before_);
  if (MKL_Set_Num_Threads_Local) MKL_Set_Num_Threads_Local(mkl_before_);
#else
  at::set_num_threads(before_);
#endif
}

}  // namespace ts_infer
