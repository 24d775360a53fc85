// .npy files. What is read must be written and read again as it was.

#include "npy.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "ts_infer/error.h"

namespace {

/// A file in memory.
class File {
 public:
  File() : file_(memfd_create("fuzz", 0)) {
    if (file_ < 0) std::abort();
  }
  ~File() { close(file_); }
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  std::string path() const { return "/proc/self/fd/" + std::to_string(file_); }

  void write(const std::uint8_t* data, std::size_t size) const {
    if (::write(file_, data, size) != static_cast<ssize_t>(size)) std::abort();
  }

 private:
  int file_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const File file;
  file.write(data, size);
  ts_infer::Tensor read;
  try {
    read = ts_infer::cli::read_npy(file.path());
  } catch (const ts_infer::InputError&) {
    return 0;
  }
  const File copy;
  ts_infer::cli::write_npy(copy.path(), read);
  const ts_infer::Tensor again = ts_infer::cli::read_npy(copy.path());
  const ts_infer::Tensor host = read.to_host();
  if (again.dtype() != read.dtype() || again.shape() != read.shape() ||
      (host.nbytes() > 0 && std::memcmp(again.data_ptr(), host.data_ptr(), host.nbytes()) != 0)) {
    std::fprintf(stderr, "what was written is not what was read\n");
    std::abort();
  }
  return 0;
}
