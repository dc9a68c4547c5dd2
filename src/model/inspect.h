// What a checkpoint is, told from its headers alone: nothing of its weights is read.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "model/model_parts.h"

namespace moga {

// Everything about a file or model folder: "what" in words; a file's "format", "part", "naming", "prefix",
// "tensors" (name, dtype, shape, official name), "parameters", "bytes", "dtypes", "metadata", "config"
// (sizes), and the fit to the network of those sizes: "fits", "missing", "unexpected", "reshaped". A folder
// has "layout", "config", "tokenizer" and its "parts", each as a file. An adapter has "rank", "modules" and
// "unmatched" for the published model that it is for. Throws Error as opening does.
nlohmann::ordered_json inspect_checkpoint(const ModelSource& source);

// The same for people; blocks of equal tensors are told once.
std::string describe_checkpoint(const nlohmann::ordered_json& facts);

}  // namespace moga
