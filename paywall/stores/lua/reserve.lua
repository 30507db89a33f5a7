-- Admits a request: holds its price and remembers its voucher, or says why not.
-- KEYS  record, holds, channels that owe, entry of the payment's id if it has one
-- ARGV  voucher amount, signature, price, request, fingerprint if it has an id
local key, holds, entry_key = KEYS[1], KEYS[2], KEYS[4]
local amount, signature, price, request, fingerprint = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local now = now_ms()
local r = load(key)
if not r then return {'unknown'} end

if fingerprint then
  local answer = once(entry_key, holds, fingerprint, request, now)
  if answer then return answer end
end

-- A channel that serves nothing has no holds, and a key that is not there is dear to look for.
local mine = r.hn ~= '0' and redis.call('HGET', holds, request)
if mine then
  local held_price, held_amount = parsed(mine)
  if held_price ~= price or held_amount ~= amount then
    return refused('PAYMENT_ID_REUSED', key, holds, 0)
  end
  if fingerprint then keep_entry(entry_key, fingerprint, request, now, STARTED_MS) end
  return standing(r)
end
local delay = tonumber(r.dl)
if now >= r.rd + math.floor(delay * 1000 / 3) then return {'stale'} end
-- A refund that was sent and never confirmed: what was set aside may have left by now.
local overdue = r.ra and tonumber(r.rx) <= now
if overdue and tonumber(r.rd) < tonumber(r.rx) then return {'overdue'} end

local expired = without_expired(holds, r, now)
local refunding = r.ra and not overdue and r.ra or '0'
local requested, signed = tonumber(r.wt), r.v or r.c
local new = not has(r.w, amount) and less(r.f, amount)
local committed = add(r.c, r.hp)
local wanted = add(committed, price)
local reason
if requested > 0 and now >= (requested + math.floor(delay / 3)) * 1000 then
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
if reason then return refused(reason, key, holds, now) end

r.w, r.n = r.w .. amount .. ' ', r.n + 1
if r.n > WINDOW then
  local lowest = amount
  for other in string.gmatch(r.w, '%d+') do
    if less(other, lowest) then lowest = other end
  end
  r.f = lowest
  forget(r, lowest)
end
local deadline = now + HOLD_MS
r.hp, r.hn = add(r.hp, price), r.hn + 1
if r.he == '0' or deadline < tonumber(r.he) then r.he = integer(deadline) end
if not r.v and r.c ~= r.k then
  ours(holds, KEYS[3])
  index(KEYS[3], id_of(key), amount, r.c, r.k)
end
if not r.v or less(r.v, amount) then r.v, r.g = amount, signature end
if overdue then r.ra, r.rx, r.rq = nil, nil, nil end
r.u = integer(now)
-- First, because it fails when the key is somebody else's.
redis.call('HSET', holds, request, price .. ' ' .. amount .. ' ' .. integer(deadline))
save(key, r)
-- Last, because a server without memory lets a script go on that has begun with freeing some.
drop(holds, expired)
if fingerprint then keep_entry(entry_key, fingerprint, request, now, STARTED_MS) end
return standing(r)
