/* The kernel once more, for fabrics with one virtual channel and no adaptive choice that stay as they are: what only
   others need costs a packet-hop nothing here. */

#define PLAIN 1
#include "kernel.c"
