"""The three Lua scripts. Constants: what callers send is only ever in KEYS and ARGV.

Time is the store's own (TIME), so gateways with wrong clocks agree. State per limit, all with an expiry:

- windows: a hash with the total ``t``, the newest slot seen ``h``, the newest slot charged ``l``, and a ring of sums
  under the slot's number modulo the length of the ring;
- leases: a sorted set of request ids by their expiry in milliseconds. Renewing one puts it back if it was lost, by a
  server that came back empty or a clock that jumped ahead;
- buckets: a hash with ``level`` and the time ``at`` it was refilled, kept until it is full again, at most a day;
- grants: a string with the slots that were charged, per request id, which makes reserving again harmless and settling
  possible once. A settle that is not sure of the grant leaves a mark, so that a copy of the reservation that was held
  up in a dying connection and arrives after all is not charged.

A clock that steps back by more than a slot makes everything count as if it had come now: refusals last at most one
window longer, and nothing is over-admitted; leases of dead processes come back later by that much. A clock that jumps
ahead empties the windows it jumps over.
"""

from __future__ import annotations

from typing import Final

_COMMON: Final = """
local args = {}
for word in string.gmatch(ARGV[1], '%S+') do args[#args + 1] = word end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function advance(key, slot_ms, slots)
  local current = math.floor(now / slot_ms)
  local state = redis.call('HMGET', key, 't', 'h', 'l')
  local total, head, last = tonumber(state[1]), tonumber(state[2]), tonumber(state[3])
  if not total or total == 0 then
    if total then redis.call('DEL', key) end
    return 0, current, current
  end
  local ring = slots + 1
  if current < head then
    if head - current == 1 then return total, head, last end
    redis.call('DEL', key)
    redis.call('HSET', key, 't', total, 'h', current, 'l', current, current % ring, total)
    redis.call('PEXPIRE', key, (slots + 2) * slot_ms)
    return total, current, current
  end
  if current - head > slots then
    redis.call('DEL', key)
    return 0, current, current
  end
  for slot = head - slots, current - slots - 1 do
    local sum = redis.call('HGET', key, slot % ring)
    if sum then
      total = total - sum
      redis.call('HDEL', key, slot % ring)
    end
  end
  if current > head then redis.call('HSET', key, 't', total, 'h', current) end
  return total, current, last
end

local function expiry(slot, slot_ms, slots) return (slot + slots + 1) * slot_ms end

local function refill(key, burst, per_second)
  local state = redis.call('HMGET', key, 'level', 'at')
  local level, at = tonumber(state[1]), tonumber(state[2])
  if not level then return burst end
  if at > now then
    redis.call('HSET', key, 'at', now)
    at = now
  end
  return math.min(burst, level + (now - at) * per_second / 1000)
end
"""

#: KEYS: the grant, then one per charge. ARGV is one text of words, because a client pays by the argument: request id,
#: force, lease ms, grant ms, then per charge: kind, capacity, amount, slot ms or refill per second, slots. Reply:
#: granted, then per charge: used, reset ms, wait ms.
RESERVE: Final = (
    _COMMON
    + """
local id, force, lease_ms, grant_ms = args[1], args[2] == '1', tonumber(args[3]), tonumber(args[4])
local grant = redis.call('GET', KEYS[1])
local granted = not grant or grant ~= 'x'
local reply, seen = {1}, {}
local bucket_ms = 86400000

local function look(i, amount)
  local key, at = KEYS[i + 1], 5 * i
  local kind, capacity = args[at], tonumber(args[at + 1])
  local used, reset, wait, slot = 0, 0, 0, 0
  if kind == 'c' then
    redis.call('ZREMRANGEBYSCORE', key, '-inf', now)
    used = redis.call('ZCARD', key)
    if amount > 0 and used + amount > capacity then
      local first = redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')
      wait = first[2] and math.max(1, first[2] - now) or -1
    end
  elseif kind == 'b' then
    local per_second = tonumber(args[at + 3])
    local level = refill(key, capacity, per_second)
    slot = level
    used = math.ceil(capacity - level)
    if per_second > 0 then reset = math.ceil((capacity - level) / per_second * 1000) end
    if amount > 0 and used + amount > capacity then
      wait = per_second > 0 and math.max(1, math.ceil((amount - level) / per_second * 1000)) or -1
    end
  else
    local slot_ms, slots = tonumber(args[at + 3]), tonumber(args[at + 4])
    local last
    used, slot, last = advance(key, slot_ms, slots)
    if used > 0 then reset = expiry(last, slot_ms, slots) - now end
    if amount > 0 and used + amount > capacity then
      local needed = used + amount - capacity
      wait = -1
      for s = slot - slots, slot do
        local sum = redis.call('HGET', key, s % (slots + 1))
        if sum then
          needed = needed - sum
          if needed <= 0 then
            wait = math.max(1, expiry(s, slot_ms, slots) - now)
            break
          end
        end
      end
    end
  end
  if amount > capacity then wait = -1 end
  seen[i] = slot
  reply[3 * i - 1], reply[3 * i], reply[3 * i + 1] = used, reset, wait
  return wait == 0
end

local fits, count = true, #KEYS - 1
for i = 1, count do
  if not look(i, grant and 0 or tonumber(args[5 * i + 2])) then fits = false end
end
if grant then
  reply[1] = granted and 1 or 0
  return reply
end
if not fits and not force then
  reply[1] = 0
  return reply
end
for i = 1, count do
  local key, at = KEYS[i + 1], 5 * i
  local kind, capacity, amount = args[at], tonumber(args[at + 1]), tonumber(args[at + 2])
  if kind == 'c' then
    redis.call('ZADD', key, now + lease_ms, id)
    redis.call('PEXPIRE', key, lease_ms * 2)
  elseif kind == 'b' then
    local per_second = tonumber(args[at + 3])
    redis.call('HSET', key, 'level', math.max(0, seen[i] - amount), 'at', now)
    local full = per_second > 0 and math.ceil(capacity / per_second * 1000) or bucket_ms
    redis.call('PEXPIRE', key, math.max(1000, math.min(full, bucket_ms)))
  elseif amount > 0 then
    local slot_ms, slots = tonumber(args[at + 3]), tonumber(args[at + 4])
    redis.call('HINCRBY', key, seen[i] % (slots + 1), amount)
    redis.call('HINCRBY', key, 't', amount)
    redis.call('HSET', key, 'h', seen[i], 'l', seen[i])
    redis.call('PEXPIRE', key, (slots + 2) * slot_ms)
  end
  if kind == 'b' then seen[i] = 0 end
end
redis.call('SET', KEYS[1], table.concat(seen, ' '), 'PX', grant_ms)
for i = 1, count do look(i, 0) end
reply[1] = 1
return reply
"""
)

#: KEYS as for RESERVE. Words: request id, tokens, mark ms (0: leave none), then per charge: kind, amount, slot ms,
#: slots. Reply: whether there was a grant.
SETTLE: Final = (
    _COMMON
    + """
local id, tokens, mark_ms = args[1], tonumber(args[2]), tonumber(args[3])
local grant = redis.call('GET', KEYS[1])
if not grant or grant == 'x' then
  for i = 1, #KEYS - 1 do
    if args[4 * i] == 'c' then redis.call('ZREM', KEYS[i + 1], id) end
  end
  if mark_ms > 0 then redis.call('SET', KEYS[1], 'x', 'PX', mark_ms) end
  return 0
end
if mark_ms > 0 then redis.call('SET', KEYS[1], 'x', 'PX', mark_ms) else redis.call('DEL', KEYS[1]) end
local i = 0
for charged in string.gmatch(grant, '%S+') do
  i = i + 1
  local key, at = KEYS[i + 1], 4 * i
  local kind = args[at]
  if kind == 'c' then
    redis.call('ZREM', key, id)
  elseif kind == 't' or kind == 'd' then
    local slot_ms, slots = tonumber(args[at + 2]), tonumber(args[at + 3])
    local total, current = advance(key, slot_ms, slots)
    local slot = tonumber(charged)
    if total > 0 and slot >= current - slots and slot <= current then
      local field = slot % (slots + 1)
      local held = tonumber(redis.call('HGET', key, field) or 0)
      local back = math.min(tonumber(args[at + 1]) - tokens, held, total)
      if back > 0 then
        redis.call('HINCRBY', key, field, -back)
        redis.call('HINCRBY', key, 't', -back)
      end
    end
  end
end
return 1
"""
)

#: KEYS: sets of leases. Words: lease ms, then one request id per key.
RENEW: Final = (
    _COMMON
    + """
local lease_ms = tonumber(args[1])
for i, key in ipairs(KEYS) do
  redis.call('ZADD', key, now + lease_ms, args[i + 1])
  redis.call('PEXPIRE', key, lease_ms * 2)
end
return #KEYS
"""
)
