#pragma once

/// Everything but torch.h. C++17; needs no header of torch.

#include "ts_infer/benchmark.h"
#include "ts_infer/error.h"
#include "ts_infer/model.h"
#include "ts_infer/signature.h"
#include "ts_infer/tensor.h"
#include "ts_infer/timing.h"
#include "ts_infer/value.h"
#include "ts_infer/verify.h"
#include "ts_infer/version.h"
