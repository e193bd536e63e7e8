# Writes OUTPUT, a C++ file that holds the text of FILES (relative to SOURCE_DIR) as string literals.
# They become strings when they are asked for: the compiler takes seconds to try whether it can make
# them while it compiles.
set(body "")
foreach(file IN LISTS FILES)
  file(READ "${SOURCE_DIR}/${file}" text)
  string(APPEND body "      {\"${file}\", R\"WF_SOURCE(${text})WF_SOURCE\"},\n")
endforeach()
file(WRITE "${OUTPUT}.new" "// Generated from csrc/cuda/kernels.
#include \"gpu/kernel_sources.h\"

#include <iterator>

namespace wavernn_fast::gpu {

const std::vector<std::pair<std::string, std::string>>& kernel_sources() {
  static const std::pair<const char*, const char*> texts[] = {
${body}  };
  static const std::vector<std::pair<std::string, std::string>> sources(std::begin(texts),
                                                                        std::end(texts));
  return sources;
}

}  // namespace wavernn_fast::gpu
")
file(COPY_FILE "${OUTPUT}.new" "${OUTPUT}" ONLY_IF_DIFFERENT)
