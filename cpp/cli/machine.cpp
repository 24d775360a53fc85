#include "machine.h"

#include <sched.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <thread>

#include "ts_infer/version.h"

namespace ts_infer::cli {
namespace {

std::string cpu_model() {
  std::ifstream cpuinfo("/proc/cpuinfo");
  for (std::string line; std::getline(cpuinfo, line);) {
    const std::size_t colon = line.find(": ");
    if (line.rfind("model name", 0) == 0 && colon != std::string::npos) {
      return line.substr(colon + 2);
    }
  }
  // Boards with an ARM processor name themselves here.
  std::ifstream board("/proc/device-tree/model");
  std::string name;
  if (std::getline(board, name, '\0') && !name.empty()) return name;
  utsname system = {};
  return uname(&system) == 0 ? system.machine : "unknown";
}

unsigned usable_cores() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) != 0) return std::thread::hardware_concurrency();
  return static_cast<unsigned>(CPU_COUNT(&set));
}

double cpu_quota() {
  std::ifstream limit("/sys/fs/cgroup/cpu.max");
  double quota_us = 0;
  double period_us = 0;
  // "max 100000" where there is none, which is not read as a number.
  if (!(limit >> quota_us >> period_us) || period_us <= 0) return 0;
  return quota_us / period_us;
}

}  // namespace

Machine this_machine() {
  const char* omp = std::getenv("OMP_NUM_THREADS");
  const long machine_cores = sysconf(_SC_NPROCESSORS_ONLN);
  return {cpu_model(), usable_cores(), static_cast<unsigned>(std::max(machine_cores, 1L)),
          cpu_quota(), omp ? omp : ""};
}

Json machine_json() {
  const Machine machine = this_machine();
  return {{"cpu", machine.cpu_model},
          {"cores", machine.cores},
          {"machine_cores", machine.machine_cores},
          {"cpu_quota", machine.cpu_quota > 0 ? Json(machine.cpu_quota) : Json()},
          {"omp_num_threads",
           machine.omp_num_threads.empty() ? Json() : Json(machine.omp_num_threads)}};
}

Json versions_json() {
  return {
      {"ts_infer", version()}, {"torch", loaded_torch()}, {"built_with_torch", built_with_torch()}};
}

}  // namespace ts_infer::cli
