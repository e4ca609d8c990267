/* The kernel in C: the functions of fabricsim/engine/kernel.py, see there, in the same order under the same names. */

#include <stdint.h>

#include "state.h"
#include "kernel.h"

/* Compiled twice: for any run, and by plain.c for those without virtual channels, adaptive choices, in-network
   operations, weights, acknowledgements and changes of the fabric. */
#ifndef PLAIN
#define PLAIN 0
#endif

/* On the way of each packet-hop: a call passes more than such a function does. */
#if defined(__GNUC__)
#define INLINE static inline __attribute__((always_inline))
#define PREFETCH(table, index) __builtin_prefetch((const void *)((uintptr_t)(table) + (uintptr_t)(index) * sizeof *(table)))
#else
#define INLINE static inline
#define PREFETCH(table, index) ((void)0)
#endif

#define MASK32 0xFFFFFFFF
#define RUN 16 /* insertion sort up to here, then merges */
#define AHEAD 2 /* channels whose first packets are fetched before their turn: the kernel waits for memory otherwise */
#define PARTS_AHEAD 8 /* messages of ended parts that are fetched before their turn */
#define INDEX_BITS 31
#define INDEX_MASK (((int64_t)1 << INDEX_BITS) - 1)

/* Used before they are defined, for the order is that of kernel.py. */
INLINE int64_t latency_bucket(fabric_state *state, int64_t domain, int64_t latency_ps);
static void complete_part(fabric_state *state, int64_t message, int64_t complete_ps);
INLINE void note_way(fabric_state *state, int64_t part, int64_t serialization_ps, int64_t credit_stall_ps);
static void fold_bins(fabric_state *state, int64_t domain);
INLINE _Bool relays_any(fabric_state *state);
static void copy_packet(fabric_state *state, int64_t domain, int64_t index);
static void merge_packet(fabric_state *state, int64_t domain, int64_t index);
INLINE _Bool acks(fabric_state *state);
static void answer_share(fabric_state *state, int64_t domain, int64_t part);
static void come_home(fabric_state *state, int64_t domain);

/* The smaller of two numbers. */
static int64_t min(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* The larger of two numbers. */
static int64_t max(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* Mix a 32-bit word held in 64 bits; the products stay below 2**63. */
static int64_t mix32(int64_t x)
{
    x ^= x >> 16;
    x = (x * 0x21F0AAAD) & MASK32;
    x ^= x >> 15;
    x = (x * 0x735A2D97) & MASK32;
    return x ^ (x >> 15);
}

/* --- packets --------------------------------------------------------------------------------------------------- */

/* Take a row of packets off the free list; there is one, for run_domain has made sure. */
INLINE int64_t take_packet(fabric_state *state, int64_t domain)
{
    domain_row *row = &state->domains[domain];
    int64_t index = row->free_packet;
    row->free_packet = state->packets[index].next;
    PREFETCH(state->packets, row->free_packet);
    row->num_free_packets -= 1;
    return index;
}

/* The bank that a channel of a domain belongs to. */
INLINE int64_t bank_of(fabric_state *state, int64_t domain, int64_t channel)
{
    domain_row *row = &state->domains[domain];
    return row->first_bank + ((channel - row->first_channel) >> BANK_SHIFT);
}

/* Virtual channels of a channel, less one. */
INLINE int64_t vc_mask(fabric_state *state)
{
    return PLAIN ? 0 : state->clock->vc_mask;
}

/* Whether packets with a choice look at the queues of its outputs. */
INLINE _Bool adapts(fabric_state *state)
{
    return !PLAIN && state->clock->routing == ROUTING_ADAPTIVE;
}

/* The virtual channel on which a packet that came by a channel goes on, but 0 where candidates say it. */
INLINE int64_t kept_vc(fabric_state *state, int64_t channel)
{
    if (PLAIN || state->clock->detours == 1) {
        return 0;
    }
    return channel & vc_mask(state);
}

/* The first virtual channel of the channel that a channel belongs to, which is the server of all. */
INLINE int64_t server_of(fabric_state *state, int64_t channel)
{
    return channel & ~vc_mask(state);
}

/* See to it that a channel of a domain is looked at at time_ps or before. */
INLINE void wake_channel(fabric_state *state, int64_t domain, int64_t channel, int64_t time_ps)
{
    channel = server_of(state, channel);
    state->wakes[channel].wake_ps = min(state->wakes[channel].wake_ps, time_ps);
    int64_t bank = bank_of(state, domain, channel);
    state->banks[bank].wake_ps = min(state->banks[bank].wake_ps, time_ps);
}

/* Put a packet into the inbox of an output for its window; its farthest one if that lies beyond: then it is put off
   again when it is found. */
INLINE void put_in_inbox(fabric_state *state, int64_t domain, int64_t channel, int64_t index)
{
    clock_row *clock = state->clock;
    packet_row *packet = &state->packets[index];
    int64_t window = packet->time_ps >> clock->window_shift;
    int64_t farthest = (state->domains[domain].window_start_ps >> clock->window_shift) + clock->wheel_mask;
    int64_t slot = min(window, farthest) & clock->wheel_mask;
    inbox_row *inbox = &state->inboxes[slot * clock->num_channels + channel];
    packet->next = inbox->packet;
    inbox->packet = index;
    state->filled[slot * clock->num_banks + bank_of(state, domain, channel)].inboxes = 1;
    state->domains[domain].arriving += 1;
}

/* Give the room of a packet back to the sender of the channel that it came by, usable from time_ps on. */
INLINE void return_credit(fabric_state *state, int64_t domain, int64_t index, int64_t time_ps)
{
    packet_row *packets = state->packets;
    packet_row *packet = &packets[index];
    int64_t channel = packet->channel;
    channel_row *row = &state->channels[channel];
    packet->time_ps = time_ps;
    if (row->credit_first == NONE) {
        row->credit_first = index;
        row->credit_last = index;
        packet->next = NONE;
    } else {
        /* They come nearly in order: search from the back. */
        int64_t first = row->credit_first;
        int64_t before = row->credit_last;
        int64_t after = NONE;
        while (before != after && packets[before].time_ps > time_ps) {
            after = before;
            if (before != first) {
                before = packets[before].message;
            }
        }
        packet->next = after;
        if (after == NONE) {
            row->credit_last = index;
        } else {
            packets[after].message = index;
        }
        if (before == after) {
            row->credit_first = index;
        } else {
            packets[before].next = index;
            packet->message = before;
        }
    }
    if (row->blocked == 1) {
        wake_channel(state, domain, channel, time_ps);
    }
}

/* Free the packets whose credits are usable at until_ps; return how many bytes of room that gives the channel. */
INLINE int64_t take_credits(fabric_state *state, int64_t domain, int64_t channel, int64_t until_ps)
{
    packet_row *packets = state->packets;
    channel_row *row = &state->channels[channel];
    domain_row *owner = &state->domains[domain];
    int64_t room_bytes = 0;
    int64_t index = row->credit_first;
    while (index != NONE && packets[index].time_ps <= until_ps) {
        room_bytes += state->durations[packets[index].payload_bytes].value;
        int64_t after = packets[index].next;
        PREFETCH(packets, after);
        packets[index].next = owner->free_packet;
        owner->free_packet = index;
        owner->num_free_packets += 1;
        index = after;
    }
    row->credit_first = index;
    return room_bytes;
}

/* Eject the packet whose head arrives at a terminal at head_ps: the server is a FIFO, so its end is known now. */
INLINE void eject_packet(fabric_state *state, int64_t domain, int64_t channel, int64_t index, int64_t head_ps,
                         int64_t injected_ps, int64_t message, int64_t payload, int64_t before)
{
    channel_row *row = &state->channels[server_of(state, channel)];
    int64_t ejection_ps = state->durations[row->ejection_row + payload].value;
    int64_t end_ps = max(head_ps, row->ejection_free_ps) + ejection_ps;
    row->ejection_free_ps = end_ps;
    return_credit(state, domain, index, end_ps + row->latency_ps);

    domain_row *owner = &state->domains[domain];
    int64_t part = row->first_part + message;
    int64_t packets_left = state->counts[part].packets_left - 1;
    state->counts[part].packets_left = packets_left;
    if (packets_left == 0) {
        state->parts[part].complete_ps = end_ps;
        if (acks(state)) {
            answer_share(state, domain, part);
        }
        if (state->clock->defers == 1) {
            complete_row *ended = &state->complete[row->first_part + owner->num_complete];
            ended->complete_ps = end_ps;
            ended->message = message;
            owner->num_complete += 1;
        } else {
            complete_part(state, message, end_ps);
        }
    }
    if (injected_ps < 0) {
        note_way(state, part, ejection_ps, 0);
        state->parts[part].way_propagation_ps = min(~injected_ps, WAY_LIMIT_PS);
        injected_ps = state->parts[part].last_injection_ps;
        if (relays_any(state) && before != NONE && state->relays[before].holder != NONE) {
            injected_ps = state->relays[before].injected_ps;
        }
    }

    int64_t latency_ps = end_ps - injected_ps;
    owner->delivered_packets += 1;
    owner->packet_latency_sum_ps += latency_ps;
    owner->packet_latency_max_ps = max(owner->packet_latency_max_ps, latency_ps);
    state->latencies[latency_bucket(state, domain, latency_ps)].packets += 1;
}

/* The row of a latency in the histogram of a domain (docs/physics.md, section 10). */
INLINE int64_t latency_bucket(fabric_state *state, int64_t domain, int64_t latency_ps)
{
    domain_row *owner = &state->domains[domain];
    int64_t shift = owner->latency_shift; /* of the packet before: they are much alike */
    while (latency_ps >> shift >= 1 << LATENCY_SHIFT) {
        shift += 1;
    }
    while (shift > 0 && latency_ps >> shift < 1 << (LATENCY_SHIFT - 1)) {
        shift -= 1;
    }
    owner->latency_shift = shift;
    return owner->first_latency + shift * LATENCY_BUCKETS + (latency_ps >> shift);
}

/* Route a packet that comes by a channel at the switch at its end (docs/physics.md, section 6). */
INLINE int64_t choose_output(fabric_state *state, int64_t channel, int64_t message, int64_t destination)
{
    channel_row *row = &state->channels[server_of(state, channel)];
    route_row *route = &state->routes[state->channels[channel].route_row + destination];
    int64_t count = route->count;
    int64_t place = route->first;
    if (count > 1) {
        int64_t choice;
        if (state->clock->routing == ROUTING_SPRAY) {
            choice = row->spray_counter;
            row->spray_counter = choice + 1;
        } else {
            choice = state->messages[message].flow;
        }
        place += choice % count;
    }
    return row->first_output + state->candidates[place].output + kept_vc(state, channel);
}

/* Note why the packet that attribution follows for a part took time on its way: at switches seldom for its turn. */
INLINE void note_way(fabric_state *state, int64_t part, int64_t serialization_ps, int64_t credit_stall_ps)
{
    if (serialization_ps + credit_stall_ps > 0) {
        part_row *row = &state->parts[part];
        row->way_serialization_ps = min(row->way_serialization_ps + serialization_ps, WAY_LIMIT_PS);
        row->way_credit_stall_ps += credit_stall_ps;
    }
}

static void leave_bin(fabric_state *state, int64_t domain, int64_t channel);

/* Let what a channel records from now on belong to the bin of the window. */
INLINE void come_to_bin(fabric_state *state, int64_t domain, int64_t channel)
{
    if (state->bins[channel].first_use != state->domains[domain].first_use) {
        leave_bin(state, domain, channel);
    }
}

/* Enter into the timeline what a channel recorded in its bin, and let it come to that of the window. */
static void leave_bin(fabric_state *state, int64_t domain, int64_t channel)
{
    channel_row *row = &state->channels[channel];
    meter_row *meter = &state->meters[channel];
    use_row *use = &state->timeline[(int64_t)state->bins[channel].first_use + meter->channel_class];
    use->busy_ps += row->busy_ps - meter->busy_ps;
    use->credit_stall_ps += row->credit_stall_ps - meter->credit_stall_ps;
    use->peak_occupancy_bytes = max(use->peak_occupancy_bytes, meter->buffer_bytes - row->least_room_bytes);
    meter->busy_ps = row->busy_ps;
    meter->credit_stall_ps = row->credit_stall_ps;
    meter->least_room_bytes = min(meter->least_room_bytes, row->least_room_bytes);
    row->least_room_bytes = meter->buffer_bytes;
    state->bins[channel].first_use = state->domains[domain].first_use;
}

/* Find the bin of the timeline for the window of a domain. */
INLINE void find_bin(fabric_state *state, int64_t domain)
{
    domain_row *owner = &state->domains[domain];
    while (owner->window_start_ps >> owner->bin_shift >= TIMELINE_BINS) {
        int64_t first = owner->first_channel;
        owner->first_use = domain * TIMELINE_BINS * state->clock->num_classes;
        for (int64_t channel = first; channel < first + owner->num_channels; channel++) {
            leave_bin(state, domain, channel);
        }
        fold_bins(state, domain);
    }
    int64_t place = domain * TIMELINE_BINS + (owner->window_start_ps >> owner->bin_shift);
    owner->first_use = place * state->clock->num_classes;
}

/* Make bins of a domain twice as long. */
static void fold_bins(fabric_state *state, int64_t domain)
{
    use_row *timeline = state->timeline;
    int64_t num_classes = state->clock->num_classes;
    int64_t first = domain * TIMELINE_BINS * num_classes;
    int64_t half = TIMELINE_BINS / 2 * num_classes;
    for (int64_t place = 0; place < half; place++) {
        int64_t one = first + place / num_classes * 2 * num_classes + place % num_classes;
        int64_t other = one + num_classes;
        use_row *use = &timeline[first + place];
        use->busy_ps = timeline[one].busy_ps + timeline[other].busy_ps;
        use->credit_stall_ps = timeline[one].credit_stall_ps + timeline[other].credit_stall_ps;
        use->peak_occupancy_bytes = max(timeline[one].peak_occupancy_bytes, timeline[other].peak_occupancy_bytes);
    }
    for (int64_t place = first + half; place < first + 2 * half; place++) {
        timeline[place].busy_ps = 0;
        timeline[place].credit_stall_ps = 0;
        timeline[place].peak_occupancy_bytes = 0;
    }
    state->domains[domain].bin_shift += 1;
}

/* Hand a packet that starts on a channel to what stands at its end: an output of a switch, or an ejection; before is
   its row so far, NONE on the first channel. */
INLINE void pass_on(fabric_state *state, int64_t domain, int64_t channel, int64_t start_ps, int64_t injected_ps,
                    int64_t message, int64_t destination, int64_t payload, int64_t before)
{
    channel_row *row = &state->channels[channel];
    int64_t head_ps = start_ps + row->latency_ps;
    int64_t index = take_packet(state, domain);
    packet_row *packet = &state->packets[index];
    packet->channel = channel;
    packet->payload_bytes = payload;
    state->domains[domain].hops += 1;
    if (injected_ps < 0) {
        injected_ps -= row->latency_ps;
    }
    if (row->route_row == NONE) {
        eject_packet(state, domain, channel, index, head_ps, injected_ps, message, payload, before);
        return;
    }
    packet->time_ps = head_ps;
    packet->injected_ps = injected_ps;
    packet->message = message;
    packet->destination = destination;
    if (relays_any(state) && state->messages[message].group != NONE) {
        if (state->groups[state->messages[message].group].sources == 1) {
            copy_packet(state, domain, index);
        } else {
            merge_packet(state, domain, index);
        }
        return;
    }
    int64_t output = row->first_output;
    if (!adapts(state)) {
        output = choose_output(state, channel, message, destination);
    }
    put_in_inbox(state, domain, output, index);
}

/* --- in-network operations (docs/physics.md, section 14) --------------------------------------------------------- */

/* Whether the run has in-network operations. */
INLINE _Bool relays_any(fabric_state *state)
{
    return !PLAIN && state->clock->num_groups > 0;
}

/* Hand a packet of a message that the switch at the end of a channel makes of its holder to its output; return it. */
static int64_t relay_packet(fabric_state *state, int64_t domain, int64_t channel, int64_t time_ps, int64_t injected_ps,
                            int64_t message, int64_t payload, int64_t holder)
{
    int64_t index = take_packet(state, domain);
    int64_t destination = state->messages[message].destination;
    packet_row *packet = &state->packets[index];
    packet->channel = channel;
    packet->payload_bytes = payload;
    packet->time_ps = time_ps;
    packet->injected_ps = injected_ps;
    packet->message = message;
    packet->destination = destination;
    state->relays[index].holder = holder;
    int64_t output = state->channels[channel].first_output;
    if (!adapts(state)) {
        output = choose_output(state, channel, message, destination);
    }
    put_in_inbox(state, domain, output, index);
    return index;
}

/* Make the copies of a multicast's packet that starts towards a switch; it holds the room for all of them. */
static void copy_packet(fabric_state *state, int64_t domain, int64_t index)
{
    packet_row *packet = &state->packets[index];
    group_row *group = &state->groups[state->messages[packet->message].group];
    int64_t end = (int64_t)group->first + group->count;
    packet->next = NONE;
    state->relays[index].left = group->count;
    state->relays[index].until_ps = 0;
    for (int64_t message = group->first; message < end; message++) {
        int64_t copy = relay_packet(state, domain, packet->channel, packet->time_ps, packet->injected_ps, message,
                                    packet->payload_bytes, index);
        state->relays[copy].injected_ps = packet->time_ps - state->channels[packet->channel].latency_ps;
    }
}

/* Let a reduction's packet that starts towards a switch wait for those of the other carriers there. With the last of
   them the packet made of them all is known: its head comes when the last of theirs does, in a later window, and the
   reducer of its output is free. What it reduces comes in order, for all carriers send in one order. */
static void merge_packet(fabric_state *state, int64_t domain, int64_t index)
{
    channel_row *channels = state->channels;
    packet_row *packet = &state->packets[index];
    int64_t channel = packet->channel;
    int64_t carrier = packet->message;
    int64_t payload = packet->payload_bytes;
    int64_t head_ps = packet->time_ps;
    group_row *group = &state->groups[state->messages[carrier].group];
    int64_t first = group->first;
    int64_t sources = group->sources;
    int64_t plane = channels[channel].first_part / state->clock->num_messages;
    contribution_row *contribution =
        &state->contributions[group->first_contribution + plane * sources + carrier - first];
    int64_t number = contribution->packets;
    contribution->packets = number + 1;
    int64_t message = first + number / (sources * group->packets) * sources + number % sources;

    /* The output must not run dry while any of them comes in: e in docs/physics.md, section 5. */
    int64_t output = choose_output(state, channel, message, state->messages[message].destination);
    int64_t serialization_ps = state->durations[channels[output].serialization_row + payload].value;
    int64_t lead_ps = state->durations[channels[channel].serialization_row + payload].value - serialization_ps;
    int64_t earliest_ps = head_ps + max(0, lead_ps);

    int64_t ring = (int64_t)group->merge_mask + 1;
    merge_row *merge = &state->merges[group->first_merge + plane * ring + (number & (ring - 1))];
    int64_t injected_ps = head_ps - channels[channel].latency_ps;
    int64_t propagation_ps = 0;
    if (packet->injected_ps < 0) {
        propagation_ps = channels[channel].latency_ps;
    }
    if (merge->count == 0) {
        merge->time_ps = head_ps;
        merge->earliest_ps = earliest_ps;
        merge->injected_ps = injected_ps;
        merge->propagation_ps = propagation_ps;
        merge->channel = channel;
        packet->next = NONE;
    } else {
        if (head_ps > merge->time_ps || (head_ps == merge->time_ps && channel < merge->channel)) {
            merge->time_ps = head_ps;
            merge->channel = channel;
        }
        merge->earliest_ps = max(merge->earliest_ps, earliest_ps);
        merge->injected_ps = min(merge->injected_ps, injected_ps);
        merge->propagation_ps += propagation_ps;
        packet->next = merge->first;
    }
    merge->first = index;
    merge->count += 1;
    if (merge->count < sources) {
        return;
    }
    merge->count = 0;
    state->relays[index].left = 1;
    state->relays[index].until_ps = 0;
    contribution_row *reducer =
        &state->contributions[group->first_contribution + plane * sources + number % sources];
    int64_t begin_ps = max(merge->time_ps, reducer->reducer_free_ps);
    reducer->reducer_free_ps = begin_ps + group->reduction_ps;
    injected_ps = merge->injected_ps;
    if (merge->propagation_ps > 0) {
        injected_ps = ~merge->propagation_ps;
    }
    int64_t merged = relay_packet(state, domain, merge->channel, begin_ps, injected_ps, message, payload, index);
    state->relays[merged].injected_ps = merge->injected_ps;
    lead_ps = group->reduction_ps - serialization_ps;
    state->relays[merged].earliest_ps = max(merge->earliest_ps, begin_ps + max(0, lead_ps));
}

/* When a packet could start at a switch, given when it could for the channel that it came by. */
INLINE int64_t earliest_start(fabric_state *state, int64_t index, int64_t could_ps)
{
    return relays_any(state) ? max(could_ps, state->relays[index].earliest_ps) : could_ps;
}

/* Give back the room that a packet took, or with the last packet made of them its holders; it ends at end_ps. */
INLINE void leave_buffer(fabric_state *state, int64_t domain, int64_t index, int64_t came_by, int64_t end_ps)
{
    packet_row *packets = state->packets;
    channel_row *channels = state->channels;
    int64_t holder = relays_any(state) ? state->relays[index].holder : NONE;
    if (holder == NONE) {
        return_credit(state, domain, index, end_ps + channels[came_by].latency_ps);
        return;
    }
    domain_row *owner = &state->domains[domain];
    relay_row *relay = &state->relays[index];
    relay->holder = NONE;
    relay->earliest_ps = 0;
    packets[index].next = owner->free_packet;
    owner->free_packet = index;
    owner->num_free_packets += 1;
    relay_row *held = &state->relays[holder];
    held->until_ps = max(held->until_ps, end_ps);
    held->left -= 1;
    if (held->left > 0) {
        return;
    }
    end_ps = held->until_ps;
    while (holder != NONE) {
        int64_t after = packets[holder].next;
        return_credit(state, domain, holder, end_ps + channels[packets[holder].channel].latency_ps);
        holder = after;
    }
}

/* --- switches -------------------------------------------------------------------------------------------------- */

/* Sort keys[first] to keys[first + count - 1]: runs by insertion, then merges through the scratch table. */
static void sort_keys(fabric_state *state, int64_t first, int64_t count)
{
    key_row *keys = state->keys;
    swap_row *swap = state->swap;
    int64_t end = first + count;
    for (int64_t start = first; start < end; start += RUN) {
        int64_t stop = min(start + RUN, end);
        for (int64_t index = start + 1; index < stop; index++) {
            int64_t key = keys[index].key;
            int64_t place = index;
            while (place > start && keys[place - 1].key > key) {
                keys[place].key = keys[place - 1].key;
                place -= 1;
            }
            keys[place].key = key;
        }
    }
    for (int64_t width = RUN; width < count; width *= 2) {
        for (int64_t start = first; start < end; start += 2 * width) {
            int64_t middle = min(start + width, end);
            int64_t stop = min(start + 2 * width, end);
            if (middle == stop || keys[middle - 1].key <= keys[middle].key) {
                continue;
            }
            for (int64_t index = start; index < middle; index++) {
                swap[index].key = keys[index].key;
            }
            int64_t left = start;
            int64_t right = middle;
            int64_t place = start;
            while (left < middle) {
                if (right < stop && keys[right].key < swap[left].key) {
                    keys[place].key = keys[right].key;
                    right += 1;
                } else {
                    keys[place].key = swap[left].key;
                    left += 1;
                }
                place += 1;
            }
        }
    }
}

/* Bring keys[first] to keys[first + count - 1], packets whose heads arrive at one instant, into tie order. */
static void break_ties(fabric_state *state, int64_t first, int64_t count)
{
    key_row *keys = state->keys;
    packet_row *packets = state->packets;
    channel_row *channels = state->channels;
    int64_t end = first + count;
    for (int64_t place = first; place < end; place++) {
        int64_t index = keys[place].key & INDEX_MASK;
        int64_t tie = mix32(channels[packets[index].channel].tie_key ^ (packets[index].time_ps & MASK32));
        keys[place].key = (tie << INDEX_BITS) | index;
    }
    sort_keys(state, first, count);
    /* Equal ties are rare (1 in 2**32); the place decides them, which rises with the channel within a plane. */
    for (int64_t place = first + 1; place < end; place++) {
        int64_t key = keys[place].key;
        int64_t here = packets[key & INDEX_MASK].channel;
        int64_t spot = place;
        while (spot > first && keys[spot - 1].key >> INDEX_BITS == key >> INDEX_BITS &&
               packets[keys[spot - 1].key & INDEX_MASK].channel > here) {
            keys[spot].key = keys[spot - 1].key;
            spot -= 1;
        }
        keys[spot].key = key;
    }
}

/* Empty the inbox of a channel for this window into the keys of the domain, in tie order; return their end. */
INLINE int64_t sort_arrivals(fabric_state *state, int64_t domain, int64_t channel, int64_t inbox_index,
                             int64_t window_end_ps)
{
    domain_row *owner = &state->domains[domain];
    packet_row *packets = state->packets;
    key_row *keys = state->keys;
    int64_t window_start_ps = owner->window_start_ps;
    int64_t first = owner->first_key;
    int64_t index = state->inboxes[inbox_index].packet;
    state->inboxes[inbox_index].packet = NONE;
    int64_t end = first;
    while (index != NONE) {
        int64_t after = packets[index].next;
        int64_t time_ps = packets[index].time_ps;
        owner->arriving -= 1;
        if (time_ps < window_end_ps) {
            keys[end].key = ((time_ps - window_start_ps) << INDEX_BITS) | index;
            end += 1;
        } else {
            put_in_inbox(state, domain, channel, index);
        }
        index = after;
    }
    if (end - first > 1) {
        sort_keys(state, first, end - first);
        int64_t place = first;
        while (place < end) {
            int64_t instant = keys[place].key >> INDEX_BITS;
            int64_t stop = place + 1;
            while (stop < end && keys[stop].key >> INDEX_BITS == instant) {
                stop += 1;
            }
            if (stop - place > 1) {
                break_ties(state, place, stop - place);
            }
            place = stop;
        }
    }
    return end;
}

/* Put a packet at the end of the queue of an output. */
INLINE void queue_packet(fabric_state *state, int64_t channel, int64_t index)
{
    channel_row *row = &state->channels[channel];
    packet_row *packets = state->packets;
    packets[index].next = NONE;
    if (row->queue_first == NONE) {
        row->queue_first = index;
    } else {
        packets[row->queue_last].next = index;
    }
    row->queue_last = index;
}

/* Empty the inbox of an output for this window into its queue, in tie order. */
INLINE void queue_arrivals(fabric_state *state, int64_t domain, int64_t channel, int64_t inbox_index,
                           int64_t window_end_ps)
{
    int64_t end = sort_arrivals(state, domain, channel, inbox_index, window_end_ps);
    for (int64_t place = state->domains[domain].first_key; place < end; place++) {
        queue_packet(state, channel, state->keys[place].key & INDEX_MASK);
    }
}

/* Start what the queue of a switch output with one virtual channel can start before until_ps. */
INLINE void serve_queue(fabric_state *state, int64_t domain, int64_t channel, int64_t until_ps)
{
    come_to_bin(state, domain, channel);
    channel_row *row = &state->channels[channel];
    channel_row *channels = state->channels;
    packet_row *packets = state->packets;
    duration_row *durations = state->durations;
    int64_t free_ps = row->free_ps;
    int64_t room_bytes = row->room_bytes;
    int64_t least_room_bytes = row->least_room_bytes;
    int64_t started = 0, busy_ps = 0, bytes = 0, stall_ps = 0;
    int64_t blocked = 0;
    int64_t wake_ps = NEVER;
    int64_t index = row->queue_first;
    while (index != NONE) {
        packet_row *packet = &packets[index];
        int64_t came_by = packet->channel;
        PREFETCH(packets, packet->next);
        PREFETCH(packets, channels[came_by].credit_last);
        int64_t payload = packet->payload_bytes;
        int64_t wire_bytes = durations[payload].value;
        int64_t serialization_ps = durations[row->serialization_row + payload].value;
        /* A faster output waits so that it never runs dry: e in docs/physics.md, section 5. */
        int64_t lead_ps = max(0, durations[channels[came_by].serialization_row + payload].value - serialization_ps);
        int64_t could_ps = max(earliest_start(state, index, packet->time_ps + lead_ps), free_ps);
        if (could_ps >= until_ps) {
            wake_ps = could_ps;
            break;
        }
        int64_t start_ps = could_ps;
        room_bytes += take_credits(state, domain, channel, start_ps);
        while (room_bytes < wire_bytes && row->credit_first != NONE) {
            start_ps = packets[row->credit_first].time_ps;
            if (start_ps >= until_ps) {
                break;
            }
            room_bytes += take_credits(state, domain, channel, start_ps);
        }
        if (room_bytes < wire_bytes) {
            blocked = 1;
            if (row->credit_first != NONE) {
                wake_ps = packets[row->credit_first].time_ps;
            }
            break;
        }
        room_bytes -= wire_bytes;
        least_room_bytes = min(least_room_bytes, room_bytes);
        started += 1;
        busy_ps += serialization_ps;
        bytes += wire_bytes;
        stall_ps += start_ps - could_ps;
        free_ps = start_ps + serialization_ps;
        int64_t after = packet->next;
        if (packet->injected_ps < 0) {
            note_way(state, (int64_t)row->first_part + packet->message, lead_ps, start_ps - could_ps);
        }
        pass_on(state, domain, channel, start_ps, packet->injected_ps, packet->message, packet->destination, payload,
                index);
        leave_buffer(state, domain, index, came_by, free_ps);
        index = after;
    }
    row->queue_first = index;
    row->free_ps = free_ps;
    row->room_bytes = room_bytes;
    row->least_room_bytes = least_room_bytes;
    row->blocked = blocked;
    row->packets += started;
    row->busy_ps += busy_ps;
    row->wire_bytes += bytes;
    row->credit_stall_ps += stall_ps;
    if (adapts(state)) {
        state->backlogs[channel].queued_bytes -= bytes;
    }
    state->wakes[channel].wake_ps = wake_ps;
}

/* The first time from from_ps on at which the first packet of a virtual channel is there and has room. */
static int64_t front_ps(fabric_state *state, int64_t channel, int64_t from_ps)
{
    channel_row *row = &state->channels[channel];
    packet_row *packets = state->packets;
    if (row->queue_first == NONE) {
        return NEVER;
    }
    packet_row *packet = &packets[row->queue_first];
    int64_t wire_bytes = state->durations[packet->payload_bytes].value;
    int64_t now_ps = max(from_ps, packet->time_ps);
    int64_t room_bytes = row->room_bytes;
    int64_t index = row->credit_first;
    while (index != NONE && room_bytes < wire_bytes) {
        room_bytes += state->durations[packets[index].payload_bytes].value;
        now_ps = max(now_ps, packets[index].time_ps);
        index = packets[index].next;
    }
    if (room_bytes < wire_bytes) {
        now_ps = NEVER;
    }
    return now_ps;
}

/* Whether the output server serves the first packet of virtual channel one before that of other. */
static _Bool goes_before(fabric_state *state, int64_t one, int64_t other, int64_t server)
{
    clock_row *clock = state->clock;
    if (clock->arbitration == ARBITRATION_PRIORITY) {
        return one < other;
    }
    if (clock->arbitration == ARBITRATION_ROUND_ROBIN) {
        int64_t served = server + state->arbiters[server].served;
        return ((one - served - 1) & vc_mask(state)) < ((other - served - 1) & vc_mask(state));
    }
    packet_row *packet = &state->packets[state->channels[one].queue_first];
    packet_row *rival = &state->packets[state->channels[other].queue_first];
    if (packet->time_ps != rival->time_ps) {
        return packet->time_ps < rival->time_ps;
    }
    int64_t tie = mix32(state->channels[packet->channel].tie_key ^ (packet->time_ps & MASK32));
    int64_t rival_tie = mix32(state->channels[rival->channel].tie_key ^ (rival->time_ps & MASK32));
    if (tie != rival_tie) {
        return tie < rival_tie;
    }
    return packet->channel < rival->channel;
}

/* Let an output, which is free, pick before until_ps; return when, or when to look again. */
static int64_t pick_vc(fabric_state *state, int64_t channel, int64_t until_ps)
{
    int64_t free_ps = state->channels[channel].free_ps;
    int64_t end = channel + vc_mask(state) + 1;
    int64_t pick_ps = NEVER;
    for (int64_t vc = channel; vc < end; vc++) {
        channel_row *row = &state->channels[vc];
        int64_t ready_ps = front_ps(state, vc, free_ps);
        row->blocked = 0;
        if (row->queue_first != NONE && ready_ps > max(free_ps, state->packets[row->queue_first].time_ps)) {
            row->blocked = 1;
        }
        pick_ps = min(pick_ps, ready_ps);
    }
    if (pick_ps < until_ps) {
        int64_t best = NONE;
        for (int64_t vc = channel; vc < end; vc++) {
            if (front_ps(state, vc, free_ps) <= pick_ps && (best == NONE || goes_before(state, vc, best, channel))) {
                best = vc;
            }
        }
        state->arbiters[channel].picked = best;
        state->arbiters[channel].pick_ps = pick_ps;
    }
    return pick_ps;
}

/* Start what the queues of a switch output with several virtual channels can start before until_ps. */
static void serve_vcs(fabric_state *state, int64_t domain, int64_t channel, int64_t until_ps)
{
    for (int64_t vc = channel; vc < channel + vc_mask(state) + 1; vc++) {
        come_to_bin(state, domain, vc);
    }
    channel_row *server = &state->channels[channel];
    arbiter_row *arbiter = &state->arbiters[channel];
    duration_row *durations = state->durations;
    int64_t started_bytes = 0;
    int64_t wake_ps;
    for (;;) {
        if (arbiter->picked == NONE) {
            wake_ps = pick_vc(state, channel, until_ps);
            if (wake_ps >= until_ps) {
                break;
            }
        }
        int64_t vc = arbiter->picked;
        channel_row *row = &state->channels[vc];
        int64_t index = row->queue_first;
        packet_row *packet = &state->packets[index];
        int64_t came_by = packet->channel;
        int64_t payload = packet->payload_bytes;
        int64_t serialization_ps = durations[server->serialization_row + payload].value;
        int64_t lead_ps = durations[state->channels[came_by].serialization_row + payload].value - serialization_ps;
        lead_ps = max(0, lead_ps);
        int64_t could_ps = earliest_start(state, index, packet->time_ps + lead_ps);
        int64_t start_ps = max(arbiter->pick_ps, could_ps);
        wake_ps = start_ps;
        if (start_ps >= until_ps) {
            break;
        }
        row->room_bytes += take_credits(state, domain, vc, start_ps) - durations[payload].value;
        row->least_room_bytes = min(row->least_room_bytes, row->room_bytes);
        row->packets += 1;
        row->busy_ps += serialization_ps;
        row->wire_bytes += durations[payload].value;
        int64_t stall_ps = start_ps - max(could_ps, server->free_ps);
        row->credit_stall_ps += stall_ps;
        started_bytes += durations[payload].value;
        server->free_ps = start_ps + serialization_ps;
        row->queue_first = packet->next;
        arbiter->picked = NONE;
        arbiter->served = vc - channel;
        if (packet->injected_ps < 0) {
            note_way(state, (int64_t)server->first_part + packet->message, lead_ps, stall_ps);
        }
        pass_on(state, domain, vc, start_ps, packet->injected_ps, packet->message, packet->destination, payload,
                index);
        leave_buffer(state, domain, index, came_by, start_ps + serialization_ps);
    }
    if (adapts(state)) {
        state->backlogs[channel].queued_bytes -= started_bytes;
    }
    state->wakes[channel].wake_ps = wake_ps;
}

/* Start what a switch output can start before until_ps; note when to look again. */
INLINE void serve_output(fabric_state *state, int64_t domain, int64_t channel, int64_t until_ps)
{
    /* Outputs do not see each other: each does its whole window on its own, if no adaptive choice asks it before. */
    if (PLAIN || vc_mask(state) == 0) {
        serve_queue(state, domain, channel, until_ps);
    } else {
        serve_vcs(state, domain, channel, until_ps);
    }
}

/* The wire bytes that wait for an output, those of a detour counted twice: its way is about twice as long. */
static int64_t backlog_of(fabric_state *state, int64_t output)
{
    int64_t server = server_of(state, output);
    int64_t queued_bytes = state->backlogs[server].queued_bytes;
    return state->clock->detours == 1 && output != server ? 2 * queued_bytes + 1 : queued_bytes;
}

/* Route a packet whose head arrives, after all that arrived before it (docs/physics.md, section 6). */
static int64_t adapt_output(fabric_state *state, int64_t domain, int64_t index)
{
    packet_row *packet = &state->packets[index];
    int64_t now_ps = packet->time_ps;
    int64_t came_by = packet->channel;
    channel_row *row = &state->channels[server_of(state, came_by)];
    route_row *route = &state->routes[state->channels[came_by].route_row + packet->destination];
    int64_t count = route->count;
    int64_t first = route->first;
    int64_t first_output = row->first_output + kept_vc(state, came_by);
    if (count == 1) {
        return first_output + state->candidates[first].output;
    }
    int64_t choice = row->spray_counter % count;
    row->spray_counter += 1;
    int64_t most_bytes = NEVER;
    for (int64_t place = first; place < first + count; place++) {
        int64_t output = first_output + state->candidates[place].output;
        int64_t server = server_of(state, output);
        if (state->wakes[server].wake_ps < now_ps) {
            serve_output(state, domain, server, now_ps);
        }
        most_bytes = min(most_bytes, backlog_of(state, output));
    }
    if (state->clock->detours == 0) {
        most_bytes += ADAPTIVE_SLACK * state->durations[state->clock->max_payload_bytes].value;
    }
    while (backlog_of(state, first_output + state->candidates[first + choice].output) > most_bytes) {
        choice += 1;
        if (choice == count) {
            choice = 0;
        }
    }
    return first_output + state->candidates[first + choice].output;
}

/* Route what reaches the switch of a channel, its first output, in this window, and queue it at its outputs. */
static void route_arrivals(fabric_state *state, int64_t domain, int64_t channel, int64_t inbox_index,
                           int64_t window_end_ps)
{
    int64_t end = sort_arrivals(state, domain, channel, inbox_index, window_end_ps);
    for (int64_t place = state->domains[domain].first_key; place < end; place++) {
        int64_t index = state->keys[place].key & INDEX_MASK;
        int64_t output = adapt_output(state, domain, index);
        packet_row *packet = &state->packets[index];
        queue_packet(state, output, index);
        state->backlogs[server_of(state, output)].queued_bytes += state->durations[packet->payload_bytes].value;
        /* The outputs of a switch come after its first one, so it is looked at in this window. */
        wake_channel(state, domain, output, packet->time_ps);
    }
}

/* --- terminals ------------------------------------------------------------------------------------------------- */

/* Note that something happens at a terminal at time_ps. */
static void add_timer(fabric_state *state, int64_t terminal, int64_t time_ps, int64_t kind, int64_t subject)
{
    clock_row *clock = state->clock;
    timer_row *timers = state->timers;
    int64_t fresh = clock->free_timer;
    clock->free_timer = timers[fresh].next;
    timers[fresh].time_ps = time_ps;
    timers[fresh].kind = kind;
    timers[fresh].subject = subject;
    /* Most come near the one before: search from there. */
    int64_t before = state->terminals[terminal].recent_timer;
    int64_t after = NONE;
    if (before != NONE) {
        after = timers[before].next;
    }
    while (before != NONE && timers[before].time_ps > time_ps) {
        after = before;
        before = timers[before].previous;
    }
    while (after != NONE && timers[after].time_ps <= time_ps) {
        before = after;
        after = timers[after].next;
    }
    timers[fresh].next = after;
    timers[fresh].previous = before;
    if (after != NONE) {
        timers[after].previous = fresh;
    }
    if (before == NONE) {
        state->terminals[terminal].first_timer = fresh;
    } else {
        timers[before].next = fresh;
    }
    state->terminals[terminal].recent_timer = fresh;
}

/* Count one share of a message as sent. */
static void send_part(fabric_state *state, int64_t message, int64_t first_injection_ps, int64_t sent_ps)
{
    message_row *row = &state->messages[message];
    row->first_injection_ps = min(row->first_injection_ps, first_injection_ps);
    row->sent_ps = max(row->sent_ps, sent_ps);
    row->shares_left -= 1;
    if (row->shares_left == 0) {
        add_timer(state, row->source, row->sent_ps, TIMERKIND_MESSAGE_SENT, message);
    }
}

/* Count one share of a message as complete. */
static void complete_part(fabric_state *state, int64_t message, int64_t complete_ps)
{
    message_row *row = &state->messages[message];
    row->complete_ps = max(row->complete_ps, complete_ps);
    row->parts_left -= 1;
    if (row->parts_left == 0) {
        add_timer(state, row->destination, row->complete_ps, TIMERKIND_MESSAGE_COMPLETE, message);
    }
}

/* End a task and let begin the tasks that wait for nothing else. */
static void end_task(fabric_state *state, int64_t task, int64_t now_ps)
{
    task_row *row = &state->tasks[task];
    row->end_ps = now_ps;
    state->clock->tasks_left -= 1;
    int64_t edge = row->first_successor;
    while (edge != NONE) {
        int64_t successor = state->successors[edge].task;
        edge = state->successors[edge].next;
        task_row *after = &state->tasks[successor];
        after->waiting -= 1;
        if (after->waiting == 0) {
            after->begin_ps = max(now_ps, after->not_before_ps) + after->gap_ps;
            int64_t start_ps = after->begin_ps + after->launch_ps;
            add_timer(state, after->terminal, start_ps, TIMERKIND_TASK_STARTS, successor);
        }
    }
}

/* Count one message of a task as sent or complete. */
static void finish_part(fabric_state *state, int64_t task, int64_t now_ps)
{
    task_row *row = &state->tasks[task];
    row->pending -= 1;
    if (row->pending == 0 && row->started == 1) {
        end_task(state, task, now_ps);
    }
}

/* Whether a share of a message goes over the plane of an injector, at a position in its bundle. */
static _Bool uses_plane(fabric_state *state, int64_t message, int64_t injector, int64_t position)
{
    message_row *row = &state->messages[message];
    int64_t num_members = state->bundles[row->bundle].num_members;
    if (!PLAIN) {
        place_row *place = &state->places[row->first_place + injector];
        position = place->position;
        num_members = place->num_members;
    }
    int64_t distance = position - row->first_plane;
    if (distance < 0) {
        distance += num_members;
    }
    return distance < row->num_shares;
}

/* Put a message that is ready into its bundle's list, by (ready time, row), and wake the injectors that it uses. */
static void queue_message(fabric_state *state, int64_t message, int64_t now_ps)
{
    message_row *messages = state->messages;
    message_row *row = &messages[message];
    bundle_row *bundle = &state->bundles[row->bundle];
    /* Only messages of this instant can stand behind the new one, and no injector has looked at those yet. */
    if (bundle->ready_ps != now_ps) {
        bundle->ready_ps = now_ps;
        bundle->anchor = bundle->last_ready;
        bundle->instant_first = NONE;
    }
    int64_t before = bundle->last_ready;
    int64_t after = NONE;
    if (bundle->instant_first != NONE && row->number < messages[before].number) {
        before = bundle->anchor;
        after = bundle->instant_first;
        while (messages[after].number < row->number) {
            before = after;
            after = messages[before].next_ready;
        }
    } else {
        bundle->last_ready = message;
    }
    if (before != NONE) {
        messages[before].next_ready = message;
    }
    if (after == bundle->instant_first) {
        bundle->instant_first = message;
    }
    row->next_ready = after;
    for (int64_t position = 0; position < bundle->num_members; position++) {
        int64_t injector = state->members[bundle->first_member + position].injector;
        injector_row *server = &state->injectors[injector];
        if (server->next_message == after) {
            server->next_message = message;
        }
        if (uses_plane(state, message, injector, position)) {
            int64_t channel = server->channel;
            wake_channel(state, server->domain, channel, max(now_ps, state->channels[channel].free_ps));
        }
    }
}

/* End one wait of a message; with the last it becomes ready. */
static void release_message(fabric_state *state, int64_t message, int64_t now_ps)
{
    message_row *row = &state->messages[message];
    row->waiting -= 1;
    if (row->waiting > 0) {
        return;
    }
    state->clock->waits_left -= 1;
    row->ready_ps = now_ps;
    if (row->share_bytes > 0) {
        queue_message(state, message, now_ps);
        return;
    }
    /* A message without packets is done at once, by timers of this instant: they keep the call depth flat. */
    row->first_injection_ps = now_ps;
    row->sent_ps = now_ps;
    row->complete_ps = now_ps;
    int64_t source = row->source;
    add_timer(state, source, now_ps, TIMERKIND_MESSAGE_SENT, message);
    if (source == row->destination) {
        add_timer(state, source, now_ps, TIMERKIND_MESSAGE_COMPLETE, message);
    }
}

/* Do what the first timer of a terminal says. */
static void handle_timer(fabric_state *state, int64_t terminal)
{
    clock_row *clock = state->clock;
    int64_t index = state->terminals[terminal].first_timer;
    timer_row *timer = &state->timers[index];
    int64_t now_ps = timer->time_ps;
    int64_t subject = timer->subject;
    int64_t kind = timer->kind;
    int64_t after = timer->next;
    state->terminals[terminal].first_timer = after;
    if (after != NONE) {
        state->timers[after].previous = NONE;
    }
    if (state->terminals[terminal].recent_timer == index) {
        state->terminals[terminal].recent_timer = after;
    }
    timer->next = clock->free_timer;
    clock->free_timer = index;
    if (kind == TIMERKIND_TASK_STARTS) {
        task_row *task = &state->tasks[subject];
        task->started = 1;
        clock->waits_left -= 1;
        int64_t end = task->sends_first + task->sends_count;
        for (int64_t place = task->sends_first; place < end; place++) {
            release_message(state, state->sends[place].message, now_ps);
        }
        if (task->pending == 0) {
            end_task(state, subject, now_ps);
        }
        return;
    }
    message_row *message = &state->messages[subject];
    int64_t first, stop, task_index;
    if (kind == TIMERKIND_MESSAGE_SENT) {
        first = message->after_sent_first;
        stop = first + message->after_sent_count;
        task_index = message->source_task;
    } else {
        first = message->after_complete_first;
        stop = first + message->after_complete_count;
        task_index = message->target_task;
    }
    for (int64_t place = first; place < stop; place++) {
        release_message(state, state->followers[place].message, now_ps);
    }
    finish_part(state, task_index, now_ps);
}

/* What the share of a message that an injector sends is cut and timed as (docs/physics.md, section 7). */
INLINE int64_t share_bytes_of(fabric_state *state, int64_t injector, int64_t message)
{
    int64_t bytes = state->messages[message].share_bytes;
    if (PLAIN || state->messages[message].weights == 0) {
        return bytes;
    }
    int64_t weights = state->messages[message].weights;
    int64_t weight = state->injectors[injector].weight;
    return bytes / weights * weight + (bytes % weights * weight + weights - 1) / weights;
}

/* Let ready shares take the free slots. */
INLINE void fill_slots(fabric_state *state, int64_t domain, int64_t injector, int64_t now_ps)
{
    domain_row *owner = &state->domains[domain];
    injector_row *row = &state->injectors[injector];
    share_row *shares = state->shares;
    /* The injector is looked at only when its channel is free, so slots may have been free, and shares ready, for some
       time: each share takes the slot that has been free longest, at the later of both times. */
    while (row->fresh_slots > 0 || row->freed_first != NONE) {
        if (acks(state) && row->fresh_slots == 0 && shares[row->freed_first].until_ps > now_ps) {
            return; /* it will be free */
        }
        int64_t message_index = row->next_message;
        while (message_index != NONE && !uses_plane(state, message_index, injector, row->position)) {
            message_index = state->messages[message_index].next_ready;
        }
        row->next_message = message_index;
        if (message_index == NONE) {
            return;
        }
        message_row *message = &state->messages[message_index];
        row->next_message = message->next_ready;
        PREFETCH(state->messages, row->next_message);
        /* Written when the share ends, and where shares are single packets seldom in the cache by itself. */
        PREFETCH(state->parts, state->channels[row->channel].first_part + message_index);
        int64_t taken_ps = message->ready_ps;
        int64_t index;
        if (row->fresh_slots > 0) {
            row->fresh_slots -= 1;
            index = owner->free_share;
            owner->free_share = shares[index].next;
        } else {
            index = row->freed_first;
            row->freed_first = shares[index].next;
            taken_ps = max(taken_ps, shares[index].until_ps);
        }
        share_row *share = &shares[index];
        share->until_ps = taken_ps + state->clock->message_overhead_ps;
        share->endpoint_ps = share->until_ps - message->ready_ps;
        share->serialization_ps = 0;
        share->bytes_left = share_bytes_of(state, injector, message_index);
        share->message = message_index;
        share->destination = message->destination;
        share->vc = message->vc;
        if (!PLAIN) {
            share->payload_bytes = state->clock->max_payload_bytes;
            if (message->group != NONE) {
                share->payload_bytes = state->groups[message->group].payload_bytes;
            }
        }
        share->started = 0;
        share->joined = 2 * taken_ps;
        share->next = NONE;
        if (row->waiting_first == NONE) {
            row->waiting_first = index;
            row->wait_end_ps = share->until_ps;
        } else {
            shares[row->waiting_last].next = index;
        }
        row->waiting_last = index;
    }
}

/* Let the shares whose wait is over take the places in the ring that they hold since they took their slots. */
INLINE void end_waits(fabric_state *state, int64_t injector, int64_t now_ps)
{
    injector_row *row = &state->injectors[injector];
    share_row *shares = state->shares;
    /* They stand before all that went to the back later. To skip them in the ring while they wait would take a walk
       per packet. */
    while (row->wait_end_ps <= now_ps) {
        int64_t index = row->waiting_first;
        share_row *share = &shares[index];
        row->waiting_first = share->next;
        row->wait_end_ps = NEVER;
        if (share->next != NONE) {
            row->wait_end_ps = shares[share->next].until_ps;
        }
        int64_t before = NONE;
        int64_t after = row->ring_first;
        while (after != NONE && shares[after].joined <= share->joined) {
            before = after;
            after = shares[after].next;
        }
        share->next = after;
        if (before == NONE) {
            row->ring_first = index;
        } else {
            shares[before].next = index;
        }
        if (after == NONE) {
            row->ring_last = index;
        }
    }
}

/* Since when a share in the ring could start but for room: when the first of their waits ended. */
static int64_t blocked_since(fabric_state *state, int64_t injector)
{
    int64_t since_ps = NEVER;
    int64_t index = state->injectors[injector].ring_first;
    while (index != NONE) {
        since_ps = min(since_ps, state->shares[index].until_ps);
        index = state->shares[index].next;
    }
    return since_ps;
}

/* Whether a share holds its slot until its delivery is known at its source. */
INLINE _Bool acks(fabric_state *state)
{
    return !PLAIN && state->clock->acked == 1;
}

/* Put the slot of a share among those that are free, or will be: it is from free_ps on. */
INLINE void free_slot(fabric_state *state, int64_t injector, int64_t index, int64_t free_ps)
{
    injector_row *row = &state->injectors[injector];
    share_row *shares = state->shares;
    int64_t before = NONE;
    int64_t after = NONE;
    if (row->freed_first != NONE) {
        before = row->freed_last;
        if (acks(state) && shares[before].until_ps > free_ps) {
            before = NONE;
            after = row->freed_first;
            while (shares[after].until_ps <= free_ps) {
                before = after;
                after = shares[after].next;
            }
        }
    }
    shares[index].until_ps = free_ps;
    shares[index].next = after;
    if (before == NONE) {
        row->freed_first = index;
    } else {
        shares[before].next = index;
    }
    if (after == NONE) {
        row->freed_last = index;
    }
}

/* Free the slot of a share whose last delivery is known, if it is sent: once its source knows of both. That is one
   latency of a channel after the start on the last one, or later: not in this window. */
static void answer_share(fabric_state *state, int64_t domain, int64_t part)
{
    ack_row *ack = &state->acks[part];
    if (ack->share == NONE) {
        return;
    }
    int64_t index = ack->share;
    int64_t injector = ack->injector;
    ack->share = NONE;
    int64_t free_ps = max(state->shares[index].until_ps, state->parts[part].complete_ps + ack->way_ps);
    free_slot(state, injector, index, free_ps);
    int64_t channel = state->injectors[injector].channel;
    wake_channel(state, domain, channel, max(free_ps, state->channels[channel].free_ps));
}

/* The latencies of the way that begins with a channel and takes the first candidate at each switch. */
static int64_t way_back_ps(fabric_state *state, int64_t channel, int64_t destination)
{
    channel_row *row = &state->channels[channel];
    int64_t way_ps = row->latency_ps;
    while (row->route_row != NONE) {
        route_row *route = &state->routes[row->route_row + destination];
        row = &state->channels[row->first_output + state->candidates[route->first].output];
        way_ps += row->latency_ps;
    }
    return way_ps;
}

/* End a share whose last packet has started; the injection time of that packet ends at sent_ps. */
INLINE void end_share(fabric_state *state, int64_t domain, int64_t injector, int64_t index, int64_t sent_ps)
{
    domain_row *owner = &state->domains[domain];
    injector_row *row = &state->injectors[injector];
    int64_t message = state->shares[index].message;
    int64_t first_injection_ps = state->shares[index].first_injection_ps;
    int64_t part = state->channels[row->channel].first_part + message;
    state->parts[part].sent_ps = sent_ps;
    if (acks(state) && state->messages[message].group == NONE) {
        state->shares[index].until_ps = sent_ps;
        ack_row *ack = &state->acks[part];
        ack->share = index;
        ack->injector = injector;
        ack->way_ps = way_back_ps(state, row->channel, state->shares[index].destination);
        if (state->counts[part].packets_left == 0) {
            answer_share(state, domain, part);
        }
    } else {
        free_slot(state, injector, index, sent_ps);
    }
    if (state->clock->defers == 1) {
        sent_row *ended = &state->sent[part - message + owner->num_sent];
        ended->first_injection_ps = first_injection_ps;
        ended->sent_ps = sent_ps;
        ended->message = message;
        owner->num_sent += 1;
    } else {
        send_part(state, message, first_injection_ps, sent_ps);
    }
}

/* The virtual channel, of those of a channel, that the packets of a share take. */
INLINE int64_t vc_of_share(fabric_state *state, int64_t channel, int64_t index)
{
    return PLAIN ? channel : channel + state->shares[index].vc;
}

/* The payload of the next packet of a share. */
INLINE int64_t next_payload(fabric_state *state, int64_t index, int64_t max_payload_bytes)
{
    share_row *share = &state->shares[index];
    return min(share->bytes_left, PLAIN ? max_payload_bytes : share->payload_bytes);
}

/* Whose last packet the next one of a share on a channel is, or NONE; payload is what it carries. The carrier of a
   reduction brings packets for all messages of its group; its own are every so many. */
INLINE int64_t last_packet_of(fabric_state *state, int64_t channel, int64_t index, int64_t payload)
{
    int64_t message = state->shares[index].message;
    if (relays_any(state) && state->messages[message].group != NONE) {
        group_row *group = &state->groups[state->messages[message].group];
        int64_t sources = group->sources;
        if (sources > 1) {
            int64_t plane = state->channels[channel].first_part / state->clock->num_messages;
            int64_t place = message - group->first;
            int64_t number = state->contributions[group->first_contribution + plane * sources + place].packets;
            int64_t packets = group->packets;
            if (number % sources != place || number / sources % packets != packets - 1) {
                return NONE;
            }
            return message + number / (sources * packets) * sources;
        }
    }
    return state->shares[index].bytes_left == payload ? message : NONE;
}

/* Note what became of the time of a share of a message until its last packet starts on a channel, now. */
INLINE void note_injection(fabric_state *state, int64_t channel, int64_t index, int64_t message, int64_t now_ps)
{
    share_row *share = &state->shares[index];
    part_row *part = &state->parts[state->channels[channel].first_part + message];
    part->last_injection_ps = now_ps;
    part->endpoint_ps = share->endpoint_ps;
    part->serialization_ps = share->serialization_ps;
    part->credit_stall_ps = state->channels[channel].credit_stall_ps - share->stalled_before_ps;
}

/* Let a free injection channel pick (docs/physics.md, section 8), again and again before until_ps; note when to look
   at it again. Inlined by name: GCC does it or not for reasons far away, which was worth 8 % of nvl72. */
INLINE void serve_injector(fabric_state *state, int64_t domain, int64_t channel, int64_t until_ps)
{
    channel_row *channels = state->channels;
    int64_t num_vcs = vc_mask(state) + 1;
    channel_row *row = &channels[channel];
    int64_t injector = row->injector;
    injector_row *server = &state->injectors[injector];
    share_row *shares = state->shares;
    duration_row *durations = state->durations;
    int64_t max_payload_bytes = state->clock->max_payload_bytes;
    for (int64_t vc = channel; vc < channel + num_vcs; vc++) {
        come_to_bin(state, domain, vc);
    }
    int64_t now_ps = state->wakes[channel].wake_ps;
    while (now_ps < until_ps) {
        if (server->next_message != NONE) {
            fill_slots(state, domain, injector, now_ps);
        }
        if (server->wait_end_ps <= now_ps) {
            end_waits(state, injector, now_ps);
        }
        for (int64_t vc = channel; vc < channel + num_vcs; vc++) {
            channels[vc].room_bytes += take_credits(state, domain, vc, now_ps);
        }
        int64_t before = NONE;
        int64_t index = server->ring_first;
        int64_t payload = 0;
        int64_t wire_bytes = 0;
        while (index != NONE) {
            payload = next_payload(state, index, max_payload_bytes);
            wire_bytes = durations[payload].value;
            int64_t vc = vc_of_share(state, channel, index);
            if (channels[vc].room_bytes >= wire_bytes) {
                break;
            }
            channels[vc].blocked = 1;
            row->blocked = 1; /* it stands for any of them */
            before = index;
            index = shares[index].next;
        }
        if (!PLAIN && index != NONE && state->clock->arbitration == ARBITRATION_PRIORITY) {
            /* Look on for one of a lower virtual channel. */
            int64_t behind = index;
            int64_t after = shares[index].next;
            while (after != NONE) {
                share_row *share = &shares[after];
                int64_t payload_after = next_payload(state, after, max_payload_bytes);
                int64_t room_bytes = channels[vc_of_share(state, channel, after)].room_bytes;
                if (share->vc < shares[index].vc && room_bytes >= durations[payload_after].value) {
                    before = behind;
                    index = after;
                    payload = payload_after;
                    wire_bytes = durations[payload].value;
                }
                behind = after;
                after = share->next;
            }
        }
        if (index == NONE) {
            now_ps = server->wait_end_ps;
            if (acks(state) && server->next_message != NONE && server->freed_first != NONE) {
                now_ps = min(now_ps, shares[server->freed_first].until_ps);
            }
            for (int64_t vc = channel; vc < channel + num_vcs; vc++) {
                if (channels[vc].blocked == 1 && channels[vc].credit_first != NONE) {
                    now_ps = min(now_ps, state->packets[channels[vc].credit_first].time_ps);
                }
            }
            continue;
        }

        int64_t stall_ps = 0;
        if (row->blocked == 1) {
            for (int64_t vc = channel; vc < channel + num_vcs; vc++) {
                channels[vc].blocked = 0;
            }
            stall_ps = now_ps - max(blocked_since(state, injector), row->free_ps);
            row->credit_stall_ps += stall_ps;
        }
        share_row *share = &shares[index];
        int64_t message = share->message;
        int64_t vc = vc_of_share(state, channel, index);
        channel_row *buffer = &channels[vc];
        buffer->room_bytes -= wire_bytes;
        buffer->least_room_bytes = min(buffer->least_room_bytes, buffer->room_bytes);
        row->packets += 1;
        int64_t serialization_ps = durations[row->serialization_row + payload].value;
        int64_t injection_ps = durations[server->injection_row + payload].value;
        row->busy_ps += serialization_ps;
        row->wire_bytes += wire_bytes;
        int64_t free_ps = now_ps + injection_ps;
        row->free_ps = free_ps;
        if (share->started == 0) {
            share->started = 1;
            share->stalled_before_ps = row->credit_stall_ps - min(stall_ps, now_ps - share->until_ps);
            share->first_injection_ps = now_ps;
        }
        int64_t injected_ps = now_ps;
        int64_t last_of = last_packet_of(state, channel, index, payload);
        if (last_of != NONE) {
            note_injection(state, channel, index, last_of, now_ps);
            injected_ps = ~(int64_t)0;
        }
        share->serialization_ps += serialization_ps;
        share->endpoint_ps += injection_ps - serialization_ps;
        pass_on(state, domain, vc, now_ps, injected_ps, message, share->destination, payload, NONE);
        share->bytes_left -= payload;
        share->joined = 2 * now_ps + 1;
        int64_t after = share->next;
        if (share->bytes_left == 0 || after != NONE) {
            /* Take the share out of the ring. */
            if (before == NONE) {
                server->ring_first = after;
            } else {
                shares[before].next = after;
            }
            if (after == NONE) {
                server->ring_last = before;
            }
            if (share->bytes_left == 0) {
                end_share(state, domain, injector, index, free_ps);
            } else {
                shares[server->ring_last].next = index;
                share->next = NONE;
                server->ring_last = index;
            }
        }
        now_ps = NEVER;
        if (server->ring_first != NONE || server->waiting_first != NONE || server->next_message != NONE) {
            now_ps = free_ps;
        }
    }
    state->wakes[channel].wake_ps = now_ps;
}

/* Process all that happens at a terminal in this window, in time order, where all planes are one domain. */
static void process_terminal(fabric_state *state, int64_t terminal, int64_t window_end_ps)
{
    terminal_row *row = &state->terminals[terminal];
    wake_row *wakes = state->wakes;
    int64_t first = row->first_injector;
    int64_t end = first + row->num_injectors;
    for (;;) {
        int64_t wake_ps = NEVER;
        int64_t earliest = NONE;
        for (int64_t injector = first; injector < end; injector++) {
            int64_t channel = state->injectors[injector].channel;
            if (wakes[channel].wake_ps < wake_ps) {
                wake_ps = wakes[channel].wake_ps;
                earliest = channel;
            }
        }
        int64_t timer_ps = NEVER;
        if (row->first_timer != NONE) {
            timer_ps = state->timers[row->first_timer].time_ps;
        }
        if (min(timer_ps, wake_ps) >= window_end_ps) {
            return;
        }
        /* Completions come before picks within one instant. */
        if (timer_ps <= wake_ps) {
            handle_timer(state, terminal);
        } else {
            serve_injector(state, 0, earliest, wake_ps + 1);
        }
    }
}

/* --- the run --------------------------------------------------------------------------------------------------- */

/* A time before which no channel of a domain has work that no inbox announces; NEVER is exact. */
static int64_t earliest_wake(fabric_state *state, int64_t domain)
{
    int64_t first = state->domains[domain].first_bank;
    int64_t end = first + state->domains[domain].num_banks;
    int64_t wake_ps = NEVER;
    for (int64_t bank = first; bank < end; bank++) {
        wake_ps = min(wake_ps, state->banks[bank].wake_ps);
    }
    return wake_ps;
}

/* When the first thing happens that takes no packet. */
static int64_t earliest_timer(fabric_state *state)
{
    int64_t time_ps = NEVER;
    for (int64_t terminal = 0; terminal < state->clock->num_terminals; terminal++) {
        int64_t first_timer = state->terminals[terminal].first_timer;
        if (first_timer != NONE) {
            time_ps = min(time_ps, state->timers[first_timer].time_ps);
        }
    }
    return time_ps;
}

/* Let begin the tasks that were admitted and wait for no others. */
static void begin_new_tasks(fabric_state *state)
{
    clock_row *clock = state->clock;
    int64_t task = clock->new_task;
    while (task != NONE) {
        task_row *row = &state->tasks[task];
        add_timer(state, row->terminal, row->begin_ps + row->launch_ps, TIMERKIND_TASK_STARTS, task);
        task = row->next_new;
    }
    clock->new_task = NONE;
}

/* Set the epoch to the earliest thing that can happen and return CODE_SLICE; else CODE_DONE, _STALLED, _TIME_LIMIT,
   _NEED_WORK or _HALT. */
static int64_t open_epoch(fabric_state *state)
{
    clock_row *clock = state->clock;
    begin_new_tasks(state);
    int64_t start_ps = NEVER;
    for (int64_t domain = 0; domain < clock->num_domains; domain++) {
        if (state->domains[domain].arriving > 0) {
            start_ps = clock->epoch_end_ps;
            break;
        }
    }
    if (start_ps == NEVER) {
        start_ps = earliest_timer(state);
        for (int64_t domain = 0; domain < clock->num_domains; domain++) {
            start_ps = min(start_ps, earliest_wake(state, domain));
        }
        if (start_ps == NEVER) {
            if (clock->more_work == 1) {
                return CODE_NEED_WORK;
            }
            for (int64_t domain = 0; domain < clock->num_domains; domain++) {
                come_home(state, domain);
            }
            if (clock->tasks_left == 0) {
                return CODE_DONE;
            }
            return CODE_STALLED;
        }
    }
    /* A message that became ready in the last epoch can ask for a look back; nothing starts before that epoch's end. */
    start_ps = max(start_ps, clock->epoch_end_ps);
    if (!PLAIN && start_ps >= clock->halt_ps) {
        if (clock->admit_ps < clock->halt_ps) { /* what the next block begins comes before the halt */
            return CODE_NEED_WORK;
        }
        return CODE_HALT;
    }
    if (start_ps >= clock->limit_ps) {
        return CODE_TIME_LIMIT;
    }
    start_ps = (start_ps >> clock->window_shift) << clock->window_shift;
    int64_t end_ps = start_ps + (clock->epoch_windows << clock->window_shift);
    if (end_ps > clock->admit_ps) {
        return CODE_NEED_WORK;
    }
    if (clock->defers == 1 && clock->waits_left == 0 && clock->more_work == 0) {
        end_ps = NEVER;
    }
    if (!PLAIN) {
        end_ps = min(end_ps, clock->halt_ps);
    }
    clock->epoch_start_ps = start_ps;
    clock->epoch_end_ps = end_ps;
    clock->epoch_open = 1;
    return CODE_SLICE;
}

/* Take all credits of a domain in which nothing can happen any more. */
static void come_home(fabric_state *state, int64_t domain)
{
    int64_t first = state->domains[domain].first_channel;
    int64_t end = first + state->domains[domain].num_channels;
    for (int64_t channel = first; channel < end; channel++) {
        state->channels[channel].room_bytes += take_credits(state, domain, channel, NEVER);
    }
}

/* Serve the channels of a bank in this window; return 0, with the rest still to do, if packets run short. */
static _Bool serve_bank(fabric_state *state, int64_t domain, int64_t bank, int64_t window_end_ps)
{
    clock_row *clock = state->clock;
    domain_row *row = &state->domains[domain];
    wake_row *wakes = state->wakes;
    inbox_row *inboxes = state->inboxes;
    int64_t slot = (row->window_start_ps >> clock->window_shift) & clock->wheel_mask;
    int64_t first = row->first_channel + ((bank - row->first_bank) << BANK_SHIFT);
    int64_t end = min(first + (1 << BANK_SHIFT), row->first_channel + row->num_channels);
    state->banks[bank].wake_ps = NEVER;
    int64_t wake_ps = NEVER;
    int64_t num_vcs = vc_mask(state) + 1;
    for (int64_t channel = first; channel < end; channel += num_vcs) {
        int64_t inbox_index = slot * clock->num_channels + channel;
        _Bool arrives = 0;
        for (int64_t vc = 0; vc < num_vcs; vc++) {
            arrives |= inboxes[inbox_index + vc].packet != NONE;
        }
        if (channel + AHEAD < end) {
            PREFETCH(state->packets, state->channels[channel + AHEAD].queue_first);
            PREFETCH(state->packets, state->channels[channel + AHEAD].credit_first);
            PREFETCH(state->packets, inboxes[inbox_index + AHEAD].packet);
        }
        if (wakes[channel].wake_ps < window_end_ps || arrives) {
            if (row->num_free_packets < row->max_starts) {
                state->banks[bank].wake_ps = 0;
                return 0;
            }
            if (state->channels[channel].injector != NONE) {
                serve_injector(state, domain, channel, window_end_ps);
            } else {
                if (!PLAIN && arrives && adapts(state)) {
                    route_arrivals(state, domain, channel, inbox_index, window_end_ps);
                } else if (arrives) {
                    for (int64_t vc = 0; vc < num_vcs; vc++) {
                        queue_arrivals(state, domain, channel + vc, inbox_index + vc, window_end_ps);
                    }
                }
                serve_output(state, domain, channel, window_end_ps);
            }
        }
        wake_ps = min(wake_ps, wakes[channel].wake_ps);
    }
    /* A credit that came meanwhile may have woken a channel already passed. */
    state->banks[bank].wake_ps = min(state->banks[bank].wake_ps, wake_ps);
    if (PLAIN || (window_end_ps & (((int64_t)1 << clock->window_shift) - 1)) == 0) {
        state->filled[slot * clock->num_banks + bank].inboxes = 0;
    }
    return 1;
}

/* Take the windows of a domain until the end of the epoch or until about max_events packets have started. */
static int64_t run_domain(fabric_state *state, int64_t domain, int64_t max_events)
{
    /* Returns CODE_DONE at the end of the epoch, CODE_SLICE before it, CODE_TIME_LIMIT, or CODE_PACKETS_FULL: before
       anything of the next terminal or channel has changed. */
    clock_row *clock = state->clock;
    domain_row *row = &state->domains[domain];
    int64_t shift = clock->window_shift;
    /* Without deferring, terminals are places before the banks. */
    int64_t num_terminals = 0;
    if (clock->defers == 0) {
        num_terminals = clock->num_terminals;
    }
    int64_t num_places = num_terminals + row->num_banks;
    int64_t hops_end = row->hops + max_events;
    row->window_start_ps = max(row->window_start_ps, clock->epoch_start_ps);
    while (row->window_start_ps < clock->epoch_end_ps) {
        if (row->next_place == 0) {
            if (row->hops >= hops_end) {
                return CODE_SLICE;
            }
            if (row->arriving == 0) {
                int64_t wake_ps = earliest_wake(state, domain);
                if (num_terminals > 0) {
                    wake_ps = min(wake_ps, earliest_timer(state));
                }
                if (wake_ps >= clock->epoch_end_ps) {
                    break;
                }
                row->window_start_ps = max(row->window_start_ps, (wake_ps >> shift) << shift);
            }
            if (row->window_start_ps >= clock->limit_ps) {
                return CODE_TIME_LIMIT;
            }
        }
        int64_t window_end_ps = row->window_start_ps + ((int64_t)1 << shift);
        if (!PLAIN) { /* a halt cuts a window in two */
            window_end_ps = min(((row->window_start_ps >> shift) + 1) << shift, clock->halt_ps);
        }
        find_bin(state, domain);
        int64_t first_filled = ((row->window_start_ps >> shift) & clock->wheel_mask) * clock->num_banks;
        for (int64_t place = row->next_place; place < num_terminals; place++) {
            if (row->num_free_packets < row->max_starts) {
                row->next_place = place;
                return CODE_PACKETS_FULL;
            }
            process_terminal(state, place, window_end_ps);
        }
        for (int64_t place = max(row->next_place, num_terminals); place < num_places; place++) {
            int64_t bank = row->first_bank + place - num_terminals;
            if (state->banks[bank].wake_ps >= window_end_ps && state->filled[first_filled + bank].inboxes == 0) {
                continue;
            }
            if (!serve_bank(state, domain, bank, window_end_ps)) {
                row->next_place = place;
                return CODE_PACKETS_FULL;
            }
        }
        row->next_place = 0;
        row->window_start_ps = window_end_ps;
    }
    if (clock->epoch_end_ps != NEVER) {
        row->window_start_ps = clock->epoch_end_ps;
    }
    return CODE_DONE;
}

/* Count the shares that became sent or complete in the epoch. */
static void end_parts(fabric_state *state)
{
    clock_row *clock = state->clock;
    for (int64_t domain = 0; domain < clock->num_domains; domain++) {
        domain_row *row = &state->domains[domain];
        int64_t first = domain * clock->num_messages; /* its parts, for it is a plane */
        int64_t end = first + row->num_sent;
        for (int64_t place = first; place < end; place++) {
            if (place + PARTS_AHEAD < end) {
                PREFETCH(state->messages, state->sent[place + PARTS_AHEAD].message);
            }
            sent_row *sent = &state->sent[place];
            send_part(state, sent->message, sent->first_injection_ps, sent->sent_ps);
        }
        row->num_sent = 0;
        end = first + row->num_complete;
        for (int64_t place = first; place < end; place++) {
            if (place + PARTS_AHEAD < end) {
                PREFETCH(state->messages, state->complete[place + PARTS_AHEAD].message);
            }
            complete_row *complete = &state->complete[place];
            complete_part(state, complete->message, complete->complete_ps);
        }
        row->num_complete = 0;
    }
}

/* Handle what became sent and complete in the epoch, in time order at each terminal, and return CODE_SLICE; or
   CODE_NEED_WORK, to be called again, before a task starts for which tasks wait that are not admitted. */
static int64_t close_epoch(fabric_state *state)
{
    clock_row *clock = state->clock;
    if (clock->defers == 1) {
        end_parts(state);
        for (int64_t terminal = 0; terminal < clock->num_terminals; terminal++) {
            int64_t first_timer = state->terminals[terminal].first_timer;
            while (first_timer != NONE && state->timers[first_timer].time_ps < clock->epoch_end_ps) {
                timer_row *timer = &state->timers[first_timer];
                if (timer->kind == TIMERKIND_TASK_STARTS && state->tasks[timer->subject].awaited == 1) {
                    return CODE_NEED_WORK;
                }
                handle_timer(state, terminal);
                first_timer = state->terminals[terminal].first_timer;
            }
        }
    }
    clock->epoch_open = 0;
    clock->next_domain = 0;
    return CODE_SLICE;
}

/* Process epochs until about max_events packets have started; part: WHOLE, OPEN, CLOSE or a domain, for threads. */
#if PLAIN
int64_t fabric_run_plain(fabric_state *state, int64_t part, int64_t max_events)
#else
int64_t fabric_run(fabric_state *state, int64_t part, int64_t max_events)
#endif
{
    clock_row *clock = state->clock;
    int64_t events = 0;
    for (;;) {
        if (part == PART_OPEN || (part == PART_WHOLE && clock->epoch_open == 0)) {
            if (part == PART_WHOLE && events >= max_events) {
                return CODE_SLICE;
            }
            int64_t code = open_epoch(state);
            if (part == PART_OPEN || code != CODE_SLICE) {
                return code;
            }
        }
        while (part != PART_CLOSE && clock->next_domain < clock->num_domains) {
            int64_t domain = part == PART_WHOLE ? clock->next_domain : part;
            int64_t before = state->domains[domain].hops;
            int64_t code = run_domain(state, domain, max_events - events);
            if (part != PART_WHOLE || code != CODE_DONE) {
                return code;
            }
            events += state->domains[domain].hops - before;
            clock->next_domain += 1;
        }
        int64_t code = close_epoch(state);
        if (part == PART_CLOSE || code != CODE_SLICE) {
            return code;
        }
    }
}
