// Registration of moga::grouped_attention with libtorch's dispatcher.
#pragma once

namespace moga {

// A static library's object file is linked only if something in it is called; its registration runs at load.
void keep_grouped_attention_op();

}  // namespace moga
