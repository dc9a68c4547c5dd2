// Reads JSON into structs with a field visitor (base/config.h writes them). Strict: unknown keys and wrong
// types are errors, so that a manifest made by another program is checked, not guessed at. Absent keys keep
// their value.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "base/config.h"
#include "base/error.h"

namespace moga {

template <typename T>
void read_json(const nlohmann::ordered_json& json, T& out, const std::string& where) {
  using config_detail::IsOptional;
  using config_detail::IsVector;
  if constexpr (IsOptional<T>::value) {
    if (json.is_null()) {
      out.reset();
    } else {
      read_json(json, out.emplace(), where);
    }
  } else if constexpr (IsVector<T>::value) {
    MOGA_CHECK(json.is_array(), "{}: expected a list", where);
    out.clear();
    out.reserve(json.size());
    for (size_t i = 0; i < json.size(); ++i) {
      typename T::value_type item{};
      read_json(json[i], item, fmt::format("{}[{}]", where, i));
      out.push_back(std::move(item));
    }
  } else if constexpr (config_detail::Visitable<T>) {
    MOGA_CHECK(json.is_object(), "{}: expected an object", where);
    size_t known = 0;
    std::vector<std::string> names;
    T::visit(out, [&](const char* name, auto& field, const char*) {
      names.emplace_back(name);
      if (const auto found = json.find(name); found != json.end()) {
        ++known;
        read_json(*found, field, where + "." + name);
      }
    });
    if (known != json.size()) {
      for (const auto& [key, value] : json.items()) {
        MOGA_CHECK(std::find(names.begin(), names.end(), key) != names.end(),
                   "{}: unknown key '{}'; the keys here are {}", where, key, fmt::join(names, ", "));
      }
    }
  } else if constexpr (std::is_enum_v<T>) {
    MOGA_CHECK(json.is_string(), "{}: expected a word", where);
    out = enum_value<T>(json.get<std::string>(), where);
  } else if constexpr (std::is_same_v<T, bool>) {
    MOGA_CHECK(json.is_boolean(), "{}: expected true or false", where);
    out = json.get<bool>();
  } else if constexpr (std::is_integral_v<T>) {
    MOGA_CHECK(json.is_number_integer(), "{}: expected a whole number", where);
    out = json.get<T>();
  } else if constexpr (std::is_floating_point_v<T>) {
    MOGA_CHECK(json.is_number(), "{}: expected a number", where);
    out = json.get<T>();
  } else {
    MOGA_CHECK(json.is_string(), "{}: expected text", where);
    out = json.get<std::string>();
  }
}

}  // namespace moga
