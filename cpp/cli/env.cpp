#include <iostream>

#include "commands.h"
#include "machine.h"
#include "ts_infer/version.h"

namespace ts_infer::cli {

void env(const EnvArguments& arguments) {
  const Machine machine = this_machine();
  const std::vector<std::string> devices = available_devices();
  if (prints_text(arguments.json)) {
    std::cout << "ts_infer   " << version() << '\n'
              << "torch      " << loaded_torch() << ", built with " << built_with_torch() << '\n'
              << "devices    " << join(devices, ", ") << '\n'
              << "cpu        " << machine.cpu_model << '\n'
              << "cores      " << machine.cores << " usable of " << machine.machine_cores;
    if (machine.cpu_quota > 0) std::cout << ", limited to " << number(machine.cpu_quota);
    std::cout << "\nthreads    "
              << (machine.omp_num_threads.empty() ? "OMP_NUM_THREADS is not set"
                                                  : "OMP_NUM_THREADS=" + machine.omp_num_threads)
              << '\n';
  }
  write_json(arguments.json, "env", {{"devices", devices}});
}

}  // namespace ts_infer::cli
