-- Admits a request: holds its price and remembers its voucher, or says why not.
-- KEYS  record, holds, channels that owe, entry of the payment's id if it has one
-- ARGV  voucher amount, signature, price, request, fingerprint if it has an id
local key, holds, entry_key = KEYS[1], KEYS[2], KEYS[4]
local amount, signature, price, request, fingerprint = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local now = now_ms()
local r, text = load(key)
if not r then return {'unknown'} end

if fingerprint then
  local answer = once(entry_key, fingerprint, request, now, key, holds, r)
  if answer then return answer end
end

local held_price, held_amount = hold_of(r, holds, request)
if held_price then
  if held_price ~= price or held_amount ~= amount then
    return refused('PAYMENT_ID_REUSED', text, holds, 0)
  end
  if fingerprint then keep_entry(entry_key, fingerprint, request, now, STARTED_MS) end
  return standing(r)
end
local requested, read_at = string.match(r.chain, '^%S+ %S+ %S+ (%S+) %S+ %S+ (%S+)$')
local delay = tonumber(r.dl)
if now >= read_at + math.floor(delay * 1000 / 3) then return {'stale'} end
-- A refund that was sent and never confirmed: what was set aside may have left by now.
local late = r.ra and tonumber(r.rx) <= now
if late and r.ra ~= '0' and tonumber(read_at) < tonumber(r.rx) then return {'overdue'} end

local expired = without_expired(r, holds, now)
local refunding = r.ra or '0'
local signed = r.v or r.c
local new = less(r.f, amount) and not string.find(r.w, ' ' .. amount .. ' ', 1, true)
local committed = add(r.c, r.hp)
local wanted = add(committed, price)
local reason
if requested ~= '0' and now >= (requested + math.floor(delay / 3)) * 1000 then
  reason = 'CHANNEL_CLOSING'
elseif less(r.b, add(amount, refunding)) then
  reason = 'EXCEEDS_BALANCE'
elseif not less(r.k, amount) then
  reason = 'BELOW_CLAIMED'
elseif not new then
  reason = 'CUMULATIVE_MISMATCH'
elseif less(max(amount, signed), wanted) then
  reason = 'CUMULATIVE_MISMATCH'
elseif less(r.b, add(wanted, refunding)) then
  -- A voucher from before a withdrawal may promise more than the balance that is left.
  reason = 'EXCEEDS_BALANCE'
elseif tonumber(r.hn) >= MAX_HOLDS then
  reason = 'CHANNEL_BUSY'
end
if reason then return refused(reason, text, holds, now) end

r.w, r.n = r.w .. amount .. ' ', r.n + 1
if r.n > WINDOW then
  local lowest = amount
  for other in string.gmatch(r.w, '%d+') do
    if less(other, lowest) then lowest = other end
  end
  r.f = lowest
  forget(r, lowest)
end
local deadline = integer(now + HOLD_MS)
r.hp, r.hn = add(r.hp, price), r.hn + 1
if r.he == '0' or less(deadline, r.he) then r.he = deadline end
if not r.v and r.c ~= r.k then
  -- These fail, before anything is written, when they are somebody else's.
  redis.call('HLEN', holds)
  redis.call('ZCARD', KEYS[3])
  local id = string.gsub(string.sub(key, -64), '%x%x', function(digits)
    return string.char(tonumber(digits, 16))
  end)
  index(KEYS[3], id, amount, r.c, r.k)
end
if not r.v or less(r.v, amount) then
  r.v, r.tail = amount, signature .. string.sub(r.tail, r.v and SIGNATURE + 1 or 1)
end
if late and r.ra == '0' then r.ra, r.rx, r.rq = nil, nil, nil end
r.u = integer(now)
local hold = price .. ' ' .. amount .. ' ' .. deadline
if r.h == '' then
  r.h = hold .. ' ' .. request
else
  -- First, because it fails when the key is somebody else's.
  redis.call('HSET', holds, request, hold)
end
save(key, r)
-- Last, because a server without memory lets a script go on that has begun with freeing some.
if #expired > 0 then redis.call('HDEL', holds, unpack(expired)) end
if fingerprint then keep_entry(entry_key, fingerprint, request, now, STARTED_MS) end
return standing(r)
