#include "archive/file_kind.h"

#include <algorithm>
#include <array>

namespace ts_infer {
namespace {

using namespace std::string_view_literals;

struct Magic {
  std::size_t offset;
  std::string_view bytes;
  const char* description;
};

constexpr const char* kBarePickle =
    "a bare pickle, such as torch.save of old wrote; load it in Python and export the module with "
    "ts_infer.export";

constexpr const char* kMobile =
    "a model for torch's mobile interpreter; save the module with torch.jit.save instead";

constexpr std::array kMagics = {
    Magic{0, "version https://git-lfs"sv, "a Git LFS pointer; run `git lfs pull`"},
    Magic{0,
          "\x7f"
          "ELF"sv,
          "a program or shared library; give it as one of `libraries` where a model needs it"},
    Magic{0, "\x80\x02"sv, kBarePickle},
    Magic{0, "\x80\x04"sv, kBarePickle},
    Magic{0, "\x80\x05"sv, kBarePickle},
    Magic{0, "\x93NUMPY"sv, "a NumPy array; it can be an input of a model, by --input NAME=FILE"},
    Magic{0, "\x89HDF"sv,
          "an HDF5 file, such as Keras writes, which no torch can run; load its weights into a "
          "torch module in Python and export that with ts_infer.export"},
    Magic{0, "GGUF"sv,
          "a GGUF file, which holds weights and no code; load it into its module in Python and "
          "export that with ts_infer.export"},
    Magic{4, "PTMF"sv, kMobile},
    Magic{4, "ET12"sv,
          "an ExecuTorch program; export the module that it was made of with ts_infer.export"},
    Magic{4, "TFL3"sv, "a TensorFlow Lite model, which no torch can run"},
    Magic{0, "\x1f\x8b"sv, "a gzip file; unpack it first"},
    Magic{0, "BZh"sv, "a bzip2 file; unpack it first"},
    Magic{0,
          "\xfd"
          "7zXZ"sv,
          "an xz file; unpack it first"},
    Magic{0, "\x28\xb5\x2f\xfd"sv, "a Zstandard file; unpack it first"},
};

/// ModelProto: ir_version, a small number, and then producer_name, opset or the graph.
/// https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
bool is_onnx(std::string_view bytes) {
  if (bytes.size() < 4 || bytes[0] != 0x08 || bytes[1] < 1 || bytes[1] > 32) return false;
  return bytes[2] == 0x12 || bytes[2] == 0x3a || bytes[2] == 0x42;
}

}  // namespace

std::string describe_file(std::string_view bytes) {
  if (bytes.empty()) return "an empty file; was it fully written?";
  for (const Magic& magic : kMagics) {
    if (bytes.size() >= magic.offset && bytes.substr(magic.offset).starts_with(magic.bytes)) {
      return magic.description;
    }
  }
  const std::string_view head = bytes.substr(0, 512);
  if (head.find("<html") != head.npos || head.find("<!DOCTYPE") != head.npos ||
      head.find("<!doctype") != head.npos || head.find("<?xml") != head.npos) {
    return "a web page; the download failed, fetch it again";
  }
  if (is_onnx(bytes)) {
    return "an ONNX model, which no torch can run; export the torch module that it was made of "
           "with ts_infer.export";
  }
  if (bytes.size() > 9 && bytes[8] == '{') {
    return "a safetensors file, which holds weights and no code; load it into its module in "
           "Python and export that with ts_infer.export";
  }
  return "a file of an unknown format";
}

std::string describe_zip(const std::vector<ZipMember>& members, const std::string& root) {
  const auto has = [&](const std::string& name) {
    return std::any_of(members.begin(), members.end(),
                       [&](const ZipMember& member) { return member.name == root + name; });
  };
  if (has(".data/extern_modules")) {
    return "a torch.package; load the module in Python and export it with ts_infer.export";
  }
  if (has("archive_format")) {
    return "a torch.export program (.pt2), which holds no code that runs here; make an AOTInductor "
           "package of its module with ts_infer.compile";
  }
  if (has("bytecode.pkl")) return kMobile;
  if (has("data.pkl")) {
    return "a torch.save file (a state_dict or a pickled module), which holds no code; load it "
           "in Python and export the module with ts_infer.export";
  }
  const bool is_npz =
      !members.empty() && std::all_of(members.begin(), members.end(), [](const ZipMember& member) {
        return member.name.ends_with(".npy");
      });
  if (is_npz) return "NumPy arrays (.npz); they can be inputs of a model, one .npy file each";
  return "a zip archive of another kind";
}

}  // namespace ts_infer
