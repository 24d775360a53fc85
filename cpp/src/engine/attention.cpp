#include "engine/attention.h"

#include <ATen/ATen.h>
#include <torch/csrc/jit/ir/constants.h>
#include <torch/csrc/jit/runtime/custom_operator.h>

#include <atomic>
#include <cmath>
#include <limits>
#include <optional>

#include "engine/kernels.h"
#include "engine/pass.h"
#include "engine/threads.h"

namespace ts_infer {
namespace {

using torch::jit::Node;
using torch::jit::Stack;

/// The arguments of aten::scaled_dot_product_attention.
struct Attention {
  at::Tensor query, key, value;
  std::optional<at::Tensor> mask;
  double dropout;
  bool causal;
  std::optional<double> scale;
  bool grouped;  // several heads of queries share one of keys
};

at::Tensor run_torchs(const Attention& a) {
  return at::scaled_dot_product_attention(a.query, a.key, a.value, a.mask, a.dropout, a.causal,
                                          a.scale, a.grouped);
}

double scale_of(const Attention& a) {
  return a.scale.value_or(1.0 / std::sqrt(static_cast<double>(a.query.size(-1))));
}

/// [head, length, width], without a copy where the strides allow it.
at::Tensor heads_of(const at::Tensor& tensor) {
  const at::Tensor heads = tensor.flatten(0, -3);
  return heads.stride(2) == 1 ? heads : heads.contiguous();
}

/// What cannot be right at all is torch's to refuse.
bool fits(const Attention& a) {
  if (!many_rows_pay() || a.grouped || (a.causal && a.mask)) return false;
  for (const at::Tensor* each : {&a.query, &a.key, &a.value}) {
    if (!is_float_on_host(*each) || each->dim() < 3 || each->numel() == 0) return false;
    if (each->sizes().slice(0, each->dim() - 2) != a.query.sizes().slice(0, a.query.dim() - 2)) {
      return false;
    }
  }
  if (a.query.size(-1) != a.key.size(-1) || a.key.size(-2) != a.value.size(-2)) return false;
  if (!(scale_of(a) > 0)) return false;
  if (!a.mask) return true;
  const bool is_mask = a.mask->scalar_type() == at::kBool && a.mask->device().is_cpu() &&
                       a.mask->layout() == at::kStrided;
  return a.mask->dim() >= 2 && a.mask->dim() <= a.query.dim() &&
         (is_mask || is_float_on_host(*a.mask));
}

/// Whether no number is NaN or infinite.
bool is_finite(const float* numbers, std::int64_t count) {
  float sum = 0;
  for (std::int64_t i = 0; i < count; ++i) sum += numbers[i] * 0.0F;
  return sum == 0.0F;
}

/// Undefined where an output is NaN or infinite: which ones are so depends on how torch goes about
/// keys that are masked.
at::Tensor run_own(const Attention& a) {
  const at::Tensor query = heads_of(a.query);
  const at::Tensor key = heads_of(a.key);
  const at::Tensor value = heads_of(a.value);
  const std::int64_t heads = query.size(0);

  at::Tensor mask;
  if (a.mask) {
    mask = *a.mask;
    if (mask.scalar_type() == at::kBool) {
      mask = at::zeros(mask.sizes(), query.options())
                 .masked_fill_(mask.logical_not(), -std::numeric_limits<double>::infinity());
    }
    if (mask.stride(-1) != 1) mask = mask.contiguous();
    c10::DimVector sizes(a.query.sizes());
    sizes.back() = key.size(1);
    const bool narrow = mask.size(-1) != key.size(1);  // to broadcast over the keys
    mask = mask.expand(sizes);
    mask = (narrow ? mask.contiguous() : mask).flatten(0, -3);
  }

  // As torch's own: [..., length, head, width] in memory where the query is so.
  c10::DimVector sizes(a.query.sizes());
  sizes.back() = value.size(2);
  const bool interleaved = a.query.dim() == 4 && a.query.stride(1) < a.query.stride(2);
  at::Tensor output =
      interleaved
          ? at::empty({sizes[0], sizes[2], sizes[1], sizes[3]}, query.options()).transpose(1, 2)
          : at::empty(sizes, query.options());

  AttentionKernel kernel;
  kernel.queries = query.size(1);
  kernel.keys = key.size(1);
  kernel.width = query.size(2);
  kernel.value_width = value.size(2);
  kernel.scale = static_cast<float>(scale_of(a));
  kernel.causal = a.causal;
  kernel.query_row = query.stride(1);
  kernel.key_row = key.stride(1);
  kernel.value_row = value.stride(1);
  kernel.mask_row = mask.defined() ? mask.stride(1) : 0;
  kernel.output_row = output.stride(-2);
  const std::int64_t each = scratch_size(kernel);
  const at::Tensor scratch = at::empty({at::get_num_threads(), each}, query.options());
  const std::int64_t outer = interleaved ? sizes[1] : 1;

  const float* queries = query.const_data_ptr<float>();
  const float* keys = key.const_data_ptr<float>();
  const float* values = value.const_data_ptr<float>();
  const float* masks = mask.defined() ? mask.const_data_ptr<float>() : nullptr;
  float* outputs = output.mutable_data_ptr<float>();
  float* scratches = scratch.mutable_data_ptr<float>();
  std::atomic<bool> finite{true};
  const std::int64_t products = kernel.queries * kernel.keys * (kernel.width + kernel.value_width);
  at::parallel_for(0, heads, parts(kGrain, products), [&](auto begin, auto end) {
    AttentionKernel head = kernel;
    head.scratch = scratches + at::get_thread_num() * each;
    for (std::int64_t i = begin; i < end; ++i) {
      head.query = queries + i * query.stride(0);
      head.key = keys + i * key.stride(0);
      head.value = values + i * value.stride(0);
      head.mask = masks ? masks + i * mask.stride(0) : nullptr;
      head.output =
          outputs + (interleaved ? i / outer * output.stride(0) + i % outer * output.stride(1)
                                 : i * kernel.queries * kernel.value_width);
      run(head);
      for (std::int64_t query = 0; query < head.queries; ++query) {
        if (!is_finite(head.output + query * head.output_row, head.value_width)) finite = false;
      }
    }
  });
  return finite ? output : at::Tensor();
}

void attend(Stack& stack) {
  Attention a;
  a.grouped = torch::jit::pop(stack).toBool();
  a.scale = torch::jit::pop(stack).toOptional<double>();
  a.causal = torch::jit::pop(stack).toBool();
  a.dropout = torch::jit::pop(stack).toDouble();
  a.mask = torch::jit::pop(stack).toOptional<at::Tensor>();
  a.value = torch::jit::pop(stack).toTensor();
  a.key = torch::jit::pop(stack).toTensor();
  a.query = torch::jit::pop(stack).toTensor();
  at::Tensor result;
  if (fits(a)) result = run_own(a);
  torch::jit::push(stack, result.defined() ? result : run_torchs(a));
}

const torch::jit::RegisterOperators kAttentionOperator({torch::jit::Operator(
    "ts_infer::attention(Tensor query, Tensor key, Tensor value, Tensor? attn_mask, float "
    "dropout_p, bool is_causal, float? scale, bool enable_gqa) -> Tensor",
    attend, c10::AliasAnalysisKind::PURE_FUNCTION)});

bool replace_node(Node* node) {
  if (!node->matches("aten::scaled_dot_product_attention(Tensor query, Tensor key, Tensor value, "
                     "Tensor? attn_mask=None, float dropout_p=0., bool is_causal=False, *, float? "
                     "scale=None, bool enable_gqa=False) -> Tensor")) {
    return false;
  }
  if (torch::jit::constant_as<double>(node->namedInput("dropout_p")) != 0.0) return false;
  replace(node, node, "ts_infer::attention", node->inputs().vec());
  return true;
}

}  // namespace

int replace_attention(const std::shared_ptr<torch::jit::Graph>& graph) {
  return change_nodes(graph->block(), replace_node);
}

}  // namespace ts_infer
