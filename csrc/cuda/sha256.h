// SHA-256 (FIPS 180-4): names kernels in the cache and guards their files.
#pragma once

#include <string>
#include <string_view>

namespace wavernn_fast::cuda {

std::string sha256(std::string_view data);  // 64 hexadecimal digits

}  // namespace wavernn_fast::cuda
