/* Process epochs until about max_events packets have started; return a code. */
int64_t fabric_run(fabric_state *state, int64_t part, int64_t max_events);

/* The same, for plain runs: see plain.c. */
int64_t fabric_run_plain(fabric_state *state, int64_t part, int64_t max_events);
