// Division that rounds up, for sizes that are not negative.
#pragma once

namespace wavernn_fast {

template <class T>
constexpr T ceil_div(T n, T parts) {
  return (n + parts - 1) / parts;
}
template <class T>
constexpr T round_up(T n, T multiple) {
  return ceil_div(n, multiple) * multiple;
}

}  // namespace wavernn_fast
