-- Turns a hold into a charge, at most its price. Charging the same request again changes nothing.
-- KEYS  record, holds, channels that owe, ledger, entry of the payment's id if it has one
-- ARGV  request, amount, channel id, line of the ledger, fingerprint if it has an id, and the answer
--       ('' when it is not kept)
local key, holds, log, entry_key = KEYS[1], KEYS[2], KEYS[4], KEYS[5]
local request, amount, line, fingerprint = ARGV[1], ARGV[2], ARGV[4], ARGV[5]
-- Who is served pays, though there be no memory.
local r = load(key, 'GETEX')
if not r then return {'lost'} end

local now
if fingerprint then
  now = now_ms()
  local _, whose, expires, total = entry_of(entry_key)
  if total and whose == request and expires > now then return standing(r) end
end
local price, held_amount, _, inside = hold_of(r, holds, request)
if not price then
  -- It may be among those charged last; what stands before them counts no longer.
  local word, at = ' ' .. request .. ' ', 0
  repeat
    at = string.find(r.d, word, at + 1, true)
    if at then
      local _, behind = string.gsub(string.sub(r.d, at + #word), ' ', ' ')
      if behind < REMEMBERED then return standing(r) end
    end
  until not at
  return {'lost'}
end
if less(price, amount) then return {'above'} end

if amount == '0' then
  forget(r, held_amount)
else
  -- Both fail, before anything is written, when they are somebody else's.
  redis.call('XLEN', log)
  r.c = add(r.c, amount)
  index(KEYS[3], ARGV[3], r.v, r.c, r.k)
  note(log, line)
end
drop_hold(r, holds, request, price, inside)
if amount == '0' or not fingerprint then
  -- There is no entry that could remember it.
  r.d = r.d .. request .. ' '
  -- More names than are remembered may stand there: to count them takes longer than all else that there
  -- is to do, so it is done for many at once.
  if #r.d > (REMEMBERED + 16) * (#request + 1) then
    local _, spaces = string.gsub(r.d, ' ', ' ')
    local at = 1
    for _ = 2, spaces - REMEMBERED do at = string.find(r.d, ' ', at + 1, true) end
    r.d = string.sub(r.d, at)
  end
end

-- Nothing that was promised is outstanding: what was seen need not be remembered one by one.
if add(r.c, r.hp) == r.v then
  if r.hn == '0' then
    r.f, r.w, r.n = max(r.f, r.v), ' ', '0'
  elseif tonumber(r.n) > WINDOW / 2 then
    local others = redis.call('HVALS', holds)
    if r.h ~= '' then others[#others + 1] = r.h end
    local lowest
    for _, other in ipairs(others) do
      local its_amount = string.match(other, '^%d+ (%d+)')
      if not lowest or less(its_amount, lowest) then lowest = its_amount end
    end
    r.f = max(r.f, sub(lowest, '1'))
    local kept = {}
    for seen in string.gmatch(r.w, '%d+') do
      if less(r.f, seen) then kept[#kept + 1] = seen .. ' ' end
    end
    r.w, r.n = ' ' .. table.concat(kept), #kept
  end
end
save(key, r)
if fingerprint and amount == '0' then
  redis.call('DEL', entry_key)
elseif fingerprint then
  keep_entry(entry_key, fingerprint, request, now, ANSWER_MS, r.c, ARGV[6])
end
return standing(r)
