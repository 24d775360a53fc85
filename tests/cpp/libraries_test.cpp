#include "libraries.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/ATen.h>
#include <torch/csrc/jit/api/function_impl.h>
#include <torch/csrc/jit/ir/ir.h>
#include <torch/library.h>

#include "archives.h"
#include "ts_infer/model.h"

namespace ts_infer {
namespace {

using ::testing::HasSubstr;
using testing::message_of;

at::Tensor negated(const at::Tensor& x) { return -x; }

/// An archive that calls `NAMESPACE::triple`, which is registered for as long as it is made.
std::string archive_with_operator(const std::string& library_namespace,
                                  const std::string& manifest = "") {
  torch::Library library(torch::Library::FRAGMENT, library_namespace, std::nullopt, __FILE__,
                         __LINE__);
  library.def("triple(Tensor x) -> Tensor", &negated);
  const auto module = testing::make_module("def forward(self, x):\n    return torch.neg(x)\n");
  // The compiler knows torch's own operators only.
  const auto graph = torch::jit::toGraphFunction(module.get_method("forward").function()).graph();
  torch::jit::Node* node = graph->outputs()[0]->node();
  node->replaceWithNewSymbol(c10::Symbol::fromQualString(library_namespace + "::triple"));
  node->destroy();
  return testing::save(module, manifest);
}

Model load_with_libraries(const std::string& bytes,
                          const std::vector<std::string>& libraries = {}) {
  LoadOptions options;
  options.libraries = libraries;
  return Model::load(bytes.data(), bytes.size(), options);
}

TEST(LibrariesTest, LoadRegistersOperatorsOfALibrary) {
  const std::string bytes = archive_with_operator("ts_infer_test");
  Model model = load_with_libraries(bytes, {TS_INFER_OPS_LIBRARY, TS_INFER_OPS_LIBRARY});
  const auto outputs = model.forward({Tensor::from_vector(std::vector<float>{1, 2}, {2})});
  EXPECT_EQ(outputs.at(0).data<float>()[1], 6.0f);  // the library's, not the one above
  EXPECT_NO_THROW(load_with_libraries(bytes));      // it stays
}

TEST(LibrariesTest, LibraryThatCannotBeLoadedIsALoadError) {
  const std::string bytes = testing::archive("def forward(self, x):\n    return x + 1\n");
  EXPECT_THAT(
      message_of<ModelLoadError>([&] { load_with_libraries(bytes, {"/nowhere/libmine.so"}); }),
      ::testing::AllOf(HasSubstr("\"/nowhere/libmine.so\": the library cannot be loaded"),
                       HasSubstr("cannot open shared object file")));
  const std::string text = testing::write_file("text.so", "no library");
  EXPECT_THAT(message_of<ModelLoadError>([&] { load_with_libraries(bytes, {text}); }),
              HasSubstr("text.so"));
  EXPECT_THROW(load_with_libraries(bytes, {""}), ModelLoadError);
}

TEST(LibrariesTest, LoadSaysWhichOperatorIsMissing) {
  EXPECT_THAT(message_of<ModelLoadError>(
                  [] { load_with_libraries(archive_with_operator("ts_infer_gone")); }),
              ::testing::AllOf(HasSubstr("needs the custom operator ts_infer_gone::triple"),
                               HasSubstr("pass it in libraries (--library)")));
}

TEST(LibrariesTest, LoadSaysWhichLibraryTheManifestNames) {
  const std::string bytes = archive_with_operator("ts_infer_gone", R"({
    "schema": 1, "name": "m", "inputs": [{"name": "x"}], "libraries": [
      {"file": "libother.so", "operators": ["other::triple"], "classes": []},
      {"file": "libgone.so", "operators": ["ts_infer_gone::triple"], "classes": []}]})");
  EXPECT_THAT(message_of<ModelLoadError>([&] { load_with_libraries(bytes); }),
              HasSubstr("needs the custom operator ts_infer_gone::triple: expected libgone.so to "
                        "be loaded; pass libraries=[\"…/libgone.so\"] (--library)"));
}

TEST(LibrariesTest, ExplainsTheMessagesOfLibtorch) {
  const std::vector<NeededLibrary> libraries = {
      {"libstack.so", {}, {"__torch__.torch.classes.mine.Stack"}}};
  EXPECT_THAT(
      explain_missing("Unknown type name '__torch__.torch.classes.mine.Stack':\n", libraries),
      HasSubstr("custom class mine.Stack: expected libstack.so to be loaded"));
  EXPECT_THAT(explain_missing("Class Namespace cannot be used as a value:\n"
                              "__torch__.torch.classes.mine.Stack.__new__(",
                              libraries),
              HasSubstr("expected libstack.so"));
  EXPECT_THAT(
      explain_missing("Unknown type name '__torch__.torch.classes.mine.Heap':\n", libraries),
      HasSubstr("custom class mine.Heap: expected the library that registers it"));
  EXPECT_THAT(explain_missing("Unknown builtin op: aten::of_later.\n", libraries),
              HasSubstr("needs the operator aten::of_later: expected a torch that has it"));
  EXPECT_EQ(explain_missing("something else", libraries), "");
}

}  // namespace
}  // namespace ts_infer
