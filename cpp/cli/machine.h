#pragma once

#include "output.h"

namespace ts_infer::cli {

/// What a timing depends on beside the model.
struct Machine {
  std::string cpu_model;
  unsigned cores = 0;  // that this process may use
  unsigned machine_cores = 0;
  double cpu_quota = 0;         // cores that the container may use; 0: no limit
  std::string omp_num_threads;  // of the environment; "" is not set
};

Machine this_machine();

/// Of every JSON document.
Json machine_json();
Json versions_json();

}  // namespace ts_infer::cli
