// BCDNET_UNROLL before a loop of constant length over a register tile: unless it is unrolled whole, and early,
// compilers keep the tile in memory.
#pragma once

#if defined(__clang__)
#define BCDNET_UNROLL _Pragma("unroll")
#elif defined(__GNUC__)
#define BCDNET_UNROLL _Pragma("GCC unroll 8")
#else
#define BCDNET_UNROLL
#endif
