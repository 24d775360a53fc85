#pragma once

#include <torch/csrc/jit/ir/ir.h>

#include <vector>

namespace ts_infer {

// Where torch's own passes take something for granted that is not so, the code of an archive is
// written otherwise before the first of them runs. What it computes stays the same.

/// Of all functions of an archive together.
///
/// - Operators that return their input, or a view of it, though torch's schemas say that their
///   result is new (dropout, type_as, meshgrid and others), get schemas that say so where anything
///   is written to: torch would merge, move or leave out what reads or writes the shared memory.
/// - A trace holds a Python number as a tensor without dimensions, which promotes the other side's
///   dtype where a number would not. In sums, differences, products and quotients it becomes a
///   number again. torch's executors do so too, but after freezing, when parameters and buffers
///   look the same.
/// - LSTMs, GRUs and RNNs refuse inputs of another width than their weights', the first two of
///   another rank too: torch's operators, in inference mode, read beyond the weights then, or
///   divide the wrong dimension. nn.LSTM's own check is Python's, which a trace does not have.
/// - What integers are divided by is checked: torch's operators end the process where that is 0, or
///   -1 below the smallest integer (of tensors, where they round to zero).
/// - With `optimized`, what asks for a tensor's sizes and dtype, or for others of these, is done by
///   operators of our own. torch's freeze and peephole passes take the rank of a convolution's
///   result for that of a batch, where it may have none; its legacy executor takes what torch.full
///   makes of a whole number for float64, and is wrong about the sizes of some products.
void correct(const std::vector<torch::jit::Block*>& functions, bool optimized);

/// Of a frozen function that an executor of torch's will run: the tensors without dimensions that
/// are left stay tensors.
void keep_scalar_tensors(torch::jit::Block* function);

/// Of a frozen function that an executor of torch's will run: views' sizes are no constants. The
/// legacy executor writes what -1 stands for in a view of a tensor without dimensions into one,
/// which the plans for other ranks share.
void unshare_sizes(torch::jit::Block* function);

}  // namespace ts_infer
