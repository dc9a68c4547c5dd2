// What a film says about itself, for people and for programs. Films made by this project carry a JSON object
// in their comment tag: "script" (the YAML text) beside seed, model and settings.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "media/video.h"

namespace moga {

// The comment as JSON if it is a JSON object (nested at most 64 deep), otherwise nothing.
std::optional<nlohmann::ordered_json> film_record(const VideoInfo& info);

// The film's script as text (a script that was stored as an object comes back as JSON, which is YAML too).
// Throws Error, naming `file`, if the comment holds none.
std::string film_script_text(const VideoInfo& info, const std::string& file);

// A table of the stream's properties, then the settings and texts of the comment. Control characters that a
// file might carry into the terminal are replaced.
std::string describe_film(const VideoInfo& info, const std::string& file);

// The same for programs; "comment" is an object if it can be, text otherwise. Unknown numbers are null.
nlohmann::ordered_json film_to_json(const VideoInfo& info, const std::string& file);

}  // namespace moga
