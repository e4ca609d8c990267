/* The kernel once more, for runs without virtual channels, adaptive choices, in-network operations, weights,
   acknowledgements and changes of the fabric: what only others need costs a packet-hop nothing here. */

#define PLAIN 1
#include "kernel.c"
