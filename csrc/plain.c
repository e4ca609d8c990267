/* The kernel once more, for fabrics with one virtual channel and no adaptive choice: what only others need costs a
   packet-hop nothing here. */

#define PLAIN 1
#include "kernel.c"
