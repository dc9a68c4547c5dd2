// Repair of text that went through the wrong hands, as the Wan pipeline has it done before it tokenises.
#pragma once

#include <string>

namespace moga {

// For UTF-8 text, what the default settings of the ftfy library mend:
//   - HTML references in text without tags, to any depth;
//   - UTF-8 that was read as Windows-1252 ("cafÃ©"), if the whole text was; ftfy also mends parts and more
//   encodings;
//   - Latin ligatures, full-width ASCII and ideographic spaces, curly quotes, all to their plain forms;
//   - terminal escapes and control characters, which are removed.
// Left to the tokenizer's own normalisation (NFKC): composed accents, half-width kana.
std::string repair_text(const std::string& text);

}  // namespace moga
