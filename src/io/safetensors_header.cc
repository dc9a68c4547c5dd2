#include "io/safetensors_header.h"

#include <limits>
#include <nlohmann/json.hpp>
#include <set>

#include "base/error.h"

namespace moga {

namespace {

constexpr size_t kMaxRank = 64;  // torch stops being useful long before; a bound keeps hostile shapes small

// Events of nlohmann's SAX parser; the depth tells what an event may mean:
//   1 tensor names and "__metadata__", 2 fields of an entry (or metadata keys), 3 the numbers of a list.
class HeaderReader : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit HeaderReader(const std::string& file) : file_(file) {}

  SafetensorsHeader take() { return std::move(header_); }

  bool start_object(std::size_t) override {
    MOGA_CHECK(depth_ < 2 && !in_metadata(), "{}: {}: expected {}, found an object", file_, place(),
               expected());
    ++depth_;
    fields_.clear();
    entry_ = {};
    return true;
  }

  bool end_object() override {
    if (depth_ == 2 && name_ != kMetadata) {
      for (const char* field : {"dtype", "shape", "data_offsets"}) {
        MOGA_CHECK(fields_.count(field) != 0, "{}: tensor '{}' has no \"{}\"", file_, name_, field);
      }
      MOGA_CHECK(offsets_.size() == 2, "{}: tensor '{}': expected two data_offsets, found {}", file_, name_,
                 offsets_.size());
      entry_.begin = offsets_[0];
      entry_.end = offsets_[1];
      header_.tensors.emplace(name_, std::move(entry_));
    }
    --depth_;
    return true;
  }

  bool key(string_t& text) override {
    if (depth_ == 1) {
      name_ = text;
      MOGA_CHECK(names_.insert(name_).second, "{}: the name '{}' is given twice", file_, name_);
    } else {
      field_ = text;
      MOGA_CHECK(fields_.insert(field_).second, "{}: {}: given twice", file_, place());
      MOGA_CHECK(name_ == kMetadata || field_ == "dtype" || field_ == "shape" || field_ == "data_offsets",
                 "{}: tensor '{}': unknown field '{}', expected dtype, shape and data_offsets", file_, name_,
                 field_);
    }
    return true;
  }

  bool start_array(std::size_t) override {
    MOGA_CHECK(depth_ == 2 && name_ != kMetadata && field_ != "dtype", "{}: {}: expected {}, found a list",
               file_, place(), expected());
    ++depth_;
    if (field_ == "data_offsets") {
      offsets_.clear();
    }
    return true;
  }

  bool end_array() override {
    --depth_;
    return true;
  }

  bool string(string_t& text) override {
    if (depth_ == 2 && name_ == kMetadata) {
      header_.metadata[field_] = text;
      return true;
    }
    MOGA_CHECK(depth_ == 2 && field_ == "dtype", "{}: {}: expected {}, found text", file_, place(),
               expected());
    entry_.dtype = text;
    return true;
  }

  bool number_unsigned(number_unsigned_t value) override {
    MOGA_CHECK(depth_ == 3, "{}: {}: expected {}, found a number", file_, place(), expected());
    if (field_ == "shape") {
      MOGA_CHECK(value <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max()),
                 "{}: tensor '{}': the dimension {} is too large", file_, name_, value);
      MOGA_CHECK(entry_.shape.size() < kMaxRank, "{}: tensor '{}' has more than {} dimensions", file_, name_,
                 kMaxRank);
      entry_.shape.push_back(static_cast<int64_t>(value));
    } else {
      MOGA_CHECK(offsets_.size() < 2, "{}: tensor '{}': expected two data_offsets, found more", file_, name_);
      offsets_.push_back(value);
    }
    return true;
  }

  bool number_integer(number_integer_t value) override { wrong(fmt::format("{}", value)); }
  bool number_float(number_float_t, const string_t& text) override { wrong(text); }
  bool boolean(bool value) override { wrong(value ? "true" : "false"); }
  bool null() override { wrong("null"); }
  bool binary(binary_t&) override { wrong("binary data"); }

  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception&) override {
    fail("{}: the header is not valid JSON (at byte {})", file_, position);
  }

 private:
  static constexpr const char* kMetadata = "__metadata__";

  bool in_metadata() const { return depth_ >= 2 && name_ == kMetadata; }

  std::string place() const {
    if (depth_ == 0) {
      return "header";
    }
    return depth_ == 1 ? fmt::format("'{}'", name_) : fmt::format("'{}': {}", name_, field_);
  }

  const char* expected() const {
    if (depth_ < 2) {
      return "an object";
    }
    if (name_ == kMetadata || (depth_ == 2 && field_ == "dtype")) {
      return "text";
    }
    return depth_ == 2 ? "a list" : "a whole number of at least 0";
  }

  [[noreturn]] void wrong(const std::string& found) const {
    fail("{}: {}: expected {}, found {}", file_, place(), expected(), found);
  }

  const std::string& file_;
  SafetensorsHeader header_;
  std::set<std::string> names_;
  std::set<std::string> fields_;
  SafetensorsEntry entry_;
  std::vector<uint64_t> offsets_;
  std::string name_;
  std::string field_;
  int depth_ = 0;
};

}  // namespace

SafetensorsHeader parse_safetensors_header(std::string_view text, const std::string& file) {
  HeaderReader reader(file);
  nlohmann::json::sax_parse(text.begin(), text.end(), &reader);
  return reader.take();
}

}  // namespace moga
