// Compares multiply-adds of plain C++ with the library's; exit 1 if one rounds differently.
#include "multiply_add.h"

int main() { return wavernn_fast::wrong_multiply_adds() == 0 ? 0 : 1; }
