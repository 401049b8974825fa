// a * b + c rounded once, in place of the C library's: that one cannot change the rounding mode here, and then rounds
// some sums that end between two float32 the wrong way.
#include "reference/fma.h"

extern "C" float fmaf(float a, float b, float c) { return bcdnet::reference::FmaInFloat64(a, b, c); }
