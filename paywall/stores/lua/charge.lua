-- Turns a hold into a charge, at most its price. Charging the same request again changes nothing.
-- KEYS  record, holds, channels that owe, entry of the payment's id (the record when there is none),
--       ledger
-- ARGV  request, amount, most remembered charges, half a window, channel id,
--       fingerprint ('' without an id), the answer ('' when it is not kept), ms that it is kept,
--       line of the ledger

-- How many more names than are remembered may stand in a record: to count them takes longer than all
-- else that there is to do, so it is done for many at once.
local SPARE = 16

-- Whether the request is among those charged last; what stands before them counts no longer.
local function is_done(r, request, most)
  local word, at = ' ' .. request .. ' ', 0
  repeat
    at = string.find(r.d, word, at + 1, true)
    if at then
      local _, behind = string.gsub(string.sub(r.d, at + #word), ' ', ' ')
      if behind < most then return true end
    end
  until not at
  return false
end

local function remember(r, request, most)
  r.d = r.d .. request .. ' '
  if #r.d <= (most + SPARE) * (#request + 1) then return end
  local _, spaces = string.gsub(r.d, ' ', ' ')
  local at = 1
  for _ = 2, spaces - most do at = string.find(r.d, ' ', at + 1, true) end
  r.d = string.sub(r.d, at)
end

local key, holds, due, entry_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local request, amount = ARGV[1], ARGV[2]
local most_done, half_window, id = tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5]
local fingerprint, answer, answer_ms, log, line = ARGV[6], ARGV[7], ARGV[8], KEYS[5], ARGV[9]
local r = load(key)
if not r then return {'lost'} end

local now
if fingerprint ~= '' then
  now = now_ms()
  local _, whose, expires, total = entry_of(entry_key)
  if total and whose == request and expires > now then return standing(r) end
end
local hold = redis.call('HGET', holds, request)
if not hold then
  if is_done(r, request, most_done) then return standing(r) end
  return {'lost'}
end
local price, held_amount = parsed(hold)
if less(price, amount) then return {'above'} end
-- These fail, before anything is written, when they are somebody else's.
redis.call('ZCARD', due)
redis.call('XLEN', log)

redis.call('HDEL', holds, request)
r.hp, r.hn = sub(r.hp, price), r.hn - 1
if amount == '0' then
  forget(r, held_amount)
else
  r.c = add(r.c, amount)
  index(due, id, r.v, r.c, r.k)
  note(log, line)
end
if fingerprint == '' or amount == '0' then
  -- There is no entry that could remember it.
  remember(r, request, most_done)
end

-- Nothing that was promised is outstanding: what was seen need not be remembered one by one.
if add(r.c, r.hp) == r.v then
  if r.hn == 0 then
    r.f, r.w, r.n = max(r.f, r.v), ' ', 0
  elseif tonumber(r.n) > half_window then
    local lowest
    for _, other in ipairs(redis.call('HVALS', holds)) do
      local _, its_amount = parsed(other)
      if not lowest or less(its_amount, lowest) then lowest = its_amount end
    end
    r.f = max(r.f, sub(lowest, '1'))
    local kept = {}
    for _, seen in ipairs(words(r.w)) do
      if less(r.f, seen) then kept[#kept + 1] = seen end
    end
    r.w, r.n = listed(kept), #kept
  end
end
save(key, r)
if fingerprint ~= '' then
  if amount == '0' then
    redis.call('DEL', entry_key)
  else
    keep_entry(entry_key, fingerprint, request, now, answer_ms, r.c, answer)
  end
end
return standing(r)
