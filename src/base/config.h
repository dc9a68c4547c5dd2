// One field visitor a config drives YAML and JSON reading, printing, help text and validation.
//
//   enum class Form { kPaper, kSwitch };
//   template <> struct moga::EnumNames<Form> {
//     static constexpr std::array<std::pair<Form, const char*>, 2> kNames = {{{Form::kPaper, "paper"}, ...}};
//   };
//   struct BalanceConfig {
//     Form form = Form::kSwitch;
//     double weight = 0.1;
//     template <class Self, class V> static void visit(Self& s, V&& v) {
//       v("form", s.form, "Which form of the balancing loss");
//       v("weight", s.weight, "alpha of eq. 6");
//     }
//   };
//
// Field types: bool, int, int64_t, uint64_t, double, std::string, enums with EnumNames, structs with visit(),
// std::optional and std::vector of these. JSON is read as the YAML that it is.
#pragma once

#include <yaml-cpp/yaml.h>

#include <array>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include "base/error.h"
#include "base/text_util.h"

namespace moga {

template <typename E>
struct EnumNames;

template <typename E>
std::string enum_name(E value) {
  for (const auto& [candidate, name] : EnumNames<E>::kNames) {
    if (candidate == value) {
      return name;
    }
  }
  fail("unnamed enum value {}", static_cast<int>(value));
}

template <typename E>
E enum_value(const std::string& text, const std::string& where) {
  std::vector<std::string> names;
  for (const auto& [candidate, name] : EnumNames<E>::kNames) {
    if (text == name) {
      return candidate;
    }
    names.emplace_back(name);
  }
  fail("{}: expected one of {}, found '{}'", where, fmt::join(names, ", "), text);
}

// "file.yaml:3:5" for messages.
std::string node_place(const YAML::Node& node, const std::string& file);

// Parses YAML (or JSON) text; throws Error with file, line and column if it is malformed.
YAML::Node parse_yaml(const std::string& text, const std::string& file);

namespace config_detail {

template <typename T>
struct IsOptional : std::false_type {};
template <typename T>
struct IsOptional<std::optional<T>> : std::true_type {};
template <typename T>
struct IsVector : std::false_type {};
template <typename T>
struct IsVector<std::vector<T>> : std::true_type {};

template <typename T>
concept Visitable = requires(T& t) {
  T::visit(t, [](const char*, auto&, const char*) {});
};

template <typename T>
void read_value(const YAML::Node& node, T& out, const std::string& key, const std::string& file);

template <typename T>
void read_scalar(const YAML::Node& node, T& out, const std::string& key, const std::string& file,
                 const char* expected) {
  MOGA_CHECK(node.IsScalar(), "{}: {}: expected {}", node_place(node, file), key, expected);
  try {
    out = node.as<T>();
  } catch (const YAML::Exception&) {
    fail("{}: {}: expected {}, found '{}'", node_place(node, file), key, expected, node.Scalar());
  }
}

template <typename T>
void read_struct(const YAML::Node& node, T& out, const std::string& key, const std::string& file) {
  MOGA_CHECK(node.IsMap(), "{}: {}: expected keys and values", node_place(node, file),
             key.empty() ? "config" : key);
  std::vector<std::string> names;
  T::visit(out, [&](const char* name, auto& field, const char*) {
    names.emplace_back(name);
    if (const YAML::Node child = node[name]) {
      read_value(child, field, key.empty() ? name : key + "." + name, file);
    }
  });
  for (const auto& entry : node) {
    const std::string found = entry.first.Scalar();
    bool known = false;
    for (const std::string& name : names) {
      known = known || name == found;
    }
    if (!known) {
      const auto near = nearest_word(found, names);
      fail("{}: unknown key '{}'{}; the keys here are {}", node_place(entry.first, file), found,
           near ? ", did you mean '" + *near + "'?" : "", fmt::join(names, ", "));
    }
  }
}

template <typename T>
void read_value(const YAML::Node& node, T& out, const std::string& key, const std::string& file) {
  if constexpr (IsOptional<T>::value) {
    if (node.IsNull()) {
      out.reset();
    } else {
      read_value(node, out.emplace(), key, file);
    }
  } else if constexpr (IsVector<T>::value) {
    MOGA_CHECK(node.IsSequence(), "{}: {}: expected a list", node_place(node, file), key);
    out.clear();
    for (size_t i = 0; i < node.size(); ++i) {
      typename T::value_type item{};
      read_value(node[i], item, fmt::format("{}[{}]", key, i), file);
      out.push_back(std::move(item));
    }
  } else if constexpr (std::is_enum_v<T>) {
    MOGA_CHECK(node.IsScalar(), "{}: {}: expected a word", node_place(node, file), key);
    out = enum_value<T>(node.Scalar(), node_place(node, file) + ": " + key);
  } else if constexpr (Visitable<T>) {
    read_struct(node, out, key, file);
  } else if constexpr (std::is_same_v<T, bool>) {
    read_scalar(node, out, key, file, "true or false");
  } else if constexpr (std::is_integral_v<T>) {
    read_scalar(node, out, key, file, "a whole number");
  } else if constexpr (std::is_floating_point_v<T>) {
    read_scalar(node, out, key, file, "a number");
  } else {
    read_scalar(node, out, key, file, "text");
  }
}

template <typename T>
nlohmann::ordered_json value_to_json(const T& value) {
  if constexpr (IsOptional<T>::value) {
    return value ? value_to_json(*value) : nlohmann::ordered_json(nullptr);
  } else if constexpr (IsVector<T>::value) {
    auto list = nlohmann::ordered_json::array();
    for (const auto& item : value) {
      list.push_back(value_to_json(item));
    }
    return list;
  } else if constexpr (std::is_enum_v<T>) {
    return enum_name(value);
  } else if constexpr (Visitable<T>) {
    auto object = nlohmann::ordered_json::object();
    T::visit(value,
             [&](const char* name, const auto& field, const char*) { object[name] = value_to_json(field); });
    return object;
  } else {
    return value;
  }
}

template <typename T>
void explain_into(const T& config, const std::string& prefix, std::string& out) {
  T::visit(config, [&](const char* name, const auto& field, const char* help) {
    using F = std::decay_t<decltype(field)>;
    const std::string key = prefix + name;
    if constexpr (Visitable<F>) {
      out += fmt::format("{}: {}\n", key, help);
      explain_into(field, key + ".", out);
    } else {
      out += fmt::format("{} = {}\n    {}\n", key, value_to_json(field).dump(), help);
      if constexpr (IsVector<F>::value || IsOptional<F>::value) {
        if constexpr (Visitable<typename F::value_type>) {
          explain_into(typename F::value_type{}, key + (IsVector<F>::value ? "[]." : "."), out);
        }
      }
    }
  });
}

}  // namespace config_detail

// Fills `config` from a map; keys that are absent keep their value. Throws Error on unknown keys (with the
// nearest known one) and wrong types, with file, line and column.
template <typename T>
void read_config(const YAML::Node& node, T& config, const std::string& file) {
  config_detail::read_struct(node, config, "", file);
}

template <typename T>
T parse_config(const std::string& text, const std::string& file) {
  T config{};
  const YAML::Node node = parse_yaml(text, file);
  if (!node.IsNull()) {
    read_config(node, config, file);
  }
  return config;
}

// Reads a YAML or JSON file.
std::string read_config_text(const std::filesystem::path& path);

template <typename T>
T load_config(const std::filesystem::path& path) {
  return parse_config<T>(read_config_text(path), path.string());
}

template <typename T>
nlohmann::ordered_json config_to_json(const T& config) {
  return config_detail::value_to_json(config);
}

// Every key with its default and meaning, for --explain; of a section that is absent unless given, the keys
// it then has.
template <typename T>
std::string explain_config() {
  std::string text;
  config_detail::explain_into(T{}, "", text);
  return text;
}

}  // namespace moga
