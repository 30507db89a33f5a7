-- Sets aside what goes back to the payer, under a zero-charge voucher that ends all earlier ones.
-- KEYS  record, holds, channels that owe
-- ARGV  channel id, voucher amount ('' for the one that is known), signature, amount ('' for all that is left), request
local key, holds = KEYS[1], KEYS[2]
local id, voucher, signature, amount, request = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local now = now_ms()
local r, text = load(key)
if not r then return {'unknown'} end
-- These fail, before anything is written, when they are somebody else's.
redis.call('HLEN', holds)
redis.call('ZCARD', KEYS[3])
local set_aside = r.ra and tonumber(r.rx) > now
if set_aside and (r.rq == request or r.rq == '+' .. request) then return whole('ok', r, holds) end
local expired = without_expired(r, holds, now)
local left = less(r.c, r.b) and sub(r.b, r.c) or '0'
if amount == '' then amount = left end
local reason
if tonumber(r.hn) > 0 or set_aside then
  reason = 'CHANNEL_BUSY'
elseif (voucher == '' and (r.v or r.k) or voucher) ~= r.c then
  reason = 'CUMULATIVE_MISMATCH'
elseif left == '0' then
  reason = 'REFUND_NOTHING_LEFT'
elseif amount == '0' or less(left, amount) then
  reason = 'REFUND_AMOUNT'
end
if reason then return refused(reason, text, holds, now) end

-- One that is overdue is made again with this one, under the same nonce.
if r.ra and r.ra ~= '0' then
  amount, request = max(amount, r.ra), '+' .. request
end
local floor = max(r.f, r.v or r.c)
for seen in string.gmatch(r.w, '%d+') do
  floor = max(floor, seen)
end
if voucher ~= '' then
  if not r.v then index(KEYS[3], id, voucher, r.c, r.k) end
  -- The highest voucher of before is what shows the payer how far it has signed.
  local known = string.sub(r.tail, 1, r.v and SIGNATURE or 0)
  local behind = string.sub(r.tail, #known + 1)
  if r.v and less(voucher, r.v) and not (r.pv and less(r.v, r.pv)) then
    behind = known .. string.sub(behind, r.pv and SIGNATURE + 1 or 1)
    r.pv = r.v
  end
  r.v, r.tail = voucher, signature .. behind
end
r.w, r.n, r.f = ' ', 0, floor
r.ra, r.rx, r.rq = amount, integer(now + REFUND_MS), request
save(key, r)
-- Last, because a server without memory lets a script go on that has begun with freeing some.
if #expired > 0 then redis.call('HDEL', holds, unpack(expired)) end
return whole('ok', r, holds)
