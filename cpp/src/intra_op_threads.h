#pragma once

namespace ts_infer {

/// Whether so many threads can run at once beside those that do. Starts them to find out: where
/// OpenMP cannot have one, it ends the process.
bool can_start_threads(int count);

/// The intra-op threads of the calling thread while it lives. 0 leaves them alone.
///
/// at::set_num_threads does more: it changes what threads get that begin later, so that calls that
/// overlap would put back the wrong number, and it empties oneDNN's cache of primitives.
class IntraOpThreads {
 public:
  explicit IntraOpThreads(int count);
  ~IntraOpThreads();
  IntraOpThreads(const IntraOpThreads&) = delete;
  IntraOpThreads& operator=(const IntraOpThreads&) = delete;

 private:
  int before_;                           // 0: nothing was set
  [[maybe_unused]] int mkl_before_ = 0;  // of MKL's own setting for the thread; 0: none
};

}  // namespace ts_infer
