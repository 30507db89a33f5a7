-- Sets aside what goes back to the payer, under a zero-charge voucher that ends all earlier ones.
-- KEYS  record, holds
-- ARGV  voucher amount, signature, amount ('' for all that is left), request, ms that it is kept
local now = now_ms()
local r = load(KEYS[1], 'b', 'c', 'v', 'f', 'w', 'hp', 'hn', 'he', 'ra', 'rx', 'rq')
if not r then return {'chain'} end
local set_aside = r.ra and tonumber(r.rx) > now
if set_aside and r.rq == ARGV[4] then return {'ok'} end
if drop_expired(KEYS[2], r, now) then
  redis.call('HSET', KEYS[1], 'hp', r.hp, 'hn', r.hn, 'he', r.he)
end
if r.hn ~= '0' or set_aside then return {'refused', 'CHANNEL_BUSY'} end
if ARGV[1] ~= r.c then return {'refused', 'CUMULATIVE_MISMATCH'} end
if not less(r.c, r.b) then return {'refused', 'REFUND_NOTHING_LEFT'} end
local left = sub(r.b, r.c)
local amount = ARGV[3] == '' and left or ARGV[3]
if amount == '0' or less(left, amount) then return {'refused', 'REFUND_AMOUNT'} end
local floor = max(r.f, r.v or r.c)
for _, seen in ipairs(words(r.w)) do
  floor = max(floor, seen)
end
redis.call('HSET', KEYS[1], 'v', ARGV[1], 'g', ARGV[2], 'w', ' ', 'n', '0', 'f', floor,
  'ra', amount, 'rx', integer(now + ARGV[5]), 'rq', ARGV[4])
return {'ok'}
