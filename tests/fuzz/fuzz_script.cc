// Any text as a film script: linting it never fails otherwise than in findings, and what parses can be
// written and parsed again.
#include "base/error.h"
#include "script/film_script.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  moga::lint_script(text);
  moga::FilmScript script;
  try {
    script = moga::parse_script(text, "script");
  } catch (const moga::Error&) {  // what bad scripts are answered with
    return 0;
  }
  moga::parse_script(moga::script_to_yaml(script), "written");  // must not throw
  return 0;
}
