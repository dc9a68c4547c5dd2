#include "io/torch_file.h"

#include <caffe2/serialize/inline_container.h>

#include "base/error.h"

namespace moga {

namespace fs = std::filesystem;

namespace {

struct StorageType {
  const char* name;  // of the class, without "Storage"
  torch::ScalarType dtype;
  const char* stored;
};
constexpr StorageType kTypes[] = {{"Double", torch::kFloat64, "F64"}, {"Float", torch::kFloat32, "F32"},
                                  {"Half", torch::kFloat16, "F16"},   {"BFloat16", torch::kBFloat16, "BF16"},
                                  {"Long", torch::kInt64, "I64"},     {"Int", torch::kInt32, "I32"},
                                  {"Short", torch::kInt16, "I16"},    {"Char", torch::kInt8, "I8"},
                                  {"Byte", torch::kUInt8, "U8"},      {"Bool", torch::kBool, "BOOL"}};

// Throws unless every element lies inside the storage.
void check_inside(const PickledTensor& tensor, size_t element_size, const std::string& where) {
  int64_t last = tensor.offset;
  bool empty = false;
  bool overflow = false;
  int64_t count = static_cast<int64_t>(element_size);
  for (size_t i = 0; i < tensor.shape.size(); ++i) {
    int64_t step = 0;
    empty = empty || tensor.shape[i] == 0;
    overflow = overflow || __builtin_mul_overflow(count, std::max<int64_t>(tensor.shape[i], 1), &count) ||
               __builtin_mul_overflow(std::max<int64_t>(tensor.shape[i] - 1, 0), tensor.strides[i], &step) ||
               __builtin_add_overflow(last, step, &last);
  }
  MOGA_CHECK(!overflow, "{}: the shape [{}] overflows 63 bits", where, fmt::join(tensor.shape, ", "));
  MOGA_CHECK(empty || last < tensor.storage_elements, "{}: shape [{}] needs {} elements, its storage has {}",
             where, fmt::join(tensor.shape, ", "), last + 1, tensor.storage_elements);
}

}  // namespace

struct TorchFile::Archive {
  explicit Archive(const fs::path& path) try : reader(path.string()) {
  } catch (const c10::Error& error) {
    fail("{}: the archive is damaged or cut short ({})", path.string(),
         std::string(error.what_without_backtrace()).substr(0, 120));
  }
  // A record's bytes; libtorch checks their checksum.
  std::pair<at::DataPtr, size_t> get(const std::string& name, const fs::path& path) {
    try {
      auto [data, size] = reader.getRecord(name);
      return {std::move(data), size};
    } catch (const c10::Error&) {
      fail("{}: the archive is damaged: cannot read its record '{}'", path.string(), name);
    }
  }
  caffe2::serialize::PyTorchStreamReader reader;
};

TorchFile::TorchFile(const fs::path& path) : path_(path), archive_(std::make_unique<Archive>(path)) {
  const std::string file = path.string();
  MOGA_CHECK(archive_->reader.hasRecord("data.pkl") && !archive_->reader.hasRecord("constants.pkl"),
             "{}: expected a state dict that PyTorch saved, found another kind of archive (TorchScript?)",
             file);
  if (archive_->reader.hasRecord("byteorder")) {
    const auto [order, size] = archive_->get("byteorder", path);
    MOGA_CHECK(std::string_view(static_cast<const char*>(order.get()), size) == "little",
               "{}: the file is not little-endian", file);
  }
  const auto [data, size] = archive_->get("data.pkl", path);
  for (PickledTensor& tensor : parse_state_pickle({static_cast<const char*>(data.get()), size}, file)) {
    const std::string where = fmt::format("{}: tensor '{}'", file, tensor.name);
    const auto* type = std::find_if(std::begin(kTypes), std::end(kTypes),
                                    [&](const StorageType& known) { return tensor.dtype == known.name; });
    MOGA_CHECK(type != std::end(kTypes), "{}: unknown dtype '{}'", where, tensor.dtype);
    check_inside(tensor, torch::elementSize(type->dtype), where);
    TensorInfo info{type->dtype, tensor.shape, type->stored, 0, 0};
    info.bytes = static_cast<size_t>(info.numel()) * torch::elementSize(type->dtype);
    tensors_.emplace(tensor.name, std::move(info));
    const std::string name = tensor.name;
    pickled_.emplace(name, std::move(tensor));
  }
}

TorchFile::~TorchFile() = default;

torch::Tensor TorchFile::read(const std::string& name, std::optional<torch::ScalarType> dtype) const {
  const TensorInfo& info = info_of(name);
  const PickledTensor& pickled = pickled_.at(name);
  auto [data, size] = archive_->get("data/" + pickled.storage, path_);
  const size_t expected = static_cast<size_t>(pickled.storage_elements) * torch::elementSize(info.dtype);
  MOGA_CHECK(size == expected, "{}: tensor '{}': expected a storage of {} bytes, found {}", path_.string(),
             name, expected, size);
  const auto holder = std::make_shared<at::DataPtr>(std::move(data));
  const torch::Tensor flat = torch::from_blob(
      holder->get(), {pickled.storage_elements}, [holder](void*) {},
      torch::TensorOptions().dtype(info.dtype));
  torch::Tensor tensor = flat.as_strided(pickled.shape, pickled.strides, pickled.offset);
  if (info.dtype == torch::kBool) {
    tensor = flat.view(torch::kUInt8).as_strided(pickled.shape, pickled.strides, pickled.offset).ne(0);
  }
  tensor = tensor.to(dtype.value_or(info.dtype)).contiguous();
  // A small view of a large storage must not keep all of it.
  const bool whole = tensor.numel() == pickled.storage_elements;
  return whole || !tensor.is_alias_of(flat) ? tensor : tensor.clone();
}

}  // namespace moga
