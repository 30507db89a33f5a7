-- Sets aside what goes back to the payer, under a zero-charge voucher that ends all earlier ones.
-- KEYS  record, holds, channels that owe
-- ARGV  channel id, voucher amount, signature, amount ('' for all that is left), request,
--       ms that it is kept
local key, holds = KEYS[1], KEYS[2]
local id, voucher, signature, amount, request = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local now = now_ms()
local r = load(key, 'b', 'k', 'c', 'v', 'g', 'f', 'w', 'n', 'hp', 'hn', 'he', 'ra', 'rx', 'rq',
  'pv')
if not r then return {'unknown'} end
ours(KEYS[2], KEYS[3])
local set_aside = r.ra and tonumber(r.rx) > now
if set_aside and r.rq == request then return whole('ok', key, holds) end
local expired = without_expired(holds, r, now)
local left = less(r.c, r.b) and sub(r.b, r.c) or '0'
if amount == '' then amount = left end
local reason
if tonumber(r.hn) > 0 or set_aside then
  reason = 'CHANNEL_BUSY'
elseif voucher ~= r.c then
  reason = 'CUMULATIVE_MISMATCH'
elseif left == '0' then
  reason = 'REFUND_NOTHING_LEFT'
elseif amount == '0' or less(left, amount) then
  reason = 'REFUND_AMOUNT'
end
if reason then return refused(reason, key, holds, now) end

local floor = max(r.f, r.v or r.c)
for seen in string.gmatch(r.w, '%d+') do
  floor = max(floor, seen)
end
if not r.v then index(KEYS[3], id, voucher, r.c, r.k) end
-- The highest voucher of before is what shows the payer how far it has signed.
if r.v and less(voucher, r.v) and not (r.pv and less(r.v, r.pv)) then
  redis.call('HSET', key, 'pv', r.v, 'pg', r.g)
end
drop(holds, expired)
redis.call('HSET', key, 'hp', r.hp, 'hn', integer(r.hn), 'he', r.he, 'v', voucher, 'g', signature,
  'w', ' ', 'n', '0', 'f', floor, 'ra', amount, 'rx', integer(now + ARGV[6]), 'rq', request)
return whole('ok', key, holds)
