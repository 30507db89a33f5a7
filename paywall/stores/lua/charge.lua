-- Turns a hold into a charge, at most its price. Charging the same request again changes nothing.
-- KEYS  record, holds, channels that owe, entry of the payment's id (the record when there is none)
-- ARGV  request, amount, most remembered charges, half a window, channel id,
--       fingerprint ('' without an id), the answer ('' when it is not kept), ms that it is kept
local request, amount = ARGV[1], ARGV[2]
local most_done, half_window = tonumber(ARGV[3]), tonumber(ARGV[4])
local r = load(KEYS[1], 'b', 'k', 'c', 'v', 'f', 'w', 'n', 'hp', 'hn', 'd', 'wa', 'wt', 'rd',
  'rn', 'bl')
if not r then return {'lost'} end
if has(r.d, request) then return standing('ok', r) end
if ARGV[6] ~= '' then
  local entry = redis.call('HMGET', KEYS[4], 'r', 'a')
  if entry[1] == request and entry[2] then return standing('ok', r) end
end
local hold = redis.call('HGET', KEYS[2], request)
if not hold then return {'lost'} end
local price, held_amount = parsed(hold)
if less(price, amount) then return {'above'} end

redis.call('HDEL', KEYS[2], request)
r.hp, r.hn = sub(r.hp, price), r.hn - 1
if amount == '0' then
  if has(r.w, held_amount) then
    r.w = string.gsub(r.w, ' ' .. held_amount .. ' ', ' ', 1)
    r.n = r.n - 1
  end
  if ARGV[6] ~= '' then redis.call('DEL', KEYS[4]) end
else
  if r.c == r.k then redis.call('SADD', KEYS[3], ARGV[5]) end
  r.c = add(r.c, amount)
  if ARGV[6] ~= '' then
    redis.call('HSET', KEYS[4], 'f', ARGV[6], 'r', request, 'a', ARGV[7], 't', r.c)
    redis.call('PEXPIRE', KEYS[4], ARGV[8])
  end
end
local done = words(r.d)
if ARGV[6] == '' then
  done[#done + 1] = request
  if #done > most_done then table.remove(done, 1) end
end

-- Nothing that was promised is outstanding: what was seen need not be remembered one by one.
if add(r.c, r.hp) == (r.v or r.c) then
  if r.hn == 0 then
    r.f, r.w, r.n = max(r.f, r.v or r.c), ' ', 0
  elseif tonumber(r.n) > half_window then
    local lowest
    for _, other in ipairs(redis.call('HVALS', KEYS[2])) do
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
redis.call('HSET', KEYS[1], 'c', r.c, 'hp', r.hp, 'hn', integer(r.hn), 'd', listed(done),
  'w', r.w, 'n', integer(r.n), 'f', r.f)
return standing('ok', r)
