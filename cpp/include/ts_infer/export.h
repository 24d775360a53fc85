#pragma once

/// Marks what the shared library exports; everything else is hidden.
#define TS_INFER_API __attribute__((visibility("default")))
